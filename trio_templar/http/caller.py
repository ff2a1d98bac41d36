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

from trio_templar.net.http_head import Head, HeadError, HeadParser, plain_response
from trio_templar.net.sockets import peer_of, reset_on_close
from trio_templar.net.wire import wire_for

logger = logging.getLogger("trio_templar.http_server")

# How long a caller may be connected without a whole request head: at first, and after each answer.
IDLE_SECONDS: Final = 60.0
# How long a caller may take to take an answer.
ANSWER_SECONDS: Final = 30.0
GIVES_WAY: Final = "others need the place of a request head that is not whole (max_callers)"
MAX_HEAD_BYTES: Final = 16_384
READ_BYTES: Final = 65_536

# An ASGI app; its messages are whatever ASGI says.
App = Callable[..., Awaitable[None]]
Put = Callable[[Any], Awaitable[None]]


class Shared:
    """What all callers of one server share; `idle` are those that wait for a request, the longest first."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.idle: dict[Caller, None] = {}
        self.context = WorkerContext(None)
        self.config = Config()
        self.config.errorlog = self.config.accesslog = None
        self.config.include_server_header = False
        self.config.keep_alive_max_requests = 2**62  # 1000 otherwise

    @property
    def is_stopping(self) -> bool:
        """Whether a request under way is the last of its caller."""
        return self.context.terminated.is_set()

    async def stop(self) -> None:
        """Let each request under way be the last of its caller."""
        await self.context.terminated.set()


class Caller:
    """One caller: the reading and writing around hypercorn's protocol, which runs the app in a task of its own."""

    def __init__(self, shared: Shared, stream: trio.abc.Stream) -> None:
        self._shared = shared
        self._stream = stream
        self._wire = wire_for(stream)
        self._reading = trio.CancelScope()
        self._writing = trio.Lock()
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
            del self._protocol, self._nursery  # they point at us, and the collector seldom runs

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
            if not data:  # it may still listen
                return

    def end(self) -> None:
        """Read nothing more; what is under way is answered."""
        self._reading.cancel()

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
        """Write `data`; to a caller that has left, or takes nothing in time, no more is said."""
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


class _Connection:
    """One request, in the place of h11's connection: with a checked head, and a body that is not asked for at once.

    hypercorn asks for it (100) as soon as the head is there, but a caller that is refused anyway is not asked
    (RFC 9110, 10.1.1).
    """

    def __init__(self) -> None:
        self._parser = HeadParser(MAX_HEAD_BYTES)
        self._h11 = self._parser.connection
        self._arrived = b""
        self._is_whole = False
        self.method = self.fault = ""
        self.they_are_waiting_for_100_continue = False  # not where hypercorn looks

    @property
    def has_half_a_head(self) -> bool:
        """Whether a head has begun, and could still become a good one."""
        return self._parser.begun and not self._is_whole and not self.fault

    @property
    def waits_for_us(self) -> bool:
        """Whether the caller sends its body when it is asked to."""
        return self._h11.they_are_waiting_for_100_continue

    @property
    def our_state(self) -> Any:
        """h11's."""
        return self._h11.our_state

    @property
    def their_state(self) -> Any:
        """h11's."""
        return self._h11.their_state

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """What came behind the request, and whether that is all."""
        return self._h11.trailing_data

    def receive_data(self, data: bytes) -> None:
        """Take what the caller sent, nothing at its end."""
        if self._is_whole:
            self._h11.receive_data(data)
        else:
            self._arrived += data

    def next_event(self) -> Any:
        """Return what came next. Raises h11.RemoteProtocolError: if it is no HTTP; `fault` says what is wrong."""
        try:
            if self._is_whole:
                return self._h11.next_event()
            data, self._arrived = self._arrived, b""
            head = self._parser.feed(data)
        except HeadError as error:
            self.fault = str(error)
            raise h11.RemoteProtocolError(self.fault, error_status_hint=error.status) from error
        except h11.RemoteProtocolError as error:
            self.fault = "a malformed body"
            raise error.with_traceback(None) from None  # as in `HeadParser.feed`
        if head is None:
            return h11.NEED_DATA
        self._is_whole = True
        self.method = head.method.decode()
        return self._request(head)

    def _request(self, head: Head) -> h11.Request:
        """Return `head` for hypercorn, which would take an upgrade for its own."""
        request = self._parser.request
        assert request is not None
        if head.target == request.target and head.header(b"upgrade") is None:
            return request
        headers = [(name, value) for name, value in head.headers if name != b"upgrade"]
        return h11.Request(method=head.method, target=head.target, headers=headers, http_version=head.version)

    def send(self, event: Any) -> bytes | None:
        """Return the bytes of `event`."""
        data: bytes | None = self._h11.send(event)
        return data


class _Protocol(H11Protocol):
    """hypercorn's side of one caller."""

    connection: _Connection  # type: ignore[assignment]  # it has what is used of h11's

    def __init__(self, caller: Caller, shared: Shared, peer: tuple[str, int]) -> None:
        app: Any = shared.app
        tasks: Any = caller
        state = ConnectionState({})
        super().__init__(app, shared.config, shared.context, tasks, state, False, peer, None, caller.send)
        self._caller = caller
        self._response = b""
        self.connection = _Connection()

    async def ask_for_body(self) -> None:
        """Ask a caller for its body that waits for that."""
        if self.connection.waits_for_us:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def stream_send(self, event: Any) -> None:
        """Say in the last response that it is the last (RFC 9112, 9.6)."""
        if isinstance(event, Response) and self._is_last:
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    @property
    def _is_last(self) -> bool:
        return self.context.terminated.is_set() or self.connection.their_state is h11.SEND_BODY

    async def _check_protocol(self, event: Any) -> None:
        """Leave it at HTTP/1.1."""

    async def _send_h11_event(self, event: Any) -> None:
        """Write a response in one piece, where hypercorn would write its head, its body and nothing."""
        if self.connection.fault:  # that is answered already
            return
        self._response += self.connection.send(event) or b""
        if isinstance(event, h11.EndOfMessage | h11.InformationalResponse):
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
        self.connection = _Connection()
        self.connection.receive_data(left)
        await self.send(Updated(idle=True))
        await self.can_read.set()


async def send_in_time(stream: trio.abc.Stream, data: bytes) -> None:
    """Send `data`. Raises BrokenResourceError: if it is not taken in time."""
    with trio.move_on_after(ANSWER_SECONDS):
        await stream.send_all(data)
        return
    reset_on_close(stream)
    raise trio.BrokenResourceError
