"""The bounded way to one client's socket.

If nothing waits, what is put is written at once, without a task switch. What the kernel did not take waits in a
backlog that lasts until it is empty: a remainder, replies, and publications as references in a memory channel,
rendered when they are written. So an idle connection holds neither channel nor task, and an unsubscribe changes
what a waiting reference becomes.

Everything here is synchronous: `Outbox` decides, the write loop of its connection does the waiting.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

from trio_templar.errors import GONE, SLOW_BYTES, SLOW_FRAMES, Close
from trio_templar.frames import Batch, close_frame
from trio_templar.hub import Subscription

# The most that is rendered and joined at once for a client whose socket was full.
WRITE_BYTES: Final = 65_536


class Writer(Protocol):
    """What an outbox writes to."""

    def write_nowait(self, data: bytes) -> int:
        """Write what can be written without waiting and return its size. Raises OSError: if the peer is gone."""


class Owner(Protocol):
    """What an outbox needs of its connection."""

    def start_writing(self) -> None:
        """Start the write loop: something waits, and none is running."""

    def closing(self) -> None:
        """Take note that `closed` was set: the connection ends as soon as nothing waits."""


class Waiting:
    """The outboxes of one gateway in which something waits, and how much. Shared bytes count for each client."""

    def __init__(self, max_bytes: int, max_frames: int) -> None:
        self.max_bytes = max_bytes
        self.max_frames = max_frames
        self.outboxes: set[Outbox] = set()
        self.bytes = 0


class Outbox:
    """Frames on their way to one client, in order; replies go before publications that wait.

    Any task of the gateway may put; only the write loop of its connection calls `unsent` and `sent`.
    """

    __slots__ = ("_backlog", "_owner", "_waiting", "_wire", "closed", "frames", "sent_bytes")

    def __init__(self, wire: Writer, owner: Owner, waiting: Waiting) -> None:
        self._wire = wire
        self._owner = owner
        self._waiting = waiting
        self._backlog: _Backlog | None = None
        self.closed: Close | None = None
        self.frames = 0
        self.sent_bytes = 0

    def put(self, subscription: Subscription, batch: Batch) -> None:
        """Send the publications of `batch`, or let them wait. A client over its bounds is cut instead."""
        if self.closed is not None:
            return
        if self._backlog is None:
            self.frames += batch.count
            self._write(batch.render(subscription.request_id))
        elif self._has_room(self._backlog):
            self._backlog.put_off(subscription, batch)

    def reply(self, frame: bytes) -> None:
        """Send one whole frame that is no publication, before publications that wait."""
        if self.closed is not None:
            return
        if self._backlog is None:
            self._write(frame)
        elif self._has_room(self._backlog):
            self._backlog.say(frame)

    def close(self, close: Close, frame: bytes | None = None) -> None:
        """Send what waits, then the close frame (`frame` if it is made already), then nothing. The first reason wins.

        With code 1006 nothing more is sent: there is nobody to send it to.
        """
        if self.closed is not None:
            return
        self.closed = close
        if close.code == GONE.code:
            self.discard()
        elif self._backlog is None:
            self._write(frame or close_frame(close))
        else:
            self._backlog.farewell = frame or close_frame(close)
        self._owner.closing()

    def cut(self, close: Close) -> None:
        """Close without the publications that wait: the client is too slow for them."""
        if self.closed is None and self._backlog is not None:
            self._backlog.drop_publications()
        self.close(close)

    def discard(self) -> None:
        """Give up what waits."""
        if self._backlog is not None:
            self._backlog.drop_publications()
            self._end_backlog(self._backlog)

    @property
    def waiting_bytes(self) -> int:
        """How much waits."""
        return self._backlog.bytes if self._backlog else 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return self._backlog is None

    def unsent(self) -> memoryview | None:
        """Return what is to be written next, at most one joined write; None if nothing waits: the loop is over."""
        backlog = self._backlog
        if backlog is None:
            return None
        if not backlog.unsent:
            self.frames += backlog.advance()
            if not backlog.unsent:
                self._end_backlog(backlog)
                return None
        return backlog.unsent

    def sent(self, size: int) -> None:
        """Take note that the first `size` bytes of `unsent` are written."""
        self.sent_bytes += size
        if self._backlog is not None:  # else it was given up meanwhile
            self._backlog.sent(size)

    def _write(self, data: bytes) -> None:
        try:
            size = self._wire.write_nowait(data)
        except OSError:
            self.close(GONE)
            return
        self.sent_bytes += size
        if size != len(data):
            self._backlog = _Backlog(memoryview(data)[size:], self._waiting)
            self._waiting.outboxes.add(self)
            self._owner.start_writing()

    def _has_room(self, backlog: _Backlog) -> bool:
        """Cut a client over its bounds, judged by what waits already: a large publication never cuts a quick one."""
        if backlog.bytes > self._waiting.max_bytes:
            self.cut(SLOW_BYTES)
        elif backlog.frames >= self._waiting.max_frames:
            self.cut(SLOW_FRAMES)
        return self.closed is None

    def _end_backlog(self, backlog: _Backlog) -> None:
        backlog.end()
        self._backlog = None
        self._waiting.outboxes.discard(self)


class _Backlog:
    """What waits for one client, in the order it is written: unsent, replies, publications, farewell."""

    __slots__ = ("_receive", "_replies", "_send", "_waiting", "bytes", "farewell", "frames", "unsent")

    def __init__(self, unsent: memoryview, waiting: Waiting) -> None:
        self._waiting = waiting
        self.unsent = unsent
        self.farewell = b""
        self.bytes = 0
        self.frames = 0
        self._replies: list[bytes] = []
        self._send, self._receive = trio.open_memory_channel[tuple[Subscription, Batch]](waiting.max_frames)
        self._count(len(unsent), 0)

    def say(self, frame: bytes) -> None:
        self._replies.append(frame)
        self._count(len(frame), 1)

    def put_off(self, subscription: Subscription, batch: Batch) -> None:
        self._send.send_nowait((subscription, batch))  # never over: a reference is at least one frame
        self._count(batch.size, batch.count)

    def drop_publications(self) -> None:
        while self._receive.statistics().current_buffer_used:
            _, batch = self._receive.receive_nowait()
            self._count(-batch.size, -batch.count)

    def advance(self) -> int:
        """Make what is next `unsent`, empty if nothing waits; return the number of publications in it."""
        if self._replies:
            frames, published = self._replies, 0
            self._count(-sum(map(len, frames)), -len(frames))
            self._replies = []
        else:
            frames, published = self._render()
        data = b"".join(frames) or self.farewell
        if data is self.farewell:
            self.farewell = b""
        self.unsent = memoryview(data)
        self._count(len(data), 0)
        return published

    def sent(self, size: int) -> None:
        self.unsent = self.unsent[size:]
        self._count(-size, 0)

    def end(self) -> None:
        self._count(-self.bytes, -self.frames)
        self._send.close()
        self._receive.close()

    def _render(self) -> tuple[list[bytes], int]:
        """Take the references that fit one write; those of subscriptions that have ended become nothing."""
        frames: list[bytes] = []
        size = published = 0
        while size < WRITE_BYTES:
            try:
                subscription, batch = self._receive.receive_nowait()
            except trio.WouldBlock:
                break
            self._count(-batch.size, -batch.count)
            if subscription.room is not None:
                frames.append(batch.render(subscription.request_id))
                size += batch.size
                published += batch.count
        return frames, published

    def _count(self, size: int, frames: int) -> None:
        self.bytes += size
        self.frames += frames
        self._waiting.bytes += size
