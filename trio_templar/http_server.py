"""hypercorn, told what we need of it. The only module that knows it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import hypercorn.trio
import trio
from hypercorn.config import Config

from trio_templar.sockets import BACKLOG, open_listeners

# hypercorn shields its writes from cancellation: a caller that does not read can hold up our leaving for so long.
USER_TIMEOUT_MILLISECONDS: Final = 1000
KEEP_ALIVE_SECONDS: Final = 60.0


async def serve_http(
    app: Any,
    address: str,
    stopped: Callable[[], Awaitable[None]],
    grace_seconds: float,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI app on `address` until `stopped` returns, then let requests finish; reports its URL.

    Raises SettingsError: if it cannot listen there.
    """
    listener, *others = await open_listeners(address)
    for other in others:  # hypercorn could take them, but one URL is what a publisher is given
        await other.aclose()
    if listener.socket.family != socket.AF_UNIX:
        listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MILLISECONDS)
    async with trio.open_nursery() as nursery:
        serve = partial(
            hypercorn.trio.serve,
            app,
            _config(listener.socket.detach(), grace_seconds),
            shutdown_trigger=stopped,
            mode="asgi",
        )
        urls = await nursery.start(serve)
        task_status.started(urls[0].rstrip("/"))


def _config(descriptor: int, grace_seconds: float) -> Config:
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.backlog = BACKLOG
    config.errorlog = _quiet_logger()
    config.accesslog = None
    config.include_server_header = False
    config.graceful_timeout = grace_seconds
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.keep_alive_max_requests = 2**62
    return config


def _quiet_logger() -> logging.Logger:
    """Return a logger for warnings and worse that is not registered anywhere: hypercorn would tell its start too."""
    logger = logging.Logger("trio_templar.hypercorn", logging.WARNING)
    logger.parent = logging.getLogger("trio_templar")
    return logger
