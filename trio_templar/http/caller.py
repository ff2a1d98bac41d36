"""One caller of the HTTP API, answered by hypercorn's HTTP/1.1. The only module that knows hypercorn.

We accept, read and write for it, with deadlines: `hypercorn.trio.serve` logs a traceback ten times a second when
descriptors run out, and shields writes to a caller that does not read. There is no HTTP/2 and no upgrade: an `Upgrade`
header is ignored.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from trio_templar.http.exchange import Exchange
from trio_templar.net.http_head import plain_response
from trio_templar.net.sockets import peer_of, reset_on_close
from trio_templar.net.wire import wire_for

logger = logging.getLogger("trio_templar.http_server")  # operators filter by it; the name is older than the module's

# How long a caller may be connected without a whole request head: from its accept, and from each answer.
IDLE_SECONDS: Final = 60.0
# How long a caller may take to take an answer.
ANSWER_SECONDS: Final = 30.0
GIVES_WAY: Final = "others need the place of a request head that is not whole (max_callers)"
READ_BYTES: Final = 65_536

# An ASGI app; its messages are whatever ASGI says.
App = Callable[..., Awaitable[None]]
Put = Callable[[Any], Awaitable[None]]


class Shared:
    """What all callers of one server share. `idle` are those without a request, the longest idle first."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.idle: dict[Caller, None] = {}
        self.context = WorkerContext(None)
        self.config = Config()
        self.config.errorlog = self.config.accesslog = None  # else hypercorn installs log handlers of its own
        self.config.include_server_header = False
        self.config.keep_alive_max_requests = 2**62  # 1000 otherwise

    @property
    def is_stopping(self) -> bool:
        """Whether the request under way of a caller is its last."""
        return self.context.terminated.is_set()

    async def stop(self) -> None:
        """Make the request under way of each caller its last."""
        await self.context.terminated.set()


class Caller:
    """One caller: the reading and writing around hypercorn's protocol, which runs the app in a task of its own."""

    def __init__(self, shared: Shared, stream: trio.abc.Stream) -> None:
        self._shared = shared
        self._stream = stream
        self._wire = wire_for(stream)
        self._reading = trio.CancelScope()
        self._writing = trio.Lock()
        self.gives_way = False
        self._nursery: trio.Nursery
        self._protocol: _Protocol

    async def serve(self) -> None:
        """Answer requests until the caller ends, is ended, or sends none in time."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._protocol = _Protocol(self, self._shared, (peer_of(self._stream)[0], 0))
                self._be_idle()
                with self._reading:
                    await self._read()
                self._shared.idle.pop(self, None)
                await self._give_up_half_a_head()
                await self._protocol.handle(Closed())
        finally:
            self._shared.idle.pop(self, None)
            del self._protocol, self._nursery  # they point at us, and the garbage collector seldom runs

    async def _give_up_half_a_head(self) -> None:
        if self._reading.cancelled_caught and self._protocol.connection.has_half_a_head and not self._is_stopping:
            late = trio.current_time() >= self._reading.deadline
            why = f"no whole request head within {IDLE_SECONDS:g} s" if late else GIVES_WAY
            await self.write(plain_response(408, why))

    async def _read(self) -> None:
        while True:
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            await self._protocol.handle(RawData(bytes(data)))
            if not data:  # it may have closed its half alone, and still gets its answer
                return

    def end(self) -> None:
        """Read nothing more; what is under way is answered."""
        self._reading.cancel()

    def give_way(self) -> None:
        """End an idle caller whose place is needed now: its socket is to be closed at once, and not to linger."""
        self.gives_way = True
        self._shared.idle.pop(self)
        self.end()

    async def send(self, event: Event) -> None:
        """Do what hypercorn says: write, close, or take note of where a request begins and ends."""
        match event:
            case RawData(data=data):
                await self.write(data)
            case Updated(idle=True):
                self._be_idle()
            case Updated():
                self._shared.idle.pop(self, None)
                self._reading.deadline = math.inf
            case Closed():
                self.end()

    async def write(self, data: bytes) -> None:
        """Write `data`. A caller that has left, or does not take it in time, is ended."""
        try:
            sent = 0 if self._writing.locked() else self._wire.write_nowait(data)
            if sent < len(data):
                async with self._writing:
                    await send_in_time(self._stream, data[sent:])
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.end()

    # What hypercorn starts apps with: hypercorn.typing.TaskGroup

    async def spawn_app(self, app: App, config: Config, scope: Any, send: Put) -> Put:
        """Run `app` for one request in a task; return what takes its ASGI messages."""
        scope["method"] = self._protocol.connection.method  # hypercorn changes its case (RFC 9110, 9.1)
        messages, received = trio.open_memory_channel[Any](config.max_app_queue_size)
        self._nursery.start_soon(self._run_app, app, scope, received, send)

        async def put(message: Any) -> None:
            if message["type"] == "http.disconnect":
                messages.close()  # the app itself says it when it has answered, and would wait for itself to take it
                return
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the app needs no more of the body
                await messages.send(message)

        return put

    async def _run_app(self, app: App, scope: Any, received: trio.MemoryReceiveChannel[Any], send: Put) -> None:
        async def receive() -> Any:
            await self._protocol.ask_for_body()
            try:
                return await received.receive()
            except trio.EndOfChannel:
                return {"type": "http.disconnect"}

        with received:  # hypercorn never closes it, and would wait for ever to tell an app more that has ended
            try:
                await app(scope, receive, send)
            except Exception:
                logger.exception("an HTTP connection crashed")
            await send(None)  # the app's end: a 500 if it has not answered

    @property
    def _is_stopping(self) -> bool:
        return self._shared.is_stopping

    def _be_idle(self) -> None:
        self._shared.idle[self] = None
        self._reading.deadline = trio.current_time() + IDLE_SECONDS
        if self._is_stopping:
            self.end()


class _Protocol(H11Protocol):
    """hypercorn's side of one caller."""

    connection: Exchange  # type: ignore[assignment]  # it has what is used of h11's

    def __init__(self, caller: Caller, shared: Shared, peer: tuple[str, int]) -> None:
        app: Any = shared.app
        tasks: Any = caller
        state = ConnectionState({})
        super().__init__(app, shared.config, shared.context, tasks, state, False, peer, None, caller.send)
        self._caller = caller
        self._response = b""
        self.connection = Exchange()

    async def ask_for_body(self) -> None:
        """Ask the caller for its body, if it waits for that."""
        if self.connection.waits_for_us:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def stream_send(self, event: Any) -> None:
        """Pass `event` on; the last response says that it is the last (RFC 9112, 9.6)."""
        if isinstance(event, Response) and self._is_last:
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    @property
    def _is_last(self) -> bool:
        return self.context.terminated.is_set() or self.connection.their_state is h11.SEND_BODY

    async def _check_protocol(self, event: Any) -> None:
        """Do nothing, where hypercorn would change to HTTP/2."""

    async def _send_h11_event(self, event: Any) -> None:
        """Write a response in one write, where hypercorn makes three: its head, its body, and nothing."""
        if self.connection.fault:  # it is answered already
            return
        self._response += self.connection.send(event) or b""
        if self._response and not isinstance(event, h11.Response):  # its head waits for its body
            data, self._response = self._response, b""
            await self.send(RawData(data))

    async def _send_error_response(self, status_code: int) -> None:
        await self._caller.write(plain_response(status_code, self.connection.fault))

    async def _maybe_recycle(self) -> None:
        """Go on with the next request, which may be there already, or close."""
        await self._close_stream()
        connection = self.connection
        if self._is_last or not connection.our_state is connection.their_state is h11.DONE:
            await self.can_read.set()
            await self.send(Closed())
            return
        left, _ = connection.trailing_data
        self.connection = Exchange()
        self.connection.receive_data(left)
        await self.send(Updated(idle=True))
        await self.can_read.set()


async def send_in_time(stream: trio.abc.Stream, data: bytes) -> None:
    """Send `data`. Raises BrokenResourceError: if it is not taken within ANSWER_SECONDS; closing is a reset then."""
    with trio.move_on_after(ANSWER_SECONDS):
        await stream.send_all(data)
        return
    reset_on_close(stream)
    raise trio.BrokenResourceError
