"""HTTP/1.1 for an ASGI app: callers of one gateway, one task each, every wait with a deadline.

h11 has the grammar (see `http_head`). There is no HTTP/2 and no upgrade: an `Upgrade` header is ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import trio

from trio_templar.http_exchange import READ_BYTES, App, Exchange, send_answer
from trio_templar.http_head import Head, HeadError, HeadParser, plain_response
from trio_templar.log import log
from trio_templar.machine import descriptor_limit
from trio_templar.sockets import accept_loop, hang_up, peer_of, reset_on_close

logger = logging.getLogger("trio_templar.http_server")

# How long a caller may be connected without a whole request head: at first, and after each answer.
IDLE_SECONDS: Final = 60.0
# How long a caller that got its last answer may take to end: closing at once could take the answer from it
# (RFC 9112, 9.6).
LINGER_SECONDS: Final = 1.0
MAX_HEAD_BYTES: Final = 16_384
# Callers take at most one in so many descriptors; more than may be there are told so, up to so many.
DESCRIPTORS_SHARE: Final = 4
TOLD_CALLERS: Final = 16
# Those that are told in this time share a log line.
QUIET_SECONDS: Final = 10.0


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
            await send_answer(stream, plain_response(503, "too many callers (max_callers)", ("Retry-After", "1")))
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
            await send_answer(stream, plain_response(error.status, str(error)))
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
