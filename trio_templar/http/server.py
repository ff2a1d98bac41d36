"""The callers of the HTTP API: how many there may be, which of them gives way to another, and how they end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import trio

from trio_templar.http.caller import App, Caller, Shared, send_in_time
from trio_templar.log import Seldom
from trio_templar.machine import descriptor_limit
from trio_templar.net.http_head import plain_response
from trio_templar.net.sockets import accept_loop, hang_up, reset_on_close

logger = logging.getLogger("trio_templar.http_server")  # operators filter by it; the name is older than the module's

# How long a caller may take to close after its last answer. If we closed at once, it could be lost (RFC 9112, 9.6).
LINGER_SECONDS: Final = 1.0
# Callers get at most one in so many of the descriptors.
DESCRIPTORS_SHARE: Final = 4
# How many callers over the bound get a 503; more than that are closed without an answer.
TOLD_CALLERS: Final = 16
# Refusals within this time share a log line.
QUIET_SECONDS: Final = 10.0


async def serve_http(
    app: App,
    listeners: Iterable[trio.abc.Listener[trio.abc.Stream]],
    stopped: Callable[[], Awaitable[None]],
    grace_seconds: Callable[[], float],
    max_callers: int = 1000,
) -> None:
    """Serve an ASGI app on `listeners` until `stopped` returns; then requests have `grace_seconds()` to finish."""
    callers = Callers(app, max_callers)
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as accepting:  # the inner one: it ends before the callers that it accepted
            for listener in listeners:
                accepting.start_soon(partial(accept_loop, listener, callers.serve, nursery, relieve=callers.make_space))
            await stopped()
            accepting.cancel_scope.cancel()
        await callers.stop()
        nursery.cancel_scope.deadline = trio.current_time() + grace_seconds()


class Callers:
    """All callers of one server, at most `max_callers`. One more takes the place of the one that is idle longest."""

    def __init__(self, app: App, max_callers: int) -> None:
        self._shared = Shared(app)
        self._max_callers = max_callers
        self._count = 0
        self._lingering: dict[trio.CancelScope, None] = {}  # of those that have their last answer
        self._refused = Seldom(logger, "too many callers", QUIET_SECONDS)

    @property
    def _bound(self) -> int:
        return max(4, min(self._max_callers, descriptor_limit() // DESCRIPTORS_SHARE))

    async def stop(self) -> None:
        """End the idle callers; the request under way of any other is its last."""
        await self._shared.stop()
        for caller in list(self._shared.idle):
            caller.end()

    def make_space(self) -> bool:
        """End a caller that has its last answer, else the one that is idle longest; return whether there was one."""
        for scope in self._lingering:
            del self._lingering[scope]
            scope.cancel()
            return True
        caller = next(iter(self._shared.idle), None)
        if caller is not None:
            caller.give_way()
        return caller is not None

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer the requests of one caller, until it ends or is ended."""
        self._count += 1
        try:
            async with stream:
                try:
                    await self._serve(stream)
                except BaseException:  # mostly a cancellation
                    reset_on_close(stream)  # else the kernel keeps what the caller does not read
                    raise
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the caller left
        except* Exception:
            logger.exception("an HTTP connection crashed")
        finally:
            self._count -= 1

    async def _serve(self, stream: trio.abc.Stream) -> None:
        if self._count <= self._bound or self.make_space():
            caller = Caller(self._shared, stream)
            await caller.serve()
            if not caller.gives_way:
                await self._linger(stream)
            return
        if self._count <= self._bound + TOLD_CALLERS:
            self._refused.log(trio.current_time(), bound=self._bound)
            await send_in_time(stream, plain_response(503, "too many callers (max_callers)", ("Retry-After", "1")))
            await hang_up(stream, LINGER_SECONDS)

    async def _linger(self, stream: trio.abc.Stream) -> None:
        """Give a caller time to take its last answer, unless another one needs its place."""
        with trio.CancelScope() as scope:
            self._lingering[scope] = None
            try:
                await hang_up(stream, LINGER_SECONDS)
            finally:
                self._lingering.pop(scope, None)
