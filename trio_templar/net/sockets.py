"""What Trio's streams leave to us: accepting through shortages, and hanging up without losing the last words."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn

import trio

from trio_templar.machine import descriptor_limit
from trio_templar.net.tls_stream import TlsStream

logger = logging.getLogger("trio_templar.sockets")

# What accept() says while the machine is short of something; all of it passes.
SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SHORTAGE_PAUSE_SECONDS: Final = 0.1
# What a client that was told goodbye may still send before its socket is closed.
DISCARD_BYTES: Final = 1_048_576


async def accept_loop(
    listener: trio.abc.Listener[trio.abc.Stream],
    serve_one: Callable[[trio.abc.Stream], Awaitable[None]],
    clients: trio.Nursery,
    *,
    leave: int = 0,
    relieve: Callable[[], object] = lambda: None,
) -> NoReturn:
    """Accept until cancelled, and listen no longer; pause while the machine is short of descriptors or memory.

    `relieve` is called then. The last `leave` descriptors are not taken (a quarter of them all, if that is less).
    """
    short = False
    last = 0  # the descriptor of the client that came last
    async with listener:
        while True:
            try:
                if leave:
                    _leave_descriptors(leave, last)
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                if not short:
                    logger.warning("cannot accept clients for now: %s", error.strerror)
                short = True
                relieve()
                await trio.sleep(SHORTAGE_PAUSE_SECONDS)
            else:
                short = False
                last = _descriptor_of(stream)
                clients.start_soon(serve_one, stream)


def _descriptor_of(stream: trio.abc.Stream) -> int:
    transport = transport_of(stream)
    return transport.socket.fileno() if isinstance(transport, trio.SocketStream) else sys.maxsize


def _leave_descriptors(count: int, last: int) -> None:
    """Raise OSError: if all descriptors but the last `count` are taken; the lowest free one is always given out."""
    limit = descriptor_limit()
    if last < limit // 2:  # as many are free, and callers of HTTP take at most a quarter before the next client
        return
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    if descriptor >= limit - min(count, limit // 4):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def transport_of(stream: trio.abc.Stream) -> trio.abc.Stream:
    """Return what is under `stream` if it is TLS, else itself."""
    return stream.transport_stream if isinstance(stream, TlsStream | trio.SSLStream) else stream


def peer_of(stream: trio.abc.Stream) -> tuple[str, str]:
    """Return the peer's address alone and with its port; empty where there is none (unix socket, memory, gone)."""
    stream = transport_of(stream)
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
    """End the sending side, and give the peer `seconds` to do so too; the caller closes the transport of `stream`.

    Closing with unread input would be a reset that can eat our last words. A peer that does not end is reset on
    close: what it did not read would stay in the kernel.
    """
    transport = transport_of(stream)
    ended = False
    try:
        with trio.move_on_after(seconds):
            await _end_tls(stream)
            if isinstance(transport, trio.abc.HalfCloseableStream):
                await transport.send_eof()
            ended = await _discard(transport)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        ended = True
    finally:  # cancelled, too
        if not ended:
            reset_on_close(transport)


async def _end_tls(stream: trio.abc.Stream) -> None:
    """Say over TLS that nothing more comes."""
    if isinstance(stream, TlsStream):
        await stream.close_notify()
    elif isinstance(stream, trio.SSLStream):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.unwrap()  # fails when the peer still has something to say, but it was told


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
    stream = transport_of(stream)
    if isinstance(stream, trio.SocketStream) and stream.socket.fileno() >= 0:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
