"""hypercorn, told what we need of it. The only module that knows it.

We accept for it: `hypercorn.trio.serve` logs a traceback ten times a second when descriptors run out.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event, RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

from trio_templar.listeners import Listening
from trio_templar.sockets import accept_loop, reset_on_close
from trio_templar.wire import wire_for

logger = logging.getLogger("trio_templar.http_server")

KEEP_ALIVE_SECONDS: Final = 60.0
# hypercorn writes without a deadline: the kernel drops a caller that takes nothing for so long.
USER_TIMEOUT_MILLISECONDS: Final = 30_000


async def serve_http(
    app: Any,
    listeners: Iterable[Listening],
    stopped: Callable[[], Awaitable[None]],
    grace_seconds: float,
) -> None:
    """Serve an ASGI app on `listeners` until `stopped` returns, then let requests finish."""
    context = WorkerContext(None)
    serve_one = partial(_serve_caller, app, _config(), context)
    async with trio.open_nursery() as callers:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                if listener.socket.family != socket.AF_UNIX:  # accepted sockets inherit it
                    listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MILLISECONDS)
                accepting.start_soon(accept_loop, listener, serve_one, callers)
            await stopped()
            accepting.cancel_scope.cancel()
        await context.terminated.set()  # ends whoever is idle
        callers.cancel_scope.deadline = trio.current_time() + grace_seconds


async def _serve_caller(app: Any, config: Config, context: WorkerContext, stream: trio.SocketStream) -> None:
    state = ConnectionState(LifespanState())
    server = _Server(ASGIWrapper(app), config, context, state, stream)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_close_when_cancelled, stream)
            nursery.start_soon(server.close_when_idle)
            await server.run()
            nursery.cancel_scope.cancel()
    except* Exception:
        logger.exception("an HTTP connection crashed")


async def _close_when_cancelled(stream: trio.SocketStream) -> None:
    """End what hypercorn shields: without its socket, writing to a caller that does not read is over."""
    try:
        await trio.sleep_forever()
    finally:
        reset_on_close(stream)
        stream.socket.close()


class _IdleClock:
    """Since when a caller has been idle, or None. Stands for hypercorn's idle task: one more task in each request."""

    def __init__(self) -> None:
        self.since: float | None = None

    async def restart(self, *_: object) -> None:
        self.since = trio.current_time()

    async def stop(self) -> None:
        self.since = None


class _Server(TCPServer):
    """One caller."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._clock = self.idle_task = _IdleClock()  # type: ignore[assignment]  # it has the same methods
        self._head = b""
        self._wire = wire_for(self.stream)

    async def close_when_idle(self) -> None:
        """Close a connection that has been idle for too long (twice that at most), or is when we stop."""
        terminated = self.context.terminated
        while True:
            with trio.move_on_after(KEEP_ALIVE_SECONDS):
                await terminated.wait()
            since = self._clock.since
            if since is not None and (terminated.is_set() or trio.current_time() - since >= KEEP_ALIVE_SECONDS):
                await self._initiate_server_close()
                return
            if terminated.is_set():  # the request under way is the last
                return

    async def protocol_send(self, event: Event) -> None:
        """Write what hypercorn has to say; a response in one piece, where it would write head, body and nothing."""
        if isinstance(event, RawData):
            if event.data.startswith(b"HTTP/1.1 ") and not event.data.startswith(b"HTTP/1.1 1"):
                self._head = event.data
                return
            data, self._head = self._head + event.data, b""
            event = RawData(data[self._write_nowait(data) :])
            if not event.data:
                return
        with suppress(trio.BusyResourceError):  # the reading side is closing the socket at this moment
            await super().protocol_send(event)

    def _write_nowait(self, data: bytes) -> int:
        """Write what the socket takes unless something waits already; errors are left to who writes the rest."""
        if self.send_lock.locked():
            return 0
        try:
            return self._wire.write_nowait(data)
        except OSError:
            return 0


def _config() -> Config:
    config = Config()
    config.errorlog = _quiet_logger()
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.keep_alive_max_requests = 2**62
    return config


def _quiet_logger() -> logging.Logger:
    """Return a logger for warnings and worse that is not registered anywhere: hypercorn would tell its start too."""
    logger = logging.Logger("trio_templar.hypercorn", logging.WARNING)
    logger.parent = logging.getLogger("trio_templar")
    return logger
