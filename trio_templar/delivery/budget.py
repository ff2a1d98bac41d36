"""The memory that waits: bytes in all room channels and outboxes, shared ones counted once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import trio

from trio_templar.core.frames import PUBLICATION_BYTES, Batch, Publication

# Publishers wait above this share of the budget, so that what is under way already still fits.
SOFT_SHARE: Final = 0.5


class Publishers:
    """Publishers that wait for space in one place.

    When there may be some, they look in turn, and each once: a small trigger behind a large one finds what there is.
    Each wakes the next before it looks, and one that gets in wakes another. So a lot of space is soon used, and a
    little does not wake a thousand at the same time.
    """

    __slots__ = ("_looks", "waiting")

    def __init__(self) -> None:
        self.waiting = trio.lowlevel.ParkingLot()
        self._looks = 0  # how many of them may still look; while it is not 0, one that is woken has yet to run

    async def wait(self) -> None:
        """Wait until it is one's turn to look."""
        await self.waiting.park()
        self.wake_next()

    def wake(self) -> None:
        """Let all who wait look in turn: there may be space."""
        under_way = self._looks > 0
        self._looks = len(self.waiting)
        if not under_way:
            self.wake_next()

    def wake_next(self) -> None:
        """Let one more look, of those who may and have not yet."""
        if self._looks and self.waiting:
            self._looks -= 1
            self.waiting.unpark()
        else:
            self._looks = 0

    def wake_all(self) -> None:
        """Let all look at once: there is nothing to wait for."""
        self.waiting.unpark_all()


class Kept(Protocol):
    """What is kept though nobody waits for it. `bytes` is what it takes; they do not count as used."""

    @property
    def bytes(self) -> int:
        """What it takes."""

    def give_way(self, size: int) -> None:
        """Let go of `size` bytes, or of all of it."""


class Budget:
    """Bytes that wait in one gateway, against two marks.

    Above `soft_bytes` publishers wait in `publishers`; above `hard_bytes` the supervisor, which waits in `alarm`,
    closes the worst clients. What is only `kept` gives way before either.
    """

    def __init__(self, hard_bytes: int, kept: Kept | None = None) -> None:
        self._kept = kept
        self.hard_bytes = hard_bytes
        self.soft_bytes = int(hard_bytes * SOFT_SHARE)
        self.used_bytes = 0
        self.arriving_bytes = 0  # of requests that are being read, or wait to be published
        self.publishers = Publishers()
        self.alarm = trio.lowlevel.ParkingLot()
        self._holders: dict[int, int] = {}

    @property
    def exceeded(self) -> bool:
        """Whether more waits than may."""
        return self.used_bytes > self.hard_bytes

    def fits(self, size: int) -> bool:
        """Whether publications of `size` bytes may come in."""
        return self.used_bytes + size <= self.soft_bytes

    def make_space(self, size: int = 0) -> None:
        """Let what is kept give way, as far as it, what waits and `size` bytes more are over the soft mark."""
        if self._kept is not None:
            over = self.used_bytes + size + self._kept.bytes - self.soft_bytes
            if over > 0:
                self._kept.give_way(over)

    def fits_arriving(self, size: int, held: int) -> bool:
        """Whether a request that holds `held` bytes may hold `size` more; the only one always may."""
        return self.arriving_bytes == held or self.used_bytes + self.arriving_bytes + size <= self.hard_bytes

    def take(self, size: int) -> None:
        """Count `size` bytes more."""
        self.used_bytes += size
        if self.exceeded and self.alarm:
            self.alarm.unpark_all()

    def give(self, size: int) -> None:
        """Count `size` bytes less."""
        self.used_bytes -= size
        if self.publishers.waiting and self.used_bytes <= self.soft_bytes:
            self.publishers.wake()

    def hold(self, shared: bytes) -> None:
        """Count the bytes of `shared` unless somebody holds it already; it must stay alive until `release`."""
        if self._is_first(shared):
            self.take(len(shared))

    def release(self, shared: bytes) -> None:
        """Undo one `hold`."""
        if self._was_last(shared):
            self.give(len(shared))

    def hold_publications(self, publications: Sequence[Publication]) -> None:
        """Count what `publications` take while they wait in one more place; their bytes count once in all."""
        size = PUBLICATION_BYTES * len(publications)
        for left, right, _, _ in publications:  # written out: it is done for each publication that waits
            for side in (left, right):
                holders = self._holders.get(id(side), 0)
                self._holders[id(side)] = holders + 1
                if not holders:
                    size += len(side)
        self.take(size)

    def release_publications(self, publications: Sequence[Publication]) -> None:
        """Undo one `hold_publications`."""
        size = PUBLICATION_BYTES * len(publications)
        for left, right, _, _ in publications:
            for side in (left, right):
                holders = self._holders.pop(id(side)) - 1
                if holders:
                    self._holders[id(side)] = holders
                else:
                    size += len(side)
        self.give(size)

    def hold_batch(self, batch: Batch) -> None:
        """Count the publications of `batch` unless somebody holds it; it must stay alive until `release_batch`."""
        if self._is_first(batch):
            self.hold_publications(batch.publications)

    def release_batch(self, batch: Batch) -> None:
        """Undo one `hold_batch`."""
        if self._was_last(batch):
            self.release_publications(batch.publications)

    def _is_first(self, shared: object) -> bool:
        holders = self._holders.get(id(shared), 0)
        self._holders[id(shared)] = holders + 1
        return not holders

    def _was_last(self, shared: object) -> bool:
        holders = self._holders.pop(id(shared)) - 1
        if holders:
            self._holders[id(shared)] = holders
        return not holders
