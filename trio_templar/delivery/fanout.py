"""From a trigger to the outboxes: all or nothing, decided at once; coalesced where that is cheaper.

A small room in which nothing waits is delivered to inline: by `hand_on` itself. Otherwise publications go into
the room's channel, and a fan-out loop, started then, takes everything that waits there in one pass.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import trio

from trio_templar.core.frames import PUBLICATION_BYTES, Batch, Publication
from trio_templar.core.hub import Hub, LiveRoom, Subscription
from trio_templar.core.triggers import Trigger
from trio_templar.counters import DELIVERY_BOUNDS, Histogram
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.entrance import Bounds, Entrance, Plan

logger = logging.getLogger("trio_templar.connection")  # which logs a crash of its own by the same name

# A room is small while it has so few subscribers: a pass over it costs less than starting a loop for it.
SMALL_SUBSCRIBERS: Final = 16
# One pass hands at most so many bytes to a subscriber: what a socket's send buffer takes at once.
PASS_BYTES: Final = 65_536
# Between two checkpoints a pass delivers at most so many batches and bytes, or other clients would notice.
TURN_DELIVERIES: Final = 100
TURN_BYTES: Final = 1_048_576
# Coalescing: before an expensive pass, wait while triggers keep arriving, each within a share of the cost of the pass,
# and in all for no longer than so many passes. With three eighths, a publisher that posts again once it is answered
# still joins: measured on one room, a delivery took 0.15 of a bare send loop instead of 0.19.
DELIVERY_SECONDS: Final = 8e-6  # what one is taken to cost; only to judge what a pass will cost
EXPENSIVE_SECONDS: Final = 0.002  # a pass that costs less is not worth waiting for
ARRIVAL_SHARE: Final = 0.375
COALESCING_PASSES: Final = 2


class RoomChannel:
    """Publications between trigger and fan-out for one room, in order. Their bounds are the entrance's.

    `taken` counts those that a pass took out, `passed` those of them whose pass is over: a drain waits for them.
    Everybody was offered what the room got up to the position `offered`, but for the `pending` subscriptions, which the
    pass that is being made has yet to reach. `published_at` is when the publications of that pass were published.
    """

    __slots__ = ("_before", "_waiting", "bytes", "offered", "passed", "pending", "published_at", "taken")

    def __init__(self, offered: int) -> None:
        self.offered = self._before = offered  # `_before` the pass that is being made
        self.pending: Collection[Subscription] = ()
        self._waiting: deque[tuple[Publication, float]] = deque()
        self.bytes = 0
        self.taken = self.passed = 0
        self.published_at: list[float] = []

    @property
    def publications(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def put(self, batch: Batch, now: float) -> None:
        """Let the publications of `batch` wait; there must be space for them."""
        self._waiting.extend([(publication, now) for publication in batch.publications])
        self.bytes += batch.size

    def take(self) -> Batch:
        """Take what waits, up to the bytes of a pass, and at least one; something must wait."""
        taken: list[Publication] = []
        size, self.published_at = 0, []
        # Not a publication over the bound: an outbox would make two writes of the pass.
        while self._waiting and (not taken or size + self._waiting[0][0].size <= PASS_BYTES):
            publication, published = self._waiting.popleft()
            taken.append(publication)
            self.published_at.append(published)
            size += publication.size
        self.bytes -= size
        # Before the pass: who comes while it is made is not offered it.
        self._before, self.offered = self.offered, taken[-1].position
        self.passed = self.taken  # the pass before this one is over; after the last one the channel is gone
        self.taken += len(taken)
        return Batch(taken)

    def offered_to(self, subscription: Subscription) -> int:
        """Return up to which position `subscription` was offered what the room got."""
        return self._before if subscription in self.pending else self.offered


class Fanout:
    """The publications in flight in one gateway. Its loops run in the rooms nursery.

    `entrance` is where publishers ask first: what is handed on was let in, and is not judged again.
    """

    def __init__(self, hub: Hub, nursery: trio.Nursery, budget: Budget, bounds: Bounds) -> None:
        self._hub = hub
        self._nursery = nursery
        self._budget = budget
        self.entrance = Entrance(budget, bounds)
        self.in_flight_bytes = 0
        self.triggers = 0
        self.publications = 0
        self.deliveries = 0
        self._passed: dict[float, int] = {}  # how many are not in `seconds` yet though passed, by their trigger
        self.seconds = Histogram(DELIVERY_BOUNDS)  # of each publication, from its trigger to the last write of its pass

    def plan(self, triggers: Sequence[Trigger]) -> Plan:
        """Return what `hand_on` will do with `triggers`. Nothing is done yet; it holds until the next checkpoint."""
        batches = self._by_room(triggers)
        inline = self._inline(batches)
        waiting = [batch for room, batch in batches if room not in inline]
        return Plan(len(triggers), batches, inline, _cost(waiting) if waiting else 0)

    def hand_on(self, plan: Plan, now: float) -> None:
        """Put the publications of `plan`, which were published `now`, on their way."""
        self.triggers += plan.triggers
        small_rooms: deque[LiveRoom] = deque()
        delivered = 0
        for room, batch in plan.batches:
            self.publications += batch.count
            room.publications += batch.count
            batch.expect()
            if room in plan.inline:
                self._deliver(room, batch, room.subscriptions)
                batch.finish()
                delivered += batch.count
            else:
                self._enqueue(room, batch, small_rooms, now)
        if small_rooms:
            self._nursery.start_soon(self._fanout_loop, small_rooms, name="small rooms")
        if delivered:
            self.seconds.observe(trio.current_time() - now, delivered)

    def probe(self, room: LiveRoom, batch: Batch) -> None:
        """Put `batch` on its way to `room`, which is in no hub, through a channel and a loop. It is not counted.

        Raises Full: if the channel, or memory, is full.
        Raises TooLarge: if memory never holds it.
        Raises Busy: if the entrance is closed.
        """
        self.entrance.check(Plan(0, [(room, batch)], frozenset(), _cost([batch])))
        rooms: deque[LiveRoom] = deque()
        self._enqueue(room, batch, rooms, trio.current_time())
        if rooms:
            self._nursery.start_soon(self._fanout_loop, rooms, name=f"room {room.key.decode()}")

    def discount(self, deliveries: int) -> None:
        """Leave `deliveries` that are being made out of the count; for the receiver of a probe."""
        self.deliveries -= deliveries

    def _by_room(self, triggers: Sequence[Trigger]) -> list[tuple[LiveRoom, Batch]]:
        by_room: dict[LiveRoom, list[Publication]] = {}
        rooms = self._hub.rooms
        for room_keys, publication, tallies, _ in triggers:
            for index, key in enumerate(room_keys):
                room = rooms.get(key)
                if room is not None:
                    counted = publication if tallies is None else publication._replace(tally=tallies[index])
                    by_room.setdefault(room, []).append(counted)
        return [(room, Batch(publications)) for room, publications in by_room.items()]

    def _inline(self, batches: Sequence[tuple[LiveRoom, Batch]]) -> AbstractSet[LiveRoom]:
        """Return the rooms that are delivered to without a task switch: those that may, until a turn is used up."""
        rooms, turn_left = set(), TURN_BYTES
        for room, batch in batches:
            if turn_left > 0 and self._is_inline(room, batch):
                turn_left -= _turn_share(batch) * len(room.subscriptions)
                rooms.add(room)
        return rooms

    def _is_inline(self, room: LiveRoom, batch: Batch) -> bool:
        """Whether `room` is small, nothing waits there, and `batch` is no more than a pass."""
        return room.channel is None and _is_small(room) and (batch.count == 1 or batch.size <= PASS_BYTES)

    def _enqueue(self, room: LiveRoom, batch: Batch, small_rooms: deque[LiveRoom], now: float) -> None:
        """Let `batch` wait in the channel of `room`. A new one gets its loop, or a place in that of `small_rooms`."""
        if room.channel is None:
            room.channel = RoomChannel(batch.position - 1)
            if _is_small(room):
                small_rooms.append(room)
            else:
                self._nursery.start_soon(self._fanout_loop, deque([room]), name=f"room {room.key.decode()}")
        room.channel.put(batch, now)
        self.in_flight_bytes += batch.size
        self._budget.hold_publications(batch.publications)

    async def _fanout_loop(self, rooms: deque[LiveRoom]) -> None:
        """Deliver what waits in the channels of `rooms`, a pass for each in turn, until nothing does."""
        turn_left = TURN_BYTES
        try:
            while rooms:
                await self._coalesce(rooms[0], rooms[0].channel)
                room = rooms[0]
                batch = room.channel.take()
                self.entrance.note_space(room)
                self.in_flight_bytes -= batch.size
                turn_left = await self._pass(room, batch, turn_left)
                self._note_passed(room)
                if turn_left <= 0 or len(rooms) == 1:
                    self._observe_passed()
                rooms.popleft()
                if room.channel.publications:
                    rooms.append(room)
                else:
                    self._end_channel(room)
        finally:
            for room in rooms:
                self._end_channel(room)

    def _end_channel(self, room: LiveRoom) -> None:
        room.channel = None
        self.entrance.note_empty(room)

    def _note_passed(self, room: LiveRoom) -> None:
        """Take note of the publications that a pass over `room` has offered to all."""
        if room.publications:  # a probe is no client's
            for published in room.channel.published_at:
                self._passed[published] = self._passed.get(published, 0) + 1

    def _observe_passed(self) -> None:
        """Count how long those took that were noted since the last time."""
        now = trio.current_time()
        for published, times in self._passed.items():
            self.seconds.observe(now - published, times)
        self._passed.clear()

    async def _coalesce(self, room: LiveRoom, channel: RoomChannel) -> None:
        """Wait for the triggers already on their way: one more in a pass costs far less than one more pass."""
        cost = len(room.subscriptions) * DELIVERY_SECONDS
        if cost < EXPENSIVE_SECONDS:
            return
        known = 0
        with trio.move_on_after(COALESCING_PASSES * cost):
            while known != (known := channel.publications):  # noqa: ASYNC110  # an event would cost each put
                await trio.sleep(cost * ARRIVAL_SHARE)

    async def _pass(self, room: LiveRoom, batch: Batch, turn_left: int) -> int:
        """Offer `batch` to all, with a checkpoint after each turn. Bytes of a turn go in and come out: what is left."""
        self._budget.take(batch.size)  # the pieces of its frames
        pending = room.channel.pending = list(room.subscriptions)
        share = _turn_share(batch)
        while pending:
            if turn_left <= 0:
                await trio.lowlevel.checkpoint()
                turn_left = TURN_BYTES
            some = pending[: max(1, turn_left // share)]
            self._deliver(room, batch, some)
            turn_left -= share * len(some)
            del pending[: len(some)]
        batch.finish()
        self._budget.give(batch.size)
        self._budget.release_publications(batch.publications)
        return turn_left

    def _deliver(self, room: LiveRoom, batch: Batch, subscriptions: Iterable[Subscription]) -> None:
        """Offer `batch` to `subscriptions`. A fault of ours on the way to one client ends that client alone."""
        offered = 0
        remaining = iter(tuple(subscriptions))  # a put may end subscriptions
        while True:
            try:
                for subscription in remaining:
                    if subscription.room is room:
                        offered += 1
                        if subscription.after and batch.position <= subscription.after:
                            _put_rest(subscription, batch)
                        else:
                            subscription.receiver.put(subscription, batch)
                break
            except Exception:
                logger.exception("a connection crashed")
                subscription.receiver.crash()
                batch.refuse()
        self.deliveries += offered * batch.count
        for tally in batch.tallies:
            tally.offer(offered)


def _cost(batches: Iterable[Batch]) -> int:
    """Return the memory that the publications of `batches` take while they wait; their bytes count once."""
    count = 0
    shared: dict[int, int] = {}
    for batch in batches:
        count += batch.count
        for left, right, _, _ in batch.publications:
            shared[id(left)] = len(left)
            shared[id(right)] = len(right)
    return PUBLICATION_BYTES * count + sum(shared.values())


def _is_small(room: LiveRoom) -> bool:
    return len(room.subscriptions) <= SMALL_SUBSCRIBERS


def _put_rest(subscription: Subscription, batch: Batch) -> None:
    """Put what `subscription` has not seen yet of `batch`."""
    rest = batch.behind(subscription.after)
    if rest is not None:
        subscription.receiver.put(subscription, rest)


def _turn_share(batch: Batch) -> int:
    """Return the bytes of a turn that one delivery of `batch` uses up; a small one takes its time too."""
    return max(batch.size, -(-TURN_BYTES // TURN_DELIVERIES))
