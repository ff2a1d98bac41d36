"""The bounded way to one client's socket.

If nothing waits, what is put is written at once, without a task switch. What the kernel did not take waits in a
backlog that lasts until it is empty. So an idle connection holds neither channel nor task.

Everything here is synchronous: `Outbox` decides, the write loop of its connection does the waiting.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from trio_templar.core.frames import Batch, close_frame
from trio_templar.core.hub import Subscription
from trio_templar.core.policies import Kind
from trio_templar.delivery.backlog import Backlog, Backlogs
from trio_templar.errors import GONE, SLOW_BYTES, SLOW_CAUSES, SLOW_FRAMES, SLOW_ROOM, Close


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


@dataclass(frozen=True, slots=True)
class Overdue:
    """What waited for a client at the moment it was cut; `policies` are those of the rooms it came from."""

    bytes: int
    frames: int
    oldest_seconds: float
    policies: Collection[Kind]


class Outbox:
    """Frames on their way to one client, in order; replies go before publications that wait.

    Any task of the gateway may put; only the write loop of its connection calls `unsent` and `sent`.
    `publications` counts those sent, `lost` those that policies left out; `overdue` is of a client that was cut.
    """

    __slots__ = (
        "_backlog",
        "_backlogs",
        "_lost",
        "_owner",
        "_peak_bytes",
        "_wire",
        "closed",
        "overdue",
        "publications",
        "sent_bytes",
    )

    def __init__(self, wire: Writer, owner: Owner, backlogs: Backlogs) -> None:
        self._wire = wire
        self._owner: Owner | None = owner
        self._backlogs = backlogs
        self._backlog: Backlog | None = None
        self._lost = self._peak_bytes = 0
        self.closed: Close | None = None
        self.overdue: Overdue | None = None
        self.publications = 0
        self.sent_bytes = 0

    def put(self, subscription: Subscription, batch: Batch) -> None:
        """Send the publications of `batch`, or let them wait. A client over its bounds is cut instead."""
        if self.closed is not None:
            self._refuse(batch)
        elif self._backlog is None and batch.count > 1 and batch.size > self._backlogs.join_bytes:
            for part in batch.parts:  # what a full socket leaves of one write could not be left out
                self.put(subscription, part)
        elif self._backlog is None:
            self.publications += batch.count
            self._write(batch.render(subscription.request_id), batch)
        elif self._has_room(self._backlog, subscription):
            self._backlog.put_off(subscription, batch)
        else:
            self._refuse(batch)

    def reply(self, frame: bytes) -> None:
        """Send one whole frame that is no publication, before publications that wait."""
        if self.closed is not None:
            return
        if self._backlog is None:
            self._write(frame, None)
        elif self._has_room(self._backlog, None):
            self._backlog.say(frame)

    def void(self, subscription: Subscription) -> None:
        """Give up what waits for `subscription`, which has ended."""
        if self._backlog is not None:
            self._backlog.void(subscription)

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
            self._write(frame or close_frame(close), None)
        else:
            self._backlog.farewell = frame or close_frame(close)
        if self._owner is not None:
            self._owner.closing()

    def cut(self, close: Close) -> None:
        """Close without the publications that wait: the client is too slow for them."""
        if self.closed is not None:
            return
        if self._backlog is not None:
            backlog, waited = self._backlog, self.waiting_frames
            if close in SLOW_CAUSES:  # else silence is to blame
                self._backlogs.drops[close] += 1
                self.overdue = Overdue(backlog.bytes, waited, self._backlogs.now() - backlog.oldest, backlog.policies)
            given_up = backlog.drop_publications()
            self.publications -= given_up
            self._backlogs.losses.dropped["disconnect"] += waited - self.waiting_frames + given_up
        self.close(close)

    def expire(self, before: float) -> bool:
        """Leave out what has waited since `before` or longer, as far as policies allow; return whether all of it."""
        if self._backlog is None:
            return True
        self._backlog.expire(before)
        return self._backlog.oldest > before

    def discard(self) -> None:
        """Give up what waits."""
        if self._backlog is not None:
            self._end_backlog(self._backlog)

    def end(self) -> None:
        """Give up what waits, and let go of the connection; it was closed.

        They point at each other, and the garbage collector, which alone could take such a circle away, runs rarely.
        """
        self.discard()
        self._owner = None

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait."""
        return self._backlog.bytes if self._backlog else 0

    @property
    def waiting_frames(self) -> int:
        """How many frames wait, beside what is being written."""
        return self._backlog.frames if self._backlog else 0

    @property
    def peak_bytes(self) -> int:
        """The most bytes that ever waited."""
        return max(self._peak_bytes, self._backlog.peak_bytes if self._backlog else 0)

    @property
    def lost(self) -> int:
        """Publications that a policy left out."""
        return self._lost + (self._backlog.lost if self._backlog else 0)

    @property
    def oldest(self) -> float | None:
        """Since when the oldest of what waits does (the gateway's clock), or None if nothing does."""
        return self._backlog.oldest if self._backlog else None

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
            self.publications += backlog.advance()
            if not backlog.unsent:
                self._end_backlog(backlog)
                return None
        return backlog.unsent

    def sent(self, size: int) -> None:
        """Take note that the first `size` bytes of `unsent` are written."""
        self.sent_bytes += size
        if self._backlog is not None:  # else it was given up meanwhile
            self._backlog.sent(size)

    def _write(self, data: bytes, batch: Batch | None) -> None:
        try:
            size = self._wire.write_nowait(data)
        except OSError:
            self.close(GONE)
            if batch is not None:
                self._refuse(batch)
            return
        self.sent_bytes += size
        if size != len(data):
            self._backlog = Backlog(data, size, batch, self._backlogs)
            self._backlogs.outboxes.add(self)
            if self._owner is not None:
                self._owner.start_writing()

    def _refuse(self, batch: Batch) -> None:
        for tally in batch.tallies:
            tally.refuse()

    def _has_room(self, backlog: Backlog, subscription: Subscription | None) -> bool:
        """Cut a client over its bounds when no policy makes room."""
        if not backlog.make_room():
            self.cut(SLOW_BYTES if backlog.bytes > self._backlogs.max_bytes else SLOW_FRAMES)
        elif subscription is not None and backlog.over(subscription):
            self.cut(SLOW_ROOM)
        return self.closed is None

    def _end_backlog(self, backlog: Backlog) -> None:
        backlog.end()
        self._lost += backlog.lost
        self._peak_bytes = max(self._peak_bytes, backlog.peak_bytes)
        self._backlog = None
        self._backlogs.outboxes.discard(self)
