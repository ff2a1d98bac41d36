"""The body of one request: bounded in bytes and in seconds, which neither ASGI nor hypercorn does."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import trio

from trio_templar.delivery.budget import Budget
from trio_templar.errors import Busy, TemplarError, TooLarge

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class TooSlow(TemplarError):
    """The body did not come in time."""

    status = 408


class Gone(TemplarError):
    """The caller left: there is no one to answer."""


class Body:
    """The body of one request, read once: as a whole, or line by line. The bounds are for the whole, or for each line.

    The bytes that are held of it count in the budget until `release`: a body may wait there as a trigger.
    """

    def __init__(
        self, receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int, seconds: float, budget: Budget
    ) -> None:
        self._receive = receive
        self._budget = budget
        self._held = 0
        # Such a caller sends nothing before it is asked to; one that is refused is not asked (RFC 9110, 10.1.1).
        self._waits_for_us = headers.get(b"expect", b"").lower() == b"100-continue"
        announced = headers.get(b"content-length", b"")
        self._announced = int(announced) if announced.isdigit() else 0
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._line = bytearray()
        self._more = True
        self.hopeless = False  # whether it is announced as too long: its end is not waited for

    async def whole(self) -> bytes:
        """Return the body, as soon as its announced length is there.

        Raises TooLarge: if it has more than `max_bytes`; at once if that was announced, else when it was read.
        Raises TooSlow: if it does not come in time.
        Raises Gone: if the caller leaves.
        Raises Busy: if the bodies of all callers hold too many bytes already.
        """
        if self._announced > self._max_bytes:
            self.hopeless = True
            raise self._too_large()
        body = bytearray()  # not a list of chunks: a chunk may be one byte, and takes forty then
        size = 0
        with trio.move_on_after(self._seconds) as scope:
            while self._more and not 0 < self._announced <= size:
                chunk = await self._next()
                size += len(chunk)
                if size <= self._max_bytes:  # of one that is too large the rest is read and dropped: see `discard`
                    self._hold(size)
                    body += chunk
        if scope.cancelled_caught:
            raise self._too_slow("the body")
        if size > self._max_bytes:
            raise self._too_large()
        return bytes(body)

    async def lines(self) -> list[bytes]:
        """Return the next lines that are there, at least one; none at the end.

        Raises TooLarge, TooSlow, Busy or Gone: as `whole`, for one line.
        """
        with trio.move_on_after(self._seconds) as scope:
            while self._more:
                chunk = await self._next()
                self._hold(len(self._line) + len(chunk))
                self._line += chunk
                if b"\n" in chunk:
                    *lines, self._line = self._line.split(b"\n")
                    return [bytes(line) for line in lines]
                if len(self._line) > self._max_bytes:
                    break  # its end is not needed: it is refused
        if scope.cancelled_caught:
            raise self._too_slow("the line")
        last, self._line = bytes(self._line), bytearray()
        return [last] if last else []

    def check(self, line: bytes) -> None:
        """Raise TooLarge: if `line` has more than `max_bytes`."""
        if len(line) > self._max_bytes:
            raise self._too_large()

    async def discard(self, seconds: float) -> None:
        """Read and drop the rest, for at most `seconds`. Before it an answer can be lost to a reset (RFC 9112, 9.6)."""
        if self._more and not self._waits_for_us:
            with trio.move_on_after(seconds), contextlib.suppress(Gone):
                while self._more:
                    await self._next()

    def release(self) -> None:
        """Hold nothing any more."""
        self._hold(0)

    def _hold(self, size: int) -> None:
        """Count `size` bytes as held now. Raises Busy: if there is no space for them."""
        if size > self._held and not self._budget.fits_arriving(size - self._held, self._held):
            raise Busy("the gateway is full (memory_bytes)")
        self._budget.arriving_bytes += size - self._held
        self._held = size

    async def _next(self) -> bytes:
        self._waits_for_us = False
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._more = False
            raise Gone
        self._more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    def _too_slow(self, what: str) -> TooSlow:
        return TooSlow(f"{what} did not come within {self._seconds:g} s (http_body_seconds)")

    def _too_large(self) -> TooLarge:
        return TooLarge(f"over {self._max_bytes} bytes (max_trigger_bytes)")
