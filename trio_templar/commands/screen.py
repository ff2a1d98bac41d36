"""The picture of `trio-templar top`. Knows rich; import it once it is to be shown."""

from __future__ import annotations

import json
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trio_templar.commands.command import CommandError, ExitStatus
from trio_templar.commands.snapshots import Snapshots
from trio_templar.commands.streams import printable

# A pipe has no width; this takes what a terminal might cut off.
PIPED_WIDTH: Final = 160


async def show(snapshots: Snapshots, every: float, *, once: bool) -> None:
    """Show snapshots: one below what was printed before, or for ever in place of the screen.

    Raises CommandError: if the gateway does not answer the first time; later that is shown until it does again.
    """
    console = Console(highlight=False)  # rich colours what looks like a number or a path, in users' names too
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    first = picture(await snapshots.take())
    if once:
        console.print(first)
        return
    with Live(first, console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            live.refresh()
            await snapshots.pause(every)
            try:
                live.update(picture(await snapshots.take()))
            except CommandError as error:
                if error.status not in (ExitStatus.UNREACHABLE, ExitStatus.BUSY):
                    raise
                live.update(Text(printable(str(error)), style="bold red"))


def picture(snapshot: dict[str, Any]) -> Group:
    """Return what a terminal shows of a snapshot. What clients and rooms say of themselves is text, never markup."""
    return Group(_totals(snapshot), Text(), _connections(snapshot["connections"]), Text(), _rooms(snapshot["rooms"]))


def _totals(snapshot: dict[str, Any]) -> Text:
    status, rates = snapshot["status"], snapshot["per_second"]
    memory, kept = status["memory"], status["history"]
    text = Text.assemble(
        (f"trio-templar {printable(status['version'])}", "bold"),
        f"  up {duration(status['uptime_seconds'])}",
        ("  draining" if status["draining"] else "", "bold yellow"),
        f"\n{status['connections']:,} connections  {status['rooms']:,} rooms",
        f"  {status['subscriptions']:,} subscriptions",
        f"\n{_rate(rates['triggers'])} triggers/s  {_rate(rates['deliveries'])} deliveries/s",
        f"\n{size(status['waiting_bytes'])} wait, memory {size(memory['used_bytes'])} of {size(memory['hard_bytes'])}",
        f"\n{kept['publications']:,} publications kept, {size(kept['bytes'])}, of {duration(kept['span_seconds'])}",
    )
    for title, counts, style in (
        ("came back", status["recoveries"], ""),
        ("closed as too slow", status["drops"], "yellow"),
        ("messages refused", status["client_errors"], "yellow"),
    ):
        found = [f"{cause} {number:,}" for cause, number in counts.items() if number]
        if found:
            text.append(f"\n{title}: {printable(', '.join(found))}", style)
    return text


def _connections(connections: list[dict[str, Any]]) -> Table:
    table = _table(
        "connections, most waiting first", "id", "user", "peer", ">waits", ">frames", ">oldest", ">sent", ">age"
    )
    for one in connections:
        table.add_row(
            Text(printable(one["id"][:8])),
            _plain(one["user"]),
            Text(printable(one["peer"])),
            Text(size(one["waiting_bytes"]), "bold red" if one["waiting_bytes"] else ""),
            Text(f"{one['waiting_frames']:,}"),
            Text("" if one["oldest_seconds"] is None else f"{one['oldest_seconds']:.1f} s"),
            Text(size(one["sent_bytes"])),
            Text(duration(one["age_seconds"])),
        )
    return table


def _rooms(rooms: list[dict[str, Any]]) -> Table:
    table = _table("rooms, busiest first", "room", ">subscribers", ">per second", ">publications", ">wait", ">kept")
    for one in rooms:
        counts = (f"{one[name]:,}" for name in ("publications", "channel", "kept"))
        numbers = (f"{one['subscribers']:,}", _rate(one["rate"]), *counts)
        table.add_row(_plain(one["room"]), *map(Text, numbers))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), expand=False)
    for column in columns:
        numbers = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if numbers else "left", no_wrap=True)
    return table


def _plain(value: Any) -> Text:
    if isinstance(value, str) and value.isprintable():
        return Text(value)
    return Text(printable(json.dumps(value, ensure_ascii=False)))


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


def size(number: float) -> str:
    """Return a number of bytes in few letters."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def duration(seconds: float) -> str:
    """Return a time in its two largest units."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    if hours:
        return f"{hour} h {minute} min"
    return f"{minute} min {second} s" if minutes else f"{second} s"
