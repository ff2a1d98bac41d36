"""Callers of the HTTP API: there are so many, and each gives way, is told, or is answered to the end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import trio

from trio_templar.http.caller import App, Caller, Shared, send_in_time
from trio_templar.log import log
from trio_templar.machine import descriptor_limit
from trio_templar.net.http_head import plain_response
from trio_templar.net.sockets import accept_loop, hang_up, reset_on_close

logger = logging.getLogger("trio_templar.http_server")

# How long a caller that got its last answer may take to end: closing at once could take the answer from it
# (RFC 9112, 9.6).
LINGER_SECONDS: Final = 1.0
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
        await callers.stop()
        nursery.cancel_scope.deadline = trio.current_time() + grace_seconds


class Callers:
    """All callers of one server. One more than may be there takes the place of the one that is idle longest."""

    def __init__(self, app: App, max_callers: int) -> None:
        self._shared = Shared(app)
        self._max_callers = max_callers
        self._count = 0
        self._lingering: dict[trio.CancelScope, None] = {}  # of those that have their last answer
        self._refused = 0
        self._quiet_until = 0.0

    @property
    def _bound(self) -> int:
        return max(4, min(self._max_callers, descriptor_limit() // DESCRIPTORS_SHARE))

    async def stop(self) -> None:
        """End those that are idle; the request under way of any other is its last."""
        await self._shared.stop()
        for caller in list(self._shared.idle):
            caller.end()

    def make_room(self) -> bool:
        """End a caller that has its last answer, or the one that is idle longest; return whether there was one."""
        for scope in self._lingering:
            del self._lingering[scope]
            scope.cancel()
            return True
        caller = next(iter(self._shared.idle), None)
        if caller is not None:
            del self._shared.idle[caller]
            caller.end()
        return caller is not None

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer the requests of one caller, until it ends or is ended."""
        self._count += 1
        try:
            async with stream:
                try:
                    await self._serve(stream)
                except BaseException:  # a cancellation mostly
                    reset_on_close(stream)  # what it does not read would stay in the kernel
                    raise
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it left
        except* Exception:
            logger.exception("an HTTP connection crashed")
        finally:
            self._count -= 1

    async def _serve(self, stream: trio.abc.Stream) -> None:
        if self._count <= self._bound or self.make_room():
            await Caller(self._shared, stream).serve()
            await self._linger(stream)
            return
        if self._count <= self._bound + TOLD_CALLERS:
            self._note_refusal()
            await send_in_time(stream, plain_response(503, "too many callers (max_callers)", ("Retry-After", "1")))
            await hang_up(stream, LINGER_SECONDS)

    async def _linger(self, stream: trio.abc.Stream) -> None:
        """Give a caller time to take its last answer, unless its place is wanted."""
        with trio.CancelScope() as scope:
            self._lingering[scope] = None
            try:
                await hang_up(stream, LINGER_SECONDS)
            finally:
                self._lingering.pop(scope, None)

    def _note_refusal(self) -> None:
        self._refused += 1
        now = trio.current_time()
        if now >= self._quiet_until:
            log(logger, logging.WARNING, "too many callers", bound=self._bound, count=self._refused)
            self._refused = 0
            self._quiet_until = now + QUIET_SECONDS
