"""The bounded way to one client's socket.

If nothing waits, what is put is written at once, without a task switch. What the kernel did not take waits in a
backlog that lasts until it is empty. So an idle connection holds no channel and no task that writes.

Everything here is synchronous: `Outbox` decides, the write loop of its connection does the waiting.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from trio_templar.core.frames import Batch, close_frame
from trio_templar.core.hub import Subscription
from trio_templar.core.policies import Kind, Policy
from trio_templar.delivery.backlog import Backlog, Backlogs
from trio_templar.delivery.closing import Closing, Do, Event
from trio_templar.errors import CRASHED, GONE, SLOW_BYTES, SLOW_CAUSES, SLOW_FRAMES, SLOW_ROOM, Close


class Writer(Protocol):
    """What an outbox writes to."""

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write what can be written without waiting and return its size. Raises OSError: if the peer is gone."""


class Owner(Protocol):
    """What an outbox tells its connection."""

    def start_writing(self) -> None:
        """Start the write loop: something waits, and none is running."""

    def on_closing(self) -> None:
        """Take note that `closing` has come further."""

    def too_slow(self, overdue: Overdue) -> None:
        """Take note that the client is cut."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """What waited for a client at the moment it was cut, and why it was; `policies` are those of the rooms."""

    why: Close
    bytes: int
    frames: int
    oldest_seconds: float
    policies: Collection[Kind]


class Outbox:
    """Frames on their way to one client, in order; replies go before publications that wait.

    Any task of the gateway may put; only the write loop of its connection calls `write_more`.
    `publications` are those that are written, or under way; `lost` those that policies left out.
    """

    __slots__ = (
        "_backlog",
        "_backlogs",
        "_lost",
        "_owner",
        "_peak_bytes",
        "_publications",
        "_wire",
        "closing",
        "sent_bytes",
    )

    def __init__(self, wire: Writer, owner: Owner | None, backlogs: Backlogs) -> None:
        self._wire = wire
        self._owner = owner
        self._backlogs = backlogs
        self._backlog: Backlog | None = None
        self._lost = self._peak_bytes = 0
        self.closing = Closing()
        self._publications = 0
        self.sent_bytes = 0

    # What comes in

    def put(self, subscription: Subscription, batch: Batch) -> None:
        """Send the publications of `batch`, or let them wait. A client over its bounds is cut instead."""
        if not self.closing.open:
            batch.refuse()
        elif self._backlog is None and batch.count > 1 and batch.size > self._backlogs.join_bytes:
            # Of a write that has begun nothing can be left out, so a large batch is several.
            for share in batch.shares(self._backlogs.join_bytes):
                self.put(subscription, share)
        elif self._backlog is None:
            data = batch.render(subscription.request_id, subscription.epoch)
            size = self._write(data)
            if size == len(data):
                self._publications += batch.count
            else:
                self._begin_backlog(data, size, batch)
        elif self._make_space(self._backlog, subscription):
            self._backlog.put_off(subscription, batch)
        else:
            batch.refuse()

    def reply(self, frame: bytes) -> None:
        """Send one whole frame that is no publication, before publications that wait."""
        if not self.closing.open:
            return
        if self._backlog is None:
            self._write_frame(frame)
        elif self._make_space(self._backlog, None):
            self._backlog.say(frame)

    def void(self, subscription: Subscription) -> None:
        """Give up what waits for `subscription`, which has ended."""
        if self._backlog is not None:
            self._backlog.void(subscription)
            self._retract(self._backlog)

    def drop_stale(self, before: float) -> bool:
        """Drop what has waited since `before` or longer, as far as policies allow; return whether some of it stays."""
        if self._backlog is None:
            return False
        self._backlog.drop_stale(before)
        return self._backlog.oldest <= before

    # What goes out

    def write_more(self) -> int:
        """Write what waits, as far as the socket takes it now; return how many bytes it took."""
        backlog = self._backlog
        if backlog is None:
            return 0
        size = self._write(backlog.take_write())
        if self._backlog is backlog:  # else the peer is lost
            self._publications += backlog.sent(size)
            if backlog.empty:
                self._end_backlog(backlog)
                self._happen(Event.WRITTEN)
        return size

    # How it ends

    def close(self, why: Close, frame: bytes | None = None) -> bool:
        """Send what waits, then the close frame (`frame` if it is made already), then nothing. The first reason wins.

        With code 1006 nothing more is sent: there is nobody to send it to. Return whether it makes a difference.
        """
        return self._happen(Event.LOST if why.code == GONE.code else Event.CLOSE, why, frame)

    def cut(self, why: Close) -> bool:
        """Close without the publications that wait: the client is too slow for them, or memory too short.

        One that is being closed loses them too, once, and keeps its reason. Return whether it makes a difference.
        """
        return self._happen(Event.CUT, why)

    def give_up(self) -> None:
        """Give up what waits of a client that is being closed: its time is over."""
        self._happen(Event.LATE)

    def crash(self) -> None:
        """End the client for a fault of ours, and give up what waits. Nothing is raised if that fails again."""
        with suppress(Exception):
            self._happen(Event.CRASHED, CRASHED)

    def end(self, event: Event, why: Close) -> Close:
        """Let go of the connection, which is over, for `why` if nothing else has ended it; return the first reason.

        Outbox and connection point at each other. Only the garbage collector takes such a circle away, and it runs
        rarely.
        """
        self._happen(event, why)
        self._owner = None
        assert self.closing.why is not None
        return self.closing.why

    def _happen(self, event: Event, why: Close = GONE, frame: bytes | None = None) -> bool:
        """Do what `closing` says is to be done at `event`; return whether it has come further."""
        todo = self.closing.on(event, why)
        if todo is None:
            return False
        if self._owner is not None:
            self._owner.on_closing()
        try:
            if Do.DROP in todo and self._backlog is not None:
                self._drop_publications(self._backlog)
            if Do.SAY in todo:
                self._say_last(frame or close_frame(why))
        finally:
            if Do.GIVE_UP in todo and self._backlog is not None:
                self._end_backlog(self._backlog)
        return True

    def _say_last(self, frame: bytes) -> None:
        if self._backlog is not None:
            self._backlog.farewell = frame
            return
        self._write_frame(frame)
        if self._backlog is None:
            self._happen(Event.WRITTEN)

    def _drop_publications(self, backlog: Backlog) -> None:
        why = self.closing.why
        if why is not None and why in SLOW_CAUSES:  # else silence is to blame, or it was being closed already
            self._backlogs.drops[why] += 1
            if self._owner is not None:
                age = self._backlogs.now() - backlog.oldest
                self._owner.too_slow(Overdue(why, backlog.bytes, backlog.frames, age, backlog.policies))
        self._backlogs.losses.dropped["disconnect"] += backlog.drop_publications()
        self._retract(backlog)

    def _retract(self, backlog: Backlog) -> None:
        """Let the last words be the reason alone: what was to be said may be that everything was sent."""
        if backlog.farewell and self.closing.why is not None:
            backlog.farewell = close_frame(self.closing.why)

    # What it is like

    @property
    def closed(self) -> Close | None:
        """Why it is closed, or is being closed; None if it is open."""
        return self.closing.why

    @property
    def publications(self) -> int:
        """Publications that are written, or under way."""
        return self._publications + (self._backlog.under_way if self._backlog else 0)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait."""
        return self._backlog.bytes if self._backlog else 0

    @property
    def bytes_to_keep(self) -> int:
        """How many of the bytes that wait no policy may leave out."""
        return self._backlog.bytes_to_keep if self._backlog else 0

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

    def spare(self, policy: Policy) -> tuple[int, int]:
        """Return how many bytes and frames may be put at once, for a room of this policy, until half of it is full."""
        size = min(self._backlogs.max_bytes // 2 - self.waiting_bytes, policy.outbox_bytes)
        return max(0, size), max(0, self._backlogs.max_frames // 2 - self.waiting_frames)

    def first_waiting(self, subscription: Subscription) -> int | None:
        """Return the position of the first publication that `subscription` is yet to be sent, or told that it lost."""
        return self._backlog.first_waiting(subscription) if self._backlog else None

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return self._backlog is None

    # The way to the socket

    def _write(self, data: bytes | memoryview) -> int:
        """Write what the socket takes of `data`. All bytes to a client pass here, and are counted."""
        try:
            size = self._wire.write_nowait(data)
        except OSError:
            self._happen(Event.LOST)
            return 0
        self.sent_bytes += size
        return size

    def _write_frame(self, frame: bytes) -> None:
        size = self._write(frame)
        if size != len(frame):
            self._begin_backlog(frame, size, None)

    def _begin_backlog(self, data: bytes, sent: int, batch: Batch | None) -> None:
        """Let the rest of `data` wait, of which the first bytes are sent; if the peer is lost nothing waits."""
        if not self.closing.over:
            if self._owner is not None:
                self._owner.start_writing()
            self._backlog = Backlog(data, sent, batch, self._backlogs)
            self._backlogs.outboxes.add(self)
        elif batch is not None:
            batch.refuse()

    def _make_space(self, backlog: Backlog, subscription: Subscription | None) -> bool:
        """Return whether there is space for more, after policies made some; a client that has none is cut."""
        if not backlog.make_space():
            return not self.cut(SLOW_BYTES if backlog.bytes > self._backlogs.max_bytes else SLOW_FRAMES)
        return subscription is None or not backlog.over(subscription) or not self.cut(SLOW_ROOM)

    def _end_backlog(self, backlog: Backlog) -> None:
        self._publications += backlog.under_way
        backlog.end()
        self._lost += backlog.lost
        self._peak_bytes = max(self._peak_bytes, backlog.peak_bytes)
        self._backlog = None
        self._backlogs.outboxes.discard(self)
