"""Bytes in and out of one client's stream: straight to the socket where it is one, through Trio's stream otherwise.

A socket is read and written with the system calls themselves. That saves a task switch on each write, and on an idle
connection the frames and buffers that a stream keeps while it waits.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

import trio

from trio_templar.net.tls_stream import TlsStream

READ_BYTES: Final = 4096
PIECE_BYTES: Final = 8192


class Wire(Protocol):
    """What a connection reads from and writes to. One task reads, one waits until it is `writable`.

    What `write_nowait` did not take is what the next one begins with: up to `PIECE_BYTES` of it may be under way.
    """

    stream: trio.abc.Stream
    # Whether what a full one took shows that the peer lives: it has read what had filled the socket.
    shows_life: bool

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write what can be written without waiting and return its size. Raises OSError: if the peer is gone."""

    async def writable(self) -> None:
        """Wait until `write_nowait` may take something more.

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

    async def writable(self) -> None:
        """Wait until the socket takes something."""
        await trio.lowlevel.wait_writable(self._socket)

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

    __slots__ = ("_tls", "stream", "writable", "write_nowait")
    shows_life = True

    def __init__(self, stream: TlsStream) -> None:
        self.stream: trio.abc.Stream = stream
        self._tls = stream
        self.write_nowait = stream.write_nowait
        self.writable = stream.wait_send_all_might_not_block

    async def read(self) -> bytes:
        """Read as soon as there is something."""
        return await self._tls.receive_some(READ_BYTES)


class StreamWire:
    """Any other stream (memory, somebody else's TLS): it takes a piece at a time, in a task that waits.

    A piece counts as written once the stream took it: one at a time shows the progress of a client that is slow.
    """

    __slots__ = ("_piece", "_taken", "stream")
    shows_life = False  # what a stream took may be in a buffer of ours

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._piece = b""
        self._taken = 0

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Return what `writable` has written of `data`, and have it write the next piece."""
        taken, self._taken = self._taken, 0
        self._piece = bytes(data[taken : taken + PIECE_BYTES])
        return taken

    async def writable(self) -> None:
        """Write the piece. Without one there is nothing to wait for: what comes next can begin."""
        if self._piece:
            await self.stream.send_all(self._piece)
        self._taken, self._piece = len(self._piece), b""

    async def read(self) -> bytes:
        """Read as soon as there is something."""
        return bytes(await self.stream.receive_some(READ_BYTES))


def wire_for(stream: trio.abc.Stream) -> Wire:
    """Return the wire of a client's stream."""
    if isinstance(stream, trio.SocketStream):
        return SocketWire(stream)
    return TlsWire(stream) if isinstance(stream, TlsStream) else StreamWire(stream)
