"""The delivery report: what became of a publisher's triggers, counted while it happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio


class RoomTally:
    """What became of the publications of one room: `frames.Tally`, and the counts of it.

    `subscriptions` were offered them. `queued` had to wait, `waiting` of these still do; newer publications took the
    place of `conflated`; `dropped` were given up. All others were written at once. Each publication counts.
    """

    __slots__ = ("_report", "conflated", "dropped", "queued", "subscriptions", "waiting")

    def __init__(self, report: Report) -> None:
        self._report = report
        self.subscriptions = self.queued = self.conflated = self.dropped = self.waiting = 0

    @property
    def written(self) -> int:
        """How many were written at once."""
        return self.subscriptions - self.queued - self.conflated - self.dropped

    def counts(self, *, waiting: bool) -> Mapping[str, int]:
        """Return the counts by name; `waiting` among them if it is asked for."""
        named = {
            "subscriptions": self.subscriptions,
            "written": self.written,
            "queued": self.queued,
            "conflated": self.conflated,
            "dropped": self.dropped,
        }
        return named | {"waiting": self.waiting} if waiting else named

    def expect(self) -> None:
        """It is on its way to the room."""
        self._report.count(passes=1)

    def offer(self, subscriptions: int) -> None:
        """So many more subscriptions were offered it."""
        self.subscriptions += subscriptions

    def passed(self) -> None:
        """All subscriptions of the room were offered it."""
        self._report.count(passes=-1)

    def queue(self) -> None:
        """It waits for a client."""
        self.queued += 1
        self._wait(1)

    def hand_over(self) -> None:
        """It waited for a client, and the kernel has it now."""
        self._wait(-1)

    def conflate(self) -> None:
        """It waited for a client, and a newer one took its place."""
        self.queued -= 1
        self.conflated += 1
        self._wait(-1)

    def drop(self) -> None:
        """It waited for a client, and was given up."""
        self.queued -= 1
        self.dropped += 1
        self._wait(-1)

    def refuse(self) -> None:
        """A client that is being closed did not get it."""
        self.dropped += 1

    def _wait(self, count: int) -> None:
        self.waiting += count
        self._report.count(waiting=count)


class Report:
    """The tallies of what one publisher sent at once, and when they are final."""

    def __init__(self) -> None:
        self._passes = 0
        self._waiting = 0
        self._changed = trio.lowlevel.ParkingLot()

    def tallies(self, count: int) -> Sequence[RoomTally]:
        """Return tallies for `count` rooms."""
        return [RoomTally(self) for _ in range(count)]

    def count(self, *, passes: int = 0, waiting: int = 0) -> None:
        """Take note that so many more passes, or deliveries, are outstanding."""
        self._passes += passes
        self._waiting += waiting
        if not self._passes:
            self._changed.unpark_all()

    async def offered(self) -> None:
        """Wait until all rooms were offered what was published."""
        await trio.lowlevel.checkpoint()
        while self._passes:
            await self._changed.park()

    async def settled(self) -> None:
        """Wait until every outbox has handed all of it to the kernel, or dropped it."""
        await self.offered()
        while self._waiting:
            await self._changed.park()
