"""HTTP/1.1 for an ASGI app: callers of one gateway, one task each, every wait with a deadline.

h11 has the grammar (see `http_head`). There is no HTTP/2 and no upgrade: an `Upgrade` header is ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import h11
import trio

from trio_templar.http_head import Head, HeadError, HeadParser, date, plain_response
from trio_templar.log import log
from trio_templar.machine import descriptor_limit
from trio_templar.sockets import accept_loop, hang_up, peer_of, reset_on_close
from trio_templar.wire import wire_for

logger = logging.getLogger("trio_templar.http_server")

# How long a caller may be connected without a whole request head: at first, and after each answer.
IDLE_SECONDS: Final = 60.0
# How long a caller may take to take an answer.
ANSWER_SECONDS: Final = 30.0
# How long a caller that got its last answer may take to end: closing at once could take the answer from it
# (RFC 9112, 9.6).
LINGER_SECONDS: Final = 1.0
MAX_HEAD_BYTES: Final = 16_384
READ_BYTES: Final = 65_536
# Callers take at most one in so many descriptors; more than may be there are told so, up to so many.
DESCRIPTORS_SHARE: Final = 4
TOLD_CALLERS: Final = 16
# Those that are told in this time share a log line.
QUIET_SECONDS: Final = 10.0

App = Callable[..., Awaitable[None]]
Message = MutableMapping[str, Any]


async def serve_http(
    app: App,
    listeners: Iterable[trio.abc.Listener[trio.abc.Stream]],
    stopped: Callable[[], Awaitable[None]],
    grace_seconds: float,
    max_callers: int = 1000,
) -> None:
    """Serve an ASGI app on `listeners` until `stopped` returns, then let requests finish."""
    callers = Callers(app, max_callers)
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(partial(accept_loop, listener, callers.serve, nursery, relieve=callers.make_room))
            await stopped()
            accepting.cancel_scope.cancel()
        callers.stop()
        nursery.cancel_scope.deadline = trio.current_time() + grace_seconds


class Callers:
    """All callers of one server. One more than may be there takes the place of the one that is idle longest."""

    def __init__(self, app: App, max_callers: int) -> None:
        self.app = app
        self._max_callers = max_callers
        self._count = 0
        self._idle: dict[trio.CancelScope, None] = {}  # those that wait for a request, the longest first
        self._refused = 0
        self._quiet_until = 0.0
        self.stopping = False

    @property
    def _bound(self) -> int:
        return max(4, min(self._max_callers, descriptor_limit() // DESCRIPTORS_SHARE))

    def stop(self) -> None:
        """End those that are idle; the request under way of any other is its last."""
        self.stopping = True
        for scope in list(self._idle):
            scope.cancel()

    def make_room(self) -> bool:
        """End the caller that is idle longest; return whether there was one."""
        scope = next(iter(self._idle), None)
        if scope is not None:
            del self._idle[scope]
            scope.cancel()
        return scope is not None

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer the requests of one caller, until it ends or is ended."""
        self._count += 1
        try:
            async with stream:
                try:
                    await self._serve(stream)
                except trio.Cancelled:
                    reset_on_close(stream)  # what it does not read would stay in the kernel
                    raise
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it left
        except Exception:
            logger.exception("an HTTP connection crashed")
        finally:
            self._count -= 1

    async def _serve(self, stream: trio.abc.Stream) -> None:
        if self._count > self._bound and not self.make_room():
            if self._count > self._bound + TOLD_CALLERS:
                return
            self._note_refusal()
            await _send(stream, plain_response(503, "too many callers (max_callers)", ("Retry-After", "1")))
        else:
            peer = peer_of(stream)[0]
            left: bytes | None = b""
            while left is not None and not self.stopping:
                left = await self._serve_request(stream, peer, left)
        await hang_up(stream, LINGER_SECONDS)

    def _note_refusal(self) -> None:
        self._refused += 1
        now = trio.current_time()
        if now >= self._quiet_until:
            log(logger, logging.WARNING, "too many callers", bound=self._bound, count=self._refused)
            self._refused = 0
            self._quiet_until = now + QUIET_SECONDS

    async def _serve_request(self, stream: trio.abc.Stream, peer: str, early: bytes) -> bytes | None:
        """Answer one request, `early` of which is there already; return what came behind it, None if it is the last."""
        parser = HeadParser(MAX_HEAD_BYTES)
        try:
            head = await self._read_head(stream, parser, early)
        except HeadError as error:
            await _send(stream, plain_response(error.status, str(error)))
            return None
        if head is None:
            return None
        exchange = Exchange(stream, peer, head, parser.connection, lambda: self.stopping)
        await exchange.run(self.app)
        return exchange.left

    async def _read_head(self, stream: trio.abc.Stream, parser: HeadParser, early: bytes) -> Head | None:
        """Return the next head, None if there is none. Raises HeadError: if it is none, or does not come in time."""
        head = parser.feed(early)
        with trio.move_on_after(IDLE_SECONDS) as scope:
            self._idle[scope] = None
            try:
                while head is None:
                    data = await stream.receive_some(READ_BYTES)
                    if not data:
                        return None
                    head = parser.feed(bytes(data))
            finally:
                self._idle.pop(scope, None)
        if head is None and parser.begun and not self.stopping:
            raise HeadError(408, f"no whole request head within {IDLE_SECONDS:g} s")
        return head


class Exchange:
    """One request and its answer, between an ASGI app and h11."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        peer: str,
        head: Head,
        connection: h11.Connection,
        is_last: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._head = head
        self._connection = connection
        self._is_last = is_last
        self._answer: list[h11.Event] = []
        self._answered = False
        self._malformed = False

    @property
    def left(self) -> bytes | None:
        """What came behind the request; None if the connection ends with it."""
        if self._connection.our_state is not h11.DONE or self._connection.their_state is not h11.DONE:
            return None
        return self._connection.trailing_data[0]

    async def run(self, app: App) -> None:
        """Let `app` answer the request. A crash is a 500."""
        path, _, query = self._head.target.partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": self._head.version.decode(),
            "method": self._head.method.decode(),
            "scheme": "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._head.headers,
            "client": (self._peer, 0),
        }
        try:
            await app(scope, self.receive, self.send)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception:
            logger.exception("an HTTP connection crashed")
            if not self._answered:
                await _send(self._stream, plain_response(500, "internal error"))
        else:
            if self._malformed and not self._answered:
                await _send(self._stream, plain_response(400, "a malformed body"))

    async def receive(self) -> Message:
        """Return the next ASGI message: some of the body, or that the caller has left, or sends no HTTP."""
        if self._connection.they_are_waiting_for_100_continue:
            await _send(self._stream, self._connection.send(h11.InformationalResponse(status_code=100, headers=[])))
        try:
            data, more = self._next_data()
            while more and not data:
                self._connection.receive_data(bytes(await self._stream.receive_some(READ_BYTES)))
                data, more = self._next_data()
        except h11.RemoteProtocolError:
            # A body that ends too early may be that of a caller that still listens: either way it is no request.
            self._malformed = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        else:
            return {"type": "http.request", "body": bytes(data), "more_body": more}
        return {"type": "http.disconnect"}

    def _next_data(self) -> tuple[bytearray, bool]:
        """Return all that is there of the body, and whether more is to come."""
        data = bytearray()
        while isinstance(event := self._connection.next_event(), h11.Data):
            data += event.data
        return data, event is h11.NEED_DATA

    async def send(self, message: Message) -> None:
        """Take an ASGI message of the response; it goes out whole, in one write."""
        if message["type"] == "http.response.start":
            headers = [(b"date", date()), *message["headers"]]
            if self._is_last() or not self._is_read():
                headers.append((b"connection", b"close"))
            self._answer = [h11.Response(status_code=message["status"], headers=headers)]
            return
        if self._head.method != b"HEAD":
            self._answer.append(h11.Data(data=message["body"]))
        self._answered = True
        await _send(
            self._stream, b"".join(self._connection.send(event) or b"" for event in (*self._answer, h11.EndOfMessage()))
        )

    def _is_read(self) -> bool:
        """Whether the request was read to its end, so that the next one can be found."""
        if self._connection.their_state is h11.SEND_BODY and not self._head.has_body:
            self._connection.next_event()  # the end of a message without a body
        return self._connection.their_state is not h11.SEND_BODY


async def _send(stream: trio.abc.Stream, data: bytes) -> None:
    """Send `data`. Raises BrokenResourceError: if it is not taken in time. Most answers go out in one call."""
    sent = wire_for(stream).write_nowait(data)
    if sent == len(data):
        return
    with trio.move_on_after(ANSWER_SECONDS):
        await stream.send_all(data[sent:])
        return
    reset_on_close(stream)
    raise trio.BrokenResourceError
