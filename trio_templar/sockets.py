"""What Trio's streams and listeners leave to us: addresses, binding, and hanging up without losing the last words."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NoReturn

import trio

from trio_templar.errors import SettingsError
from trio_templar.settings import split_address

logger = logging.getLogger("trio_templar.sockets")

BACKLOG: Final = 4096
# What accept() says while the machine is short of something; all of it passes.
SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SHORTAGE_PAUSE_SECONDS: Final = 0.1
# What the kernel queues for a client that does not read is memory nobody sees: less of it, and we notice sooner.
SEND_BUFFER_BYTES: Final = 65_536
# What a client that was told goodbye may still send before its socket is closed.
DISCARD_BYTES: Final = 1_048_576


async def open_listeners(address: str, send_buffer_bytes: int = SEND_BUFFER_BYTES) -> list[trio.SocketListener]:
    """Listen on `HOST:PORT`, `[V6]:PORT` (a name may give several) or `unix:PATH`; a socket left there is replaced.

    Raises SettingsError: if that cannot be done; the text names the address.
    """
    try:
        if address.startswith("unix:"):
            return [_unix_listener(address.removeprefix("unix:"))]
        host, port = split_address(address)
        listeners = list(await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG))
    except OSError as error:
        raise SettingsError(f"cannot listen on {address}: {error.strerror or error}") from error
    for listener in listeners:  # accepted sockets inherit it
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    return listeners


def _unix_listener(path: str) -> trio.SocketListener:
    if Path(path).is_socket():
        _refuse_if_served(path)
        Path(path).unlink()
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _refuse_if_served(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError:
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")


def url_of(listener: trio.SocketListener, scheme: str, path: str) -> str:
    """Return the URL that reaches `listener`; of a unix socket, its path as `unix:PATH`."""
    name = listener.socket.getsockname()
    if isinstance(name, str | bytes):
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{scheme}://{host}:{name[1]}{path}"


async def accept_loop(
    listener: trio.abc.Listener[trio.abc.Stream],
    serve_one: Callable[[trio.abc.Stream], Awaitable[None]],
    clients: trio.Nursery,
) -> NoReturn:
    """Accept until cancelled, and listen no longer; pause while the machine is short of descriptors or memory."""
    short = False
    async with listener:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                if not short:
                    logger.warning("cannot accept clients for now: %s", error.strerror)
                short = True
                await trio.sleep(SHORTAGE_PAUSE_SECONDS)
            else:
                short = False
                clients.start_soon(serve_one, stream)


def peer_of(stream: trio.abc.Stream) -> tuple[str, str]:
    """Return the peer's address alone and with its port; empty where there is none (unix socket, memory, gone)."""
    if not isinstance(stream, trio.SocketStream):
        return "", ""
    try:
        name = stream.socket.getpeername()
    except OSError:
        return "", ""
    if not isinstance(name, tuple):
        return "", ""
    host = name[0].removeprefix("::ffff:")
    return host, f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"


async def hang_up(stream: trio.abc.Stream, seconds: float) -> None:
    """End the sending side, and give the peer `seconds` to do so too; the caller closes `stream`.

    Closing with unread input would be a reset that can eat our last words. A peer that does not end is reset on
    close: what it did not read would stay in the kernel.
    """
    ended = False
    with trio.move_on_after(seconds):
        try:
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            ended = await _discard(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            ended = True
    if not ended:
        reset_on_close(stream)


async def _discard(stream: trio.abc.ReceiveStream) -> bool:
    """Return whether the peer ended within `DISCARD_BYTES`."""
    discarded = 0
    while discarded < DISCARD_BYTES:
        data = await stream.receive_some()
        if not data:
            return True
        discarded += len(data)
    return False


def reset_on_close(stream: trio.abc.Stream) -> None:
    """Make closing `stream` drop what the kernel still holds for a peer that does not read."""
    if isinstance(stream, trio.SocketStream) and stream.socket.fileno() >= 0:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
