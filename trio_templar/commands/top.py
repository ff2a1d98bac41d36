"""`trio-templar top`: a running gateway at a glance, again and again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from trio_templar.commands.api_caller import ApiCaller, add_api_options
from trio_templar.commands.command import Command, ExitStatus, count, lacks_extra, seconds

if TYPE_CHECKING:
    from trio_templar.commands.gateway_api import GatewayApi
    from trio_templar.commands.snapshots import Snapshots

DEFAULT_SECONDS: Final = 2.0
DEFAULT_ROWS: Final = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how it is shown, and where to ask."""
    parser.add_argument("--once", action="store_true", help="print one picture and end")
    parser.add_argument("--json", action="store_true", help="print one JSON object on each line instead")
    parser.add_argument(
        "--every",
        type=seconds,
        default=DEFAULT_SECONDS,
        metavar="SECONDS",
        help=f"how often to look [{DEFAULT_SECONDS:g}]",
    )
    parser.add_argument(
        "--rows",
        type=count,
        default=DEFAULT_ROWS,
        metavar="N",
        help=f"connections and rooms to show, at most 1000 [{DEFAULT_ROWS}]",
    )
    add_api_options(parser)


def run(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Show a running gateway until Ctrl-C."""
    caller = ApiCaller(arguments, environment)
    show = _print_json if arguments["json"] else _show()

    async def watch(api: GatewayApi) -> int:
        from trio_templar.commands.snapshots import Snapshots

        snapshots = Snapshots(api, rows=min(arguments["rows"], 1000))
        if arguments["once"]:
            # A rate is a difference: two looks, a moment apart.
            await snapshots.take()
            await snapshots.pause(min(arguments["every"], 1.0))
        await show(snapshots, arguments["every"], once=arguments["once"])
        return ExitStatus.DONE

    return caller.run(watch)


def _show() -> Callable[..., Awaitable[None]]:
    try:
        from trio_templar.commands.screen import show
    except ImportError as error:
        raise lacks_extra("top") from error
    return show


async def _print_json(snapshots: Snapshots, every: float, *, once: bool) -> None:
    while True:
        print(json.dumps(await snapshots.take()), flush=True)
        if once:
            return
        await snapshots.pause(every)


COMMAND: Final = Command(
    name="top",
    help="watch a running gateway",
    description="Show a running gateway's totals, deliveries per second, the connections with the largest backlogs, "
    "and the busiest rooms, until Ctrl-C.",
    add_options=add_options,
    run=run,
    examples="""\
  trio-templar top
  trio-templar top --url http://10.0.0.5:8002 --token-file token --every 5 --rows 20
  trio-templar top --once --json
""",
)
