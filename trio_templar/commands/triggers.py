"""Triggers as `publish` posts them: one, or a stream of lines, each as it comes, in one request.

They are checked here, so that a bad line is named by its place in the input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import trio

from trio_templar.commands.command import CommandError, UsageError
from trio_templar.commands.gateway_api import Answer, GatewayApi
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.rooms import Room
from trio_templar.core.triggers import TriggerReader, to_json
from trio_templar.errors import TriggerError

PATH: Final = "/trigger/"
# The gateway gives each line of a stream a few seconds; an empty line in time keeps a quiet one open.
KEEP_ALIVE_SECONDS: Final = 3.0
NDJSON: Final = {"Content-Type": "application/x-ndjson"}

# How large a publication may be is for the gateway to say: its settings may not be ours.
_reader = TriggerReader(DIALECTS["2"], 2**40, 2**40)


def trigger_body(rooms: Sequence[Room], data: bytes) -> bytes:
    """Return the JSON of a trigger. Raises TriggerError: if `data` is not JSON."""
    return b'{"rooms":%b,"data":%b}' % (msgspec.json.encode(rooms), to_json(msgspec.Raw(data)))


class Lines:
    """Bytes in, triggers out, one a line; with `rooms` a line is data for them. `error` says what was bad."""

    def __init__(self, rooms: Sequence[Room], max_bytes: int) -> None:
        self._rooms = rooms
        self._max_bytes = max_bytes
        self._rest = b""
        self._number = 0
        self.error = ""

    def feed(self, data: bytes) -> bytes:
        """Return the triggers of the lines that are whole now; no `data` is the end of the last one."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if not data:
            whole.append(self._rest)
        if len(self._rest) > self._max_bytes:
            whole.append(self._rest)
        return b"".join(self._triggers(whole))

    def _triggers(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        for line in lines:
            self._number += 1
            if not line.strip():
                continue
            try:
                yield self._checked(line) + b"\n"
            except TriggerError as error:
                self.error = f"line {self._number}: {error}"
                return

    def _checked(self, line: bytes) -> bytes:
        if len(line) > self._max_bytes:
            raise TriggerError(f"over {self._max_bytes} bytes (max_trigger_bytes)")
        if self._rooms:
            return trigger_body(self._rooms, line)
        _reader.read_line(line)
        return line


async def publish_stream(
    api: GatewayApi, read: Callable[[], bytes], lines: Lines, headers: Mapping[str, str]
) -> Answer:
    """Publish the `lines` of what `read` returns, in a thread, until that is nothing.

    Raises CommandError: if a line is bad, or the gateway does not take one; the text says which, and how many it took.
    """
    send, receive = trio.open_memory_channel[bytes](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read, read, lines, send)
        answer = await _post(api, _Chunks(receive), {**headers, **NDJSON})
        nursery.cancel_scope.cancel()
    if isinstance(answer, CommandError):  # raised inside, it would come as a group
        raise answer
    if lines.error:
        raise UsageError(f"{lines.error}; published {_published(answer.content)}")
    return answer


async def _post(api: GatewayApi, chunks: _Chunks, headers: Mapping[str, str]) -> Answer | CommandError:
    try:
        return await api.post_stream(PATH, chunks, headers)
    except CommandError as error:
        return CommandError(error.status, _by_trigger(str(error)))


async def _read(read: Callable[[], bytes], lines: Lines, send: trio.MemorySendChannel[bytes]) -> None:
    async with send:
        more = True
        while more and not lines.error:
            data = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            more = bool(data)
            triggers = lines.feed(data)
            if triggers:
                await send.send(triggers)


class _Chunks:
    """What `receive` has, and an empty line where it has nothing for a while."""

    def __init__(self, receive: trio.MemoryReceiveChannel[bytes]) -> None:
        self._receive = receive

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        with trio.move_on_after(KEEP_ALIVE_SECONDS):
            try:
                return await self._receive.receive()
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
        return b"\n"


def _published(answer: Any) -> str:
    """Return how many triggers were: said in words, or in a report."""
    return str(answer["published"]) if isinstance(answer, dict) else str(answer).rpartition(": ")[2]


def _by_trigger(text: str) -> str:
    """Return an error of the gateway by the number of the trigger: it counts lines that we did not read."""
    found = re.search(r"line \d+: (.*; published (\d+))", text)
    return f"{text[: found.start()]}trigger {int(found[2]) + 1}: {found[1]}" if found else text
