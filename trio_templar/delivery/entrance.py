"""Where publishers come in: whether there is space for what they bring, and where they wait until there is.

This is the publisher's side: what is refused here was never published. Fan-out hands on all that was let in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from trio_templar.core.frames import Batch
from trio_templar.core.hub import LiveRoom
from trio_templar.delivery.budget import Budget, Publishers
from trio_templar.errors import Busy, TooLarge

# How much of a room's key is told to a publisher.
SHOWN_BYTES: Final = 200


class Full(trio.WouldBlock):
    """There is no space for a trigger now: in `room`, or in memory if that is None. The text says so."""

    def __init__(self, text: str, room: LiveRoom | None = None) -> None:
        super().__init__(text)
        self.room = room


class Plan(msgspec.Struct, frozen=True):
    """What fan-out will do with some `triggers` (how many): the batch that each room gets, if somebody is in it.

    Rooms in `inline` are delivered to at once. What the others get waits in their channels, and takes `cost` bytes.
    """

    triggers: int
    batches: Sequence[tuple[LiveRoom, Batch]]
    inline: AbstractSet[LiveRoom]
    cost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What may wait: in one room, publications and bytes; before all rooms, triggers, and for how many seconds."""

    room_publications: int
    room_bytes: int
    max_triggers_waiting: int
    wait_seconds: float


class Entrance:
    """The bounds of what may be published. `bounds` can be replaced at any time; what was let in stays."""

    def __init__(self, budget: Budget, bounds: Bounds) -> None:
        self._budget = budget
        self.bounds = bounds
        self._closed = False
        self._waiting = 0  # triggers, before all rooms
        self._full_rooms: defaultdict[LiveRoom, Publishers] = defaultdict(Publishers)  # that had no space for a trigger

    def check(self, plan: Plan) -> None:
        """Return if there is space for `plan`; then what is only kept has given way to it.

        Raises Full (a `trio.WouldBlock`): if a room, or memory, is full. Raises Busy: if `close` was called.
        Raises TooLarge: if it never will fit.
        """
        if self._closed:
            raise Busy("the gateway is stopping")
        for room, batch in plan.batches:
            self._check_room(room, batch)
        if plan.cost > self._budget.soft_bytes:
            raise TooLarge(f"it takes {plan.cost} bytes at once, over {self._budget.soft_bytes} (half of memory_bytes)")
        self._budget.make_space(plan.cost)
        if not self._budget.fits(plan.cost):
            raise Full("the gateway is full (memory_bytes)")

    async def when_free(self, publish: Callable[[], int]) -> int:
        """Return what `publish` does, as soon as it does not raise Full.

        Raises Busy: if it did for `wait_seconds`, or `close` was called; then nothing was published.
        """
        await trio.lowlevel.checkpoint()
        publishers = None  # those of whom this is one, once it had to wait
        with trio.move_on_after(self.bounds.wait_seconds):
            while True:
                try:
                    position = publish()
                except Full as error:
                    full = error
                else:
                    if publishers is not None:
                        publishers.wake_next()
                    return position
                if self._waiting >= self.bounds.max_triggers_waiting:
                    raise Busy(f"{full}, and too many triggers wait already (max_triggers_waiting)")
                publishers = self._budget.publishers if full.room is None else self._full_rooms[full.room]
                self._waiting += 1
                try:
                    await publishers.wait()
                finally:
                    self._waiting -= 1
        raise Busy(f"{full}; nothing was published")

    def note_space(self, room: LiveRoom) -> None:
        """Take note that something has left `room`: let those look who wait for space there."""
        if room in self._full_rooms:
            self._full_rooms[room].wake()

    def note_empty(self, room: LiveRoom) -> None:
        """Take note that nothing is left in `room`: let those look who wait for it, for the last time."""
        if room in self._full_rooms:
            self._full_rooms.pop(room).wake()

    def close(self) -> None:
        """Let nothing more in, also of those who wait."""
        self._closed = True
        for publishers in (self._budget.publishers, *self._full_rooms.values()):
            publishers.wake_all()

    def _check_room(self, room: LiveRoom, batch: Batch) -> None:
        bounds, channel = self.bounds, room.channel
        if batch.count > bounds.room_publications:
            raise TooLarge(f"{batch.count} publications for one room at once (room_publications)")
        if channel is None:
            return
        if batch.count + channel.publications > bounds.room_publications:
            raise Full(f"the room {_shown(room)} is full (room_publications)", room)
        if channel.bytes and batch.size + channel.bytes > bounds.room_bytes:
            raise Full(f"the room {_shown(room)} is full (room_bytes)", room)


def _shown(room: LiveRoom) -> str:
    return room.key[:SHOWN_BYTES].decode(errors="replace")
