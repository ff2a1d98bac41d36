"""`trio-templar publish`: post a trigger, or a stream of them."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from trio_templar.commands.api_caller import ApiCaller, add_api_options
from trio_templar.commands.command import Command, ExitStatus, UsageError, count
from trio_templar.commands.streams import printable
from trio_templar.core.rooms import Room
from trio_templar.core.triggers import to_json
from trio_templar.errors import TriggerError

if TYPE_CHECKING:
    from trio_templar.commands.gateway_api import Answer, GatewayApi

STDIN: Final = "-"
EXAMPLE_ROOM: Final = """'{"target": "news"}'"""
READ_BYTES: Final = 65_536
JSON_TYPE: Final = {"Content-Type": "application/json"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is published, and where."""
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help="a room, which is a JSON object in quotes")
    parser.add_argument("--data", metavar="JSON", help="the data, as JSON")
    parser.add_argument("--file", metavar="FILE", help="read the data from a file, or with - from standard input [-]")
    parser.add_argument(
        "--stream",
        action="store_true",
        help='publish each line when it comes; it is the data for the ROOMs, or without them {"rooms": […], "data": …}',
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object that reports what became of it")
    parser.add_argument(
        "--wait", type=count, metavar="SECONDS", help="wait at most so long until the kernel has it for every client"
    )
    parser.add_argument(
        "--key", help="an idempotency key: a trigger with a key that came before is not published again"
    )
    add_api_options(parser)


def run(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Publish."""
    caller = ApiCaller(arguments, environment)
    rooms = read_rooms(arguments["rooms"])
    headers = _headers(arguments)
    source = _open(arguments)
    # Data is read before Trio runs: a pipe may take its time, and no connection has to wait for it.
    body = b"" if arguments["stream"] else _trigger(rooms, arguments, source)
    from trio_templar.commands.triggers import PATH, Lines, publish_stream  # it wants Trio

    async def call(api: GatewayApi) -> int:
        if arguments["stream"]:
            read = partial(read_some, source, _name(arguments))
            answer = await publish_stream(api, read, Lines(rooms, caller.settings.max_trigger_bytes), headers)
        else:
            answer = await api.post(PATH, body, headers | JSON_TYPE)
        print(_report(answer) if arguments["json"] else printable(said(answer.content)))
        return ExitStatus.DONE

    return caller.run(call, wait_seconds=arguments["wait"] or 0)


def _headers(arguments: Mapping[str, Any]) -> dict[str, str]:
    headers = {
        "Accept": "application/json",
        "Prefer": f"wait={arguments['wait']}" if arguments["wait"] else "",
        "Idempotency-Key": arguments["key"] or "",
    }
    return {name: value for name, value in headers.items() if value}


def read_rooms(texts: Sequence[str]) -> list[Room]:
    """Return the rooms that arguments are. Raises CommandError: if one is no JSON object; the text says which."""
    rooms: list[Room] = []
    for number, text in enumerate(texts, 1):
        try:
            rooms.append(msgspec.json.decode(to_json(msgspec.Raw(text.encode())), type=dict[str, Any]))
        except (TriggerError, msgspec.MsgspecError, UnicodeError) as error:
            raise UsageError(f"ROOM {number}: {text!r} is not a JSON object, as {EXAMPLE_ROOM} is: {error}") from error
    return rooms


def _open(arguments: Mapping[str, Any]) -> int:
    """Return the descriptor that data is read from; -1 where it is in an argument."""
    path = arguments["file"]
    if not arguments["rooms"] and not arguments["stream"]:
        raise UsageError("publish to which ROOM? Give one, or --stream")
    if arguments["data"] is not None:
        if path is not None or arguments["stream"]:
            raise UsageError("--data: not together with --file or --stream")
        return -1
    if path not in (None, STDIN):
        try:
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.pread(source, 0, 0)  # a directory can be opened, but not read
        except OSError as error:
            if error.errno != errno.ESPIPE:
                raise UsageError(f"--file {path}: {error.strerror}") from error
        return source
    if sys.stdin is None or (path is None and sys.stdin.isatty()):
        raise UsageError("publish what? Give --data, --file, or pipe it in")
    return sys.stdin.fileno()


def _name(arguments: Mapping[str, Any]) -> str:
    return f"--file {arguments['file']}" if arguments["file"] not in (None, STDIN) else "standard input"


def _trigger(rooms: Sequence[Room], arguments: Mapping[str, Any], source: int) -> bytes:
    """Return the body of one trigger. Raises CommandError: if its data is no JSON; the text says where from."""
    if source < 0:
        where, data = "--data", arguments["data"].encode(errors="surrogateescape")
    else:
        where = _name(arguments)
        data = _read_all(source, where)
    from trio_templar.commands.triggers import trigger_body

    try:
        return trigger_body(rooms, data)
    except TriggerError as error:
        # A shell takes the quotes of "text" away, so that what comes here is no JSON.
        bare = source < 0 and data.strip()[:1] not in (b"", b"{", b"[", b'"')
        hint = """; a text needs quotes of its own: --data '"text"'""" if bare else ""
        raise UsageError(f"{where}: {error}{hint}") from error


def _read_all(source: int, where: str) -> bytes:
    parts = []
    while part := read_some(source, where):
        parts.append(part)
    return b"".join(parts)


def read_some(source: int, where: str) -> bytes:
    """Return what comes next, empty at the end. Raises CommandError: if it cannot be read."""
    try:
        # Without Python's buffers: a thread that is left behind in a read would hold their lock at the end.
        return os.read(source, READ_BYTES)
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}") from error


def said(content: Any) -> str:
    """Return what became of a trigger, or of a stream of them, in words; to nobody is a success too."""
    if not isinstance(content, dict):
        return str(content)
    if "published" in content:
        return f"publish success: {content['published']}, {_count(content['subscriptions'], 'delivery', 'deliveries')}"
    reached = sum(room["subscriptions"] for room in content["rooms"])
    return f"publish success, to {_count(reached, 'subscriber', 'subscribers')}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _report(answer: Answer) -> str:
    return json.dumps({"answer": answer.content, "seconds": round(answer.seconds, 6)})


COMMAND: Final = Command(
    name="publish",
    help="post a trigger",
    usage="trio-templar publish [OPTION …] ROOM … [--data JSON | --file FILE | < FILE]\n"
    "       trio-templar publish [OPTION …] --stream [ROOM …] [--file FILE | < FILE]",
    description="Publish data to rooms through the HTTP API of a running gateway. Address and token are those of the "
    "gateway's settings (environment, --config), unless an option gives others.",
    add_options=add_options,
    run=run,
    examples="""\
  trio-templar publish '{"target": "car", "car": 7}' --data '{"name": "Beetle"}'
  trio-templar publish '{"target": "news"}' --file news.json --url http://10.0.0.5:8002 --token-file token
  tail -f events.ndjson | trio-templar publish --stream '{"target": "events"}'
""",
)
