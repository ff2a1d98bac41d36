"""A stream of triggers, posted line by line as they come, in one request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from trio_templar.commands.command import CommandError, Status
from trio_templar.commands.gateway_api import Answer, GatewayApi
from trio_templar.commands.trigger_lines import PATH, Lines

# The gateway gives each line of a stream a few seconds; an empty line in time keeps a quiet one open.
KEEP_ALIVE_SECONDS: Final = 3.0
NDJSON: Final = {"Content-Type": "application/x-ndjson"}


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
        raise CommandError(Status.USAGE, f"{lines.error}; published {_published(answer.content)}")
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
