"""`trio-templar listen`: be a client, and print what comes."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import msgspec

from trio_templar.commands.addresses import Address, websocket_address
from trio_templar.commands.command import (
    Command,
    UsageError,
    add_connection_options,
    count,
    given_token,
    run_on_trio,
    seconds,
)
from trio_templar.commands.printer import Printer
from trio_templar.commands.publish import read_rooms
from trio_templar.commands.settings_sources import read_settings
from trio_templar.commands.streams import printable

# What a header may be called (RFC 9110, 5.6.2), and those that the upgrade itself consists of.
NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
KILLS: Final = (signal.SIGTERM, signal.SIGHUP)
OURS: Final = re.compile(r"host|upgrade|connection|sec-websocket-.*", re.IGNORECASE)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add who listens, to what, and where."""
    parser.add_argument(
        "rooms",
        nargs="*",
        metavar="ROOM",
        help="a room, which is a JSON object in quotes [all allowed rooms without a *]",
    )
    parser.add_argument("--rooms", dest="show_rooms", action="store_true", help="print the allowed rooms and end")
    parser.add_argument(
        "--cookie", metavar="NAME=VALUE", action="append", help="a cookie that says who you are; repeatable"
    )
    parser.add_argument("--token", help="the token that says who you are, sent as ?token=TOKEN")
    parser.add_argument("--token-file", metavar="FILE", help="file whose first line is that token")
    parser.add_argument("--header", metavar="NAME:VALUE", action="append", help="any other header; repeatable")
    parser.add_argument("--count", type=count, metavar="N", help="end after N publications")
    parser.add_argument("--seconds", type=seconds, metavar="SECONDS", help="end after so many seconds")
    parser.add_argument(
        "--reconnect", action="store_true", help="connect again when the connection ends, and get what was missed"
    )
    parser.add_argument(
        "--since",
        nargs="?",
        type=position,
        default=msgspec.UNSET,
        metavar="POSITION",
        help="print the position of each publication; begin behind POSITION, which an earlier one had [now]",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON objects, one on each line, with time, room, and data or lost"
    )
    parser.add_argument("--quiet", action="store_true", help="print only errors on standard error")
    parser.add_argument("--config", metavar="FILE", help="the gateway's TOML file, for its bind and path")
    parser.add_argument("--url", help="the gateway, as ws://HOST:PORT/PATH, wss://… or unix:PATH [that of bind]")
    add_connection_options(parser)


def position(text: str) -> str:
    """Return a position as it is. Raises argparse.ArgumentTypeError: if it is a room, which may stand behind it."""
    if text.lstrip().startswith("{"):
        raise argparse.ArgumentTypeError(f"{text!r} is a room and no position: put --since behind the rooms")
    return text


def run(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Listen."""
    settings = read_settings({"config": arguments["config"]}, environment)
    address = _with_token(websocket_address(arguments["url"], settings), arguments)
    rooms = read_rooms(arguments["rooms"])
    headers = _headers(arguments)
    from trio_templar.commands.connecting import connect  # these want Trio
    from trio_templar.commands.subscriber import Subscriber

    def note(text: str) -> None:
        if not arguments["quiet"]:
            print(f"trio-templar: {printable(text)}", file=sys.stderr, flush=True)

    since = arguments["since"]
    printer = Printer(
        partial(print, flush=True),
        note,
        as_json=arguments["json"],
        count=arguments["count"],
        shows_positions=since is not msgspec.UNSET,
    )
    subscriber = Subscriber(
        partial(connect, address, headers, arguments["ca"] or "", arguments["timeout"]),
        printer,
        rooms,
        name=address.url.partition("?")[0] if not address.socket else str(address),
        reconnect=arguments["reconnect"],
        since=since,
    )
    if arguments["show_rooms"]:
        return run_on_trio(subscriber.show_rooms)
    return run_on_trio(partial(_until_killed, partial(subscriber.listen, arguments["seconds"])))


async def _until_killed(main: Callable[[], Awaitable[int]]) -> int:
    """Run `main`; SIGTERM or SIGHUP cancels it, which says goodbye, and then ends the process as it always does.

    A second one ends the process at once, also where it is stuck because nobody reads its output.
    """
    import trio

    # Not open_signal_receiver: it hands signals to a task, which cannot run while a print waits for its reader.
    token = trio.lowlevel.current_trio_token()
    caught: list[int] = []

    def cancel(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        caught.append(number)
        token.run_sync_soon(scope.cancel)

    # One that is ignored (nohup) stays so.
    ours = [number for number in KILLS if signal.getsignal(number) is signal.SIG_DFL]
    try:
        with trio.CancelScope() as scope:
            for number in ours:
                signal.signal(number, cancel)
            return await main()
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(caught[0])
    return 128 + caught[0]


def _with_token(address: Address, arguments: Mapping[str, Any]) -> Address:
    token = given_token(arguments)
    if not token:
        return address
    return Address(f"{address.url}{'&' if '?' in address.url else '?'}token={quote(token, safe='')}", address.socket)


def _headers(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the headers of the options, in Latin-1. Raises UsageError: if one is no header, or is ours to set."""
    headers = [("Cookie", "; ".join(arguments["cookie"]))] if arguments["cookie"] else []
    for text in arguments["header"] or ():
        name, colon, value = text.partition(":")
        if not colon or not NAME.fullmatch(name.strip()):
            shown = name.partition(" ")[0].partition("=")[0]  # what follows may be a secret
            raise UsageError(f"--header: {shown!r} is not NAME:VALUE")
        if OURS.fullmatch(name.strip()):
            raise UsageError(f"--header: {name.strip()} cannot be set: it is a part of the websocket handshake")
        headers.append((name.strip(), value.strip()))
    for name, value in headers:
        if not (name + value).isprintable() or not (name + value).isascii():
            raise UsageError(f"--header or --cookie: {name}: only printable ASCII can be sent")
    return headers


COMMAND: Final = Command(
    name="listen",
    help="subscribe and print what comes",
    usage="trio-templar listen [OPTION …] [ROOM …]",
    description="Connect as a browser would, subscribe to rooms, and print one line for each publication: its data, "
    "after its room if there are several. Both dialects are understood.",
    add_options=add_options,
    run=run,
    examples="""\
  trio-templar listen '{"target": "car", "car": 7}' --cookie sessionid=8d3f…
  trio-templar listen --rooms --url wss://example.com/ws/ --token-file token
  trio-templar listen '{"target": "car", "car": 7}' --token ada --count 1 --seconds 10 --json
  trio-templar listen '{"target": "car", "car": 7}' --token ada --reconnect --since
""",
)
