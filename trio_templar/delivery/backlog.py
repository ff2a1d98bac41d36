"""What waits for one client whose socket was full, in the order it is written: unsent, replies, publications, farewell.

Publications wait as references in a bounded memory channel, rendered when they are written. So shared data is kept
once, and an unsubscribe, a conflation or a drop changes what a waiting reference becomes: nothing.

No task waits at this channel: the write loop waits for the socket, and takes what is there by then. It is the order in
which all subscriptions of a client are written, where `Queue` has the order of one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from trio_templar.core.frames import Batch, gap_frame
from trio_templar.core.hub import Subscription
from trio_templar.core.policies import Kind, Policy
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.sizes import Sizes
from trio_templar.delivery.write import Piece, Write
from trio_templar.errors import Close

if TYPE_CHECKING:
    from trio_templar.delivery.outbox import Outbox

# The most that is rendered and joined at once for a client whose socket was full; it can no longer be left out, so it
# is also at most this part of what may wait.
WRITE_BYTES: Final = 65_536
WRITE_SHARE: Final = 4
# What a reference, and its places in the queues, take beside what they refer to.
REFERENCE_BYTES: Final = 250


@dataclass(slots=True)
class Losses:
    """What became of publications that had to wait, in a whole gateway; each is counted for each client.

    `queued` have waited. Of them, newer ones took the place of `conflated`; `dropped` were dropped, by the policy of
    their room (`disconnect`: with the client). What had no reader left is in neither.
    """

    queued: int = 0
    conflated: int = 0
    dropped: dict[Kind, int] = field(default_factory=lambda: {"disconnect": 0, "drop_oldest": 0, "conflate": 0})


class Backlogs:
    """What waits in all outboxes of one gateway; the bounds of each, and their clock.

    `outboxes` are those in which something waits, `drops` counts the clients that were cut, by why.
    """

    def __init__(self, max_bytes: int, max_frames: int, budget: Budget, now: Callable[[], float]) -> None:
        self.max_bytes = max_bytes
        self.max_frames = max_frames
        self.join_bytes = min(WRITE_BYTES, max_bytes // WRITE_SHARE)
        self.budget = budget
        self.now = now
        self.losses = Losses()
        self.outboxes: set[Outbox] = set()
        self.drops: Counter[Close] = Counter()
        self.bytes = 0  # shared ones count for each client here


class Reference:
    """A batch that waits for one subscription, in its `queue`, `since` then; without a batch it is void."""

    __slots__ = ("batch", "queue", "since")

    def __init__(self, queue: Queue, batch: Batch, since: float) -> None:
        self.queue = queue
        self.batch: Batch | None = batch
        self.since = since


class Queue:
    """What waits for one subscription: its references in order, and how many bytes.

    It is yet to be told that it lost so many publications; the first of them was at the position `lost_from`.
    """

    __slots__ = ("by_key", "bytes", "lost", "lost_from", "policy", "references", "subscription")

    def __init__(self, subscription: Subscription, policy: Policy) -> None:
        self.subscription = subscription
        self.policy = policy
        self.references: deque[Reference] = deque()
        self.by_key: dict[bytes, Reference] = {}
        self.bytes = 0
        self.lost = self.lost_from = 0

    def lose(self, batch: Batch) -> None:
        """Take note that the publications of `batch` are left out."""
        # With a key, what came later may be left out first.
        self.lost_from = min(self.lost_from, batch.position) if self.lost else batch.position
        self.lost += batch.count


class Backlog:
    """What waits for one client. `bytes` counts it and what is written next, `frames` does not count the latter."""

    def __init__(self, data: bytes, sent: int, batch: Batch | None, backlogs: Backlogs) -> None:
        self._backlogs = backlogs
        self._replies: list[bytes] = []
        self._queues: dict[Subscription, Queue] = {}
        self._sizes: dict[Kind, Sizes[Queue]] = {}  # of what may be lost
        # Twice the bound, so that void references are taken out once in `max_frames` puts at most.
        self._capacity = 2 * backlogs.max_frames
        self._send: trio.MemorySendChannel[Reference] | None = None
        self._receive: trio.MemoryReceiveChannel[Reference]
        self._in_channel = 0
        self.farewell = b""
        self.bytes = self.frames = self.peak_bytes = self.lost = 0
        self._write = Write((), 0, backlogs.now(), backlogs.budget)
        self._write_next([(data, batch)], backlogs.now(), sent)
        if batch is not None:
            self._count_queued(batch)

    # What comes in

    def say(self, frame: bytes) -> None:
        """Let a reply wait, before all publications."""
        self._replies.append(frame)
        self._backlogs.budget.take(len(frame))
        self._count(len(frame), 1)

    def put_off(self, subscription: Subscription, batch: Batch) -> None:
        """Let `batch` wait; what waits for this subscription gives way if the room's policy is that."""
        queue = self._queues.get(subscription)
        if queue is None:
            assert subscription.room is not None
            queue = self._queues[subscription] = Queue(subscription, subscription.room.policy)
        if queue.policy.kind == "disconnect":
            self._append(queue, batch)
            return
        for part in batch.parts:
            if queue.policy.kind == "conflate":
                self._conflate(queue, part)
            self._trim(queue)
            self.make_space()  # for the second part of a batch and on, of which the first may be lost
            self._append(queue, part)

    def over(self, subscription: Subscription) -> bool:
        """Whether more waits for `subscription` than its room may have here, and nothing of it may be lost."""
        queue = self._queues.get(subscription)
        return queue is not None and queue.policy.kind == "disconnect" and queue.bytes > queue.policy.outbox_bytes

    def make_space(self) -> bool:
        """Drop what may be lost until the bounds hold, conflatable publications first; return whether they do."""
        kinds: list[Kind] = ["conflate", "drop_oldest"]
        while self.full:
            sizes = self._sizes.get(kinds[0])
            if sizes is not None and (queue := sizes.large) is not None:
                self._drop_oldest(queue)
            elif len(kinds) > 1:
                kinds.pop(0)
            else:
                return False
        return True

    def first_waiting(self, subscription: Subscription) -> int | None:
        """Return the position of the first publication that `subscription` is yet to be sent, or told that it lost."""
        queue = self._queues.get(subscription)
        if queue is None:
            return None
        reference = self._head(queue)
        found = [queue.lost_from] if queue.lost else []
        if reference is not None and reference.batch is not None:
            found.append(reference.batch.position)
        return min(found, default=None)

    @property
    def full(self) -> bool:
        """Whether a bound is reached, judged by what waits already: a large publication never cuts a quick one."""
        return self.bytes > self._backlogs.max_bytes or self.frames >= self._backlogs.max_frames

    # What goes out

    def take_write(self) -> memoryview:
        """Return the rest of the last write, or take the next one: replies, or else publications, or the farewell."""
        if not self._write.unsent:
            since = self._backlogs.now()
            pieces: list[Piece] = [(reply, None) for reply in self._replies]
            if pieces:
                self._give_up_replies()
            else:
                pieces, since = self._render(since)
            if not pieces:
                pieces, self.farewell = [(self.farewell, None)], b""
            self._write_next(pieces, since)
        return self._write.unsent

    def sent(self, size: int) -> int:
        """Take note that the first `size` bytes of `take_write` are written; return the publications this completes."""
        self._count(-size, 0)
        return self._write.sent(size)

    @property
    def under_way(self) -> int:
        """How many publications are in what is written next."""
        return self._write.count

    @property
    def empty(self) -> bool:
        """Whether nothing is left to write."""
        if self._write.unsent or self.frames or self.farewell:
            return False
        return not any(queue.lost for queue in self._queues.values())

    @property
    def oldest(self) -> float:
        """Since when the oldest of what waits does."""
        references = (self._head(queue) for queue in self._queues.values())
        return min([self._write.since, *(reference.since for reference in references if reference is not None)])

    @property
    def bytes_to_keep(self) -> int:
        """The bytes that no policy may leave out."""
        return self.bytes - sum(queue.bytes for queue in self._queues.values() if queue.policy.kind != "disconnect")

    @property
    def policies(self) -> set[Kind]:
        """The policies of those rooms of which something waits."""
        return {queue.policy.kind for queue in self._queues.values() if queue.bytes}

    # What is given up

    def void(self, subscription: Subscription) -> None:
        """Give up what waits for a subscription that has ended."""
        queue = self._queues.pop(subscription, None)
        if queue is not None:
            while (reference := self._head(queue)) is not None:
                self._give_up(reference)

    def drop_stale(self, before: float) -> None:
        """Drop what has waited since `before` or longer, as far as policies allow."""
        for queue in list(self._queues.values()):
            if queue.policy.kind != "disconnect":
                while (reference := self._head(queue)) is not None and reference.since <= before:
                    self._drop_oldest(queue)

    def drop_publications(self) -> int:
        """Drop all publications but those that may be under way; return how many."""
        frames, unsent = self.frames, len(self._write.unsent)
        self._give_up_publications()
        dropped = frames - self.frames + self._write.shorten()
        self._count(len(self._write.unsent) - unsent, 0)
        return dropped

    def end(self) -> None:
        """Give up everything."""
        self._give_up_publications()
        self._give_up_replies()
        self._write.give_up()
        self._count(-self.bytes, -self.frames)
        if self._send is not None:
            self._send.close()
            self._receive.close()

    def _give_up_replies(self) -> None:
        size = sum(map(len, self._replies))
        self._backlogs.budget.give(size)
        self._count(-size, -len(self._replies))
        self._replies = []

    def _give_up_publications(self) -> None:
        for subscription in list(self._queues):
            self.void(subscription)

    def _append(self, queue: Queue, batch: Batch) -> None:
        if self._send is None:  # a remainder alone needs none, and it costs more than a write
            self._send, self._receive = trio.open_memory_channel[Reference](self._capacity)
        if self._in_channel == self._capacity:
            self._compact(self._send)
        reference = Reference(queue, batch, self._backlogs.now())
        self._send.send_nowait(reference)  # never over: each that is not void is at least one frame
        self._in_channel += 1
        queue.references.append(reference)
        if (key := batch.conflation_key(queue.policy.conflate_by)) is not None:
            queue.by_key[key] = reference
        self._backlogs.budget.hold_batch(batch)
        self._backlogs.budget.take(REFERENCE_BYTES)
        self._resize(queue, batch.size)
        self._count(batch.size, batch.count)
        self._count_queued(batch)

    def _count_queued(self, batch: Batch) -> None:
        self._backlogs.losses.queued += batch.count
        for tally in batch.tallies:
            tally.queue()

    def _compact(self, send: trio.MemorySendChannel[Reference]) -> None:
        """Take void references out of the channel."""
        kept = [reference for reference in self._in_order() if reference.batch is not None]
        for reference in kept:
            send.send_nowait(reference)
        self._in_channel = len(kept)
        for queue in self._queues.values():
            queue.references = deque(reference for reference in queue.references if reference.batch is not None)

    def _conflate(self, queue: Queue, part: Batch) -> None:
        """Give up what `part` takes the place of: all that waits, or what has the same key."""
        path = queue.policy.conflate_by
        if not path:
            while (reference := self._head(queue)) is not None:
                self._conflate_one(reference)
        elif (key := part.conflation_key(path)) is not None and (known := queue.by_key.get(key)) is not None:
            self._conflate_one(known)

    def _conflate_one(self, reference: Reference) -> None:
        batch = self._take_back(reference)
        reference.queue.lose(batch)
        self.lost += batch.count
        self._backlogs.losses.conflated += batch.count
        for tally in batch.tallies:
            tally.conflate()

    def _trim(self, queue: Queue) -> None:
        while queue.bytes > queue.policy.outbox_bytes:
            self._drop_oldest(queue)

    def _drop_oldest(self, queue: Queue) -> None:
        reference = self._head(queue)
        assert reference is not None
        batch = self._give_up(reference)
        queue.lose(batch)
        self.lost += batch.count
        self._backlogs.losses.dropped[queue.policy.kind] += batch.count

    def _give_up(self, reference: Reference) -> Batch:
        batch = self._take_back(reference)
        for tally in batch.tallies:
            tally.drop()
        return batch

    def _take_back(self, reference: Reference) -> Batch:
        """Make `reference` void, and return what it referred to."""
        batch = reference.batch
        assert batch is not None
        queue = reference.queue
        reference.batch = None
        if (key := batch.conflation_key(queue.policy.conflate_by)) is not None and queue.by_key[key] is reference:
            del queue.by_key[key]
        self._backlogs.budget.release_batch(batch)
        self._backlogs.budget.give(REFERENCE_BYTES)
        self._resize(queue, -batch.size)
        self._count(-batch.size, -batch.count)
        return batch

    def _head(self, queue: Queue) -> Reference | None:
        """Return the oldest reference of `queue`."""
        while queue.references and queue.references[0].batch is None:
            queue.references.popleft()
        return queue.references[0] if queue.references else None

    def _resize(self, queue: Queue, size: int) -> None:
        before = queue.bytes
        queue.bytes += size
        kind = queue.policy.kind
        if kind != "disconnect":
            if kind not in self._sizes:
                self._sizes[kind] = Sizes()
            self._sizes[kind].change(queue, before, queue.bytes)

    def _render(self, since: float) -> tuple[list[Piece], float]:
        """Take the references that fit one write, and at the end what is to be said of losses."""
        pieces: list[Piece] = []
        size = 0
        for reference in self._in_order():
            if reference.batch is None:
                continue
            if reference.queue.lost:
                pieces.append((self._gap(reference.queue), None))
            since = min(since, reference.since)
            batch = self._take_back(reference)
            subscription = reference.queue.subscription
            pieces.append((batch.render_once(subscription.request_id, subscription.epoch), batch))
            size += batch.size
            if size >= self._backlogs.join_bytes:
                return pieces, since
        pieces += [(self._gap(queue), None) for queue in self._queues.values() if queue.lost]
        self._queues = {}
        return pieces, since

    def _in_order(self) -> Iterator[Reference]:
        """Take the references out of the channel, one after the other."""
        while self._in_channel:
            self._in_channel -= 1
            yield self._receive.receive_nowait()

    def _gap(self, queue: Queue) -> bytes:
        lost, queue.lost = queue.lost, 0
        return gap_frame(queue.subscription.request_id, lost)

    def _write_next(self, pieces: Sequence[Piece], since: float, sent: int = 0) -> None:
        self._write = Write(pieces, sent, since, self._backlogs.budget)
        self._count(len(self._write.unsent), 0)

    def _count(self, size: int, frames: int) -> None:
        self.bytes += size
        self.frames += frames
        self._backlogs.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)
