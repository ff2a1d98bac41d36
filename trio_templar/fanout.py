"""From a trigger to the outboxes: all or nothing, decided at once; coalesced where that is cheaper.

A room that has few subscribers and nothing waiting is delivered to inline. Otherwise publications go into the room's
bounded memory channel and a fan-out loop, started then, takes everything that waits there in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import trio

from trio_templar.errors import Busy, TooLarge
from trio_templar.frames import Batch, Publication
from trio_templar.hub import Hub, Room, Subscription
from trio_templar.triggers import Trigger

# A pass over so few subscribers costs less than starting a loop for it.
INLINE_SUBSCRIBERS: Final = 16
# One pass hands at most so many bytes to a subscriber: what a socket's send buffer takes at once.
PASS_BYTES: Final = 65_536
# Between two checkpoints a pass delivers at most so many batches and bytes, or other clients would notice.
TURN_DELIVERIES: Final = 100
TURN_BYTES: Final = 1_048_576
# What one delivery is taken to cost; only to judge what a pass over a room will cost.
DELIVERY_SECONDS: Final = 8e-6
# A pass that costs less is not worth waiting for. Before others: wait while triggers keep arriving, each within this
# share of the cost of the pass, and in all for no longer than so many passes.
EXPENSIVE_SECONDS: Final = 0.002
ARRIVAL_SHARE: Final = 0.375
COALESCING_PASSES: Final = 2


class RoomChannel:
    """Publications between trigger and fan-out for one room, bounded in number."""

    __slots__ = ("receive", "send")

    def __init__(self, max_publications: int) -> None:
        self.send, self.receive = trio.open_memory_channel[Publication](max_publications)

    @property
    def waiting(self) -> int:
        """Publications that wait."""
        return self.send.statistics().current_buffer_used

    def take(self) -> list[Publication]:
        """Take what waits, up to the bytes of a pass, and at least one if there is one."""
        taken: list[Publication] = []
        size = 0
        while size < PASS_BYTES:
            try:
                taken.append(self.receive.receive_nowait())
            except trio.WouldBlock:
                break
            size += taken[-1].size
        return taken

    def close(self) -> None:
        """Let go of both ends."""
        self.send.close()
        self.receive.close()


class Fanout:
    """The publications in flight in one gateway. Its loops run in the rooms nursery."""

    def __init__(
        self,
        hub: Hub,
        nursery: trio.Nursery,
        *,
        room_publications: int,
        in_flight_bytes: int,
        max_waiting: int,
        wait_seconds: float,
    ) -> None:
        self._hub = hub
        self._nursery = nursery
        self._room_publications = room_publications
        self._max_bytes = in_flight_bytes
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        self._waiters = trio.lowlevel.ParkingLot()
        self.in_flight_bytes = 0
        self.triggers = 0
        self.publications = 0
        self.deliveries = 0

    async def publish(self, triggers: Sequence[Trigger]) -> None:
        """Put all publications of `triggers` on their way, in order; blocks while a room of theirs is full.

        Raises Busy: if there was no room for all of them in time; then none was published.
        Raises TooLarge: if they would not fit into an empty gateway.
        """
        await trio.lowlevel.checkpoint()
        if self.publish_nowait(triggers):
            return
        if len(self._waiters) >= self._max_waiting:
            raise Busy("too many triggers wait already (max_triggers_waiting)")
        with trio.move_on_after(self._wait_seconds):
            while True:
                await self._waiters.park()
                if self.publish_nowait(triggers):
                    return
        raise Busy("a room, or the gateway, is full (room_publications, in_flight_bytes)")

    def publish_nowait(self, triggers: Sequence[Trigger]) -> bool:
        """Put all publications on their way, or none: return whether they fit.

        Raises TooLarge: if they never will.
        """
        batches = self._by_room(triggers)
        if not self._fit(batches):
            return False
        self.triggers += len(triggers)
        for room, batch in batches:
            self._put(room, batch)
        return True

    def _by_room(self, triggers: Sequence[Trigger]) -> list[tuple[Room, Batch]]:
        """Return what each room that somebody is in would get, in order."""
        by_room: dict[Room, list[Publication]] = {}
        rooms = self._hub.rooms
        for keys, publication in triggers:
            for key in keys:
                room = rooms.get(key)
                if room is not None:
                    by_room.setdefault(room, []).append(publication)
        return [(room, Batch(publications)) for room, publications in by_room.items()]

    def _fit(self, batches: Sequence[tuple[Room, Batch]]) -> bool:
        size = self.in_flight_bytes
        for room, batch in batches:
            size += batch.size
            if batch.count > self._room_publications:
                raise TooLarge(f"{batch.count} publications for one room at once (room_publications)")
            if room.channel is not None and batch.count + room.channel.waiting > self._room_publications:
                return False
        return self.in_flight_bytes == 0 or size <= self._max_bytes

    def _put(self, room: Room, batch: Batch) -> None:
        self.publications += batch.count
        room.publications += batch.count
        if room.channel is None:
            if len(room.subscriptions) <= INLINE_SUBSCRIBERS and (batch.count == 1 or batch.size <= PASS_BYTES):
                self._deliver(room, batch, room.subscriptions)
                return
            room.channel = RoomChannel(self._room_publications)
            self._nursery.start_soon(self._fanout_loop, room, room.channel, name=f"room {room.key.decode()}")
        for publication in batch.publications:
            room.channel.send.send_nowait(publication)
        self.in_flight_bytes += batch.size

    async def _fanout_loop(self, room: Room, channel: RoomChannel) -> None:
        """Deliver what waits in `channel`, pass by pass, until nothing does."""
        try:
            while channel.waiting:
                await self._let_triggers_in(room, channel)
                batch = Batch(channel.take())
                self.in_flight_bytes -= batch.size
                self._waiters.unpark_all()
                await self._pass(room, batch)
        finally:
            room.channel = None
            channel.close()

    async def _let_triggers_in(self, room: Room, channel: RoomChannel) -> None:
        """Wait for the triggers already on their way: one more in a pass costs far less than one more pass."""
        cost = len(room.subscriptions) * DELIVERY_SECONDS
        if cost < EXPENSIVE_SECONDS:
            return
        known = 0
        with trio.move_on_after(COALESCING_PASSES * cost):
            while known != (known := channel.waiting):  # noqa: ASYNC110  # an event would cost each put
                await trio.sleep(cost * ARRIVAL_SHARE)

    async def _pass(self, room: Room, batch: Batch) -> None:
        """Offer `batch` to everyone who is subscribed now, giving way in between."""
        subscriptions = list(room.subscriptions)
        turn = max(1, min(TURN_DELIVERIES, TURN_BYTES // batch.size))
        for start in range(0, len(subscriptions), turn):
            if start:
                await trio.lowlevel.checkpoint()
            self._deliver(room, batch, subscriptions[start : start + turn])

    def _deliver(self, room: Room, batch: Batch, subscriptions: Iterable[Subscription]) -> None:
        for subscription in tuple(subscriptions):  # a put may end subscriptions
            if subscription.room is room:
                subscription.receiver.put(subscription, batch)
                self.deliveries += batch.count
