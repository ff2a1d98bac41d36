"""`trio-templar tree`: what runs inside a gateway, drawn."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from trio_templar.commands.api_caller import ApiCaller, add_api_options
from trio_templar.commands.command import Command, ExitStatus
from trio_templar.commands.streams import printable

if TYPE_CHECKING:
    from trio_templar.commands.gateway_api import GatewayApi


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how it is shown, and where to ask."""
    parser.add_argument("--json", action="store_true", help="print the JSON of GET /tree")
    add_api_options(parser)


def run(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Draw the tree."""

    async def draw(api: GatewayApi) -> int:
        tree = await api.get("/tree")
        print(json.dumps(tree) if arguments["json"] else "\n".join(drawn(tree)))
        return ExitStatus.DONE

    return ApiCaller(arguments, environment).run(draw)


def drawn(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a drawing of `tree`; tasks that are alike are one line with their number."""
    yield _name(tree)
    yield from _branches(tree, "")


def _branches(tree: Mapping[str, Any], margin: str) -> Iterator[str]:
    children = tree["children"]
    for index, child in enumerate(children):
        last = index == len(children) - 1
        yield f"{margin}{'└─ ' if last else '├─ '}{_name(child)}"
        yield from _branches(child, margin + ("   " if last else "│  "))


def _name(node: Mapping[str, Any]) -> str:
    name = printable(str(node["name"]))
    return f"{name} × {node['count']}" if node["count"] > 1 else name


COMMAND: Final = Command(
    name="tree",
    help="draw the tasks of a running gateway",
    description="Draw the nurseries and tasks of a running gateway as a tree. Tasks that are alike are one line with "
    "their number.",
    add_options=add_options,
    run=run,
    examples="""\
  trio-templar tree
  trio-templar tree --url http://10.0.0.5:8002 --token-file token --json
""",
)
