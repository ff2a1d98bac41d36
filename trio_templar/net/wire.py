"""Bytes in and out of one client's stream: straight to the socket where it is one, through Trio's stream otherwise.

A socket is read and written with the system calls themselves. That saves a task switch on each write, and on an idle
connection the frames and buffers that a stream keeps while it waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol

import trio

from trio_templar.net.tls_stream import TlsStream

READ_BYTES: Final = 4096
PIECE_BYTES: Final = 8192


class Wire(Protocol):
    """What a connection reads from and writes to. One task reads, one writes; `write_nowait` only while none does."""

    stream: trio.abc.Stream
    # Whether what `write` wrote shows that the peer lives: it took what had filled the socket before.
    shows_life: bool

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write what can be written without waiting and return its size. Raises OSError: if the peer is gone."""

    async def write(self, unsent: Callable[[], memoryview | None]) -> int:
        """Write some of what `unsent` returns when the peer takes something, and return its size.

        What a stream has under way is at most `PIECE_BYTES`.
        Raises OSError, BrokenResourceError or ClosedResourceError: if the peer is gone.
        """

    async def read(self) -> bytes:
        """Return what the peer sent, empty at its end. Raises BrokenResourceError: if the connection was lost."""


class SocketWire:
    """A socket. Its descriptor is asked for each time: of a closed one it is -1, and never somebody else's."""

    __slots__ = ("_socket", "stream")
    shows_life = True

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream: trio.abc.Stream = stream
        self._socket = stream.socket

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write what the socket takes at once."""
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0

    async def write(self, unsent: Callable[[], memoryview | None]) -> int:
        """Write as soon as the socket takes something; nothing is held until then."""
        await trio.lowlevel.wait_writable(self._socket)
        return self.write_nowait(unsent() or b"")

    async def read(self) -> bytes:
        """Read as soon as there is something; always a checkpoint."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return os.read(self._socket.fileno(), READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error


class TlsWire:
    """TLS on a socket. It encrypts at once, so it writes without waiting too."""

    __slots__ = ("_tls", "stream", "write_nowait")
    shows_life = True

    def __init__(self, stream: TlsStream) -> None:
        self.stream: trio.abc.Stream = stream
        self._tls = stream
        self.write_nowait = stream.write_nowait

    async def write(self, unsent: Callable[[], memoryview | None]) -> int:
        """Write as soon as the socket takes something."""
        await self._tls.wait_send_all_might_not_block()
        return self.write_nowait(unsent() or b"")

    async def read(self) -> bytes:
        """Read as soon as there is something."""
        return await self._tls.receive_some(READ_BYTES)


class StreamWire:
    """Any other stream (memory, somebody else's TLS): nothing is written without waiting."""

    __slots__ = ("stream",)
    shows_life = False  # what a stream took may be in a buffer of ours

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write nothing."""
        return 0

    async def write(self, unsent: Callable[[], memoryview | None]) -> int:
        """Write a piece: a client that takes it makes progress, and one of a whole write would take long to be seen."""
        piece = bytes((unsent() or b"")[:PIECE_BYTES])
        await self.stream.send_all(piece)
        return len(piece)

    async def read(self) -> bytes:
        """Read as soon as there is something."""
        return bytes(await self.stream.receive_some(READ_BYTES))


def wire_for(stream: trio.abc.Stream) -> Wire:
    """Return the wire of a client's stream."""
    if isinstance(stream, trio.SocketStream):
        return SocketWire(stream)
    return TlsWire(stream) if isinstance(stream, TlsStream) else StreamWire(stream)
