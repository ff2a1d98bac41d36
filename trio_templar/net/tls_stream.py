"""TLS on a client's socket, with writes that do not wait.

`trio.SSLStream` writes only in a task that waits, so each publication would need a task for each client.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

# The plaintext of one record; TLS allows 16 KB. What a client takes is seen a record at a time.
RECORD_BYTES: Final = 8192
CIPHERTEXT_BYTES: Final = 16_384
# What may wait for the socket: a record, and answers to key updates of a client that sends them and does not read.
UNSENT_BYTES: Final = 4 * RECORD_BYTES


class TlsStream(trio.abc.Stream):
    """The server's end of TLS on the socket `transport_stream`. One task reads, any may write without waiting.

    At most one record waits that the socket did not take whole. Until it did, its plaintext counts as unwritten.
    """

    __slots__ = ("_incoming", "_outgoing", "_tls", "_under_way", "_unsent", "socket", "transport_stream")

    def __init__(self, transport: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.transport_stream = transport
        self.socket = transport.socket
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = b""
        self._under_way = 0

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write what the socket takes at once and return its size; the next `data` begins with the rest of this one.

        As much as `RECORD_BYTES` of that rest may be encrypted already, and is not looked at again.
        Raises OSError: if the peer is gone.
        """
        done = 0
        while self._flush():
            done += self._under_way
            self._under_way = 0
            if done >= len(data):
                break
            self._under_way = self._tls.write(data[done : done + RECORD_BYTES])
        return done

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`. Raises BrokenResourceError: if the peer is gone."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        with _broken():
            while rest := rest[self.write_nowait(rest) :]:
                await trio.lowlevel.wait_writable(self.socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what the peer sent, empty once it said that nothing more comes; always a checkpoint.

        Raises BrokenResourceError: if the connection was lost, or ended without that word.
        """
        waited = False
        with _broken():
            while True:
                try:
                    data = self._tls.read(max_bytes or CIPHERTEXT_BYTES)
                except ssl.SSLWantReadError:
                    await self._receive()
                    waited = True
                    continue
                if not waited:  # or one record after the other would keep the others waiting
                    await trio.lowlevel.checkpoint()
                return data

    async def do_handshake(self) -> None:
        """Agree on keys. Raises BrokenResourceError: if that fails, with OpenSSL's error as its cause."""
        with _broken():
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._receive()
                    continue
                await self._flush_all()
                return

    async def close_notify(self) -> None:
        """Tell the peer that nothing more comes, and wait until the socket has taken that, not for an answer."""
        with suppress(ssl.SSLError):  # it wants to read the peer's own
            self._tls.unwrap()
        with _broken():
            await self._flush_all()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes something."""
        await trio.lowlevel.wait_writable(self.socket)

    async def aclose(self) -> None:
        """Close the socket, after a last word if it can be said at once."""
        with suppress(OSError):
            self._tls.unwrap()
        with suppress(OSError):
            self._flush()
        await self.transport_stream.aclose()

    def _flush(self) -> bool:
        """Send what is encrypted, and return whether that is all."""
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        if self._unsent:
            try:
                size = os.write(self.socket.fileno(), self._unsent)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[size:]
        return not self._unsent

    async def _flush_all(self) -> None:
        while not self._flush():
            await trio.lowlevel.wait_writable(self.socket)

    async def _receive(self) -> None:
        """Wait for bytes of the peer. An answer that reading made goes out now, or else with what is written next."""
        if not self._flush() and len(self._unsent) > UNSENT_BYTES:
            raise trio.BrokenResourceError("the client does not take the answers that TLS owes it")
        await trio.lowlevel.wait_readable(self.socket)
        with suppress(BlockingIOError):
            data = os.read(self.socket.fileno(), CIPHERTEXT_BYTES)
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()


@contextmanager
def _broken() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # OpenSSL's too
        raise trio.BrokenResourceError from error
