"""One write to a client whose socket was full: frames joined, and whose publications they are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

from trio_templar.core.frames import Batch, Tally, frame_ends
from trio_templar.delivery.budget import Budget
from trio_templar.net.wire import PIECE_BYTES

# Whole frames, and the batch whose publications they are; None: they are replies, or the farewell.
Piece = tuple[bytes, Batch | None]
# How a frame begins; what goes before the first of them, the 101, does not.
FRAME_STARTS: Final = b"\x81\x88\x89\x8a"


class _Part(NamedTuple):
    """Where in a write the frames of one batch are, and the tallies of its publications.

    Not the batch itself: so its data is let go while the frames are written.
    """

    tallies: Sequence[Tally | None]
    begin: int
    end: int


class Write:
    """Frames joined, of which the oldest waits `since` then. `unsent` is what the socket did not take yet.

    All of it counts in the budget until the last byte is sent, or it is given up.
    """

    __slots__ = ("_budget", "_data", "_parts", "since", "unsent")

    def __init__(self, pieces: Sequence[Piece], sent: int, since: float, budget: Budget) -> None:
        self._parts: list[_Part] = []
        end = 0
        for frames, batch in pieces:
            begin, end = end, end + len(frames)
            if batch is not None:
                self._parts.append(_Part([each.tally for each in batch.publications], begin, end))
        self._budget = budget
        self._data = b""
        self.unsent = memoryview(b"")
        self.since = since
        self._take(b"".join([frames for frames, _ in pieces]), sent)

    @property
    def count(self) -> int:
        """How many publications are in it."""
        return sum([len(part.tallies) for part in self._parts])

    def sent(self, size: int) -> int:
        """Take note that the first `size` bytes of `unsent` are written; return the publications this completes."""
        self.unsent = self.unsent[size:]
        if self.unsent:
            return 0
        count = self.count
        self._let_go()
        for part in self._parts:
            for tally in part.tallies:
                if tally is not None:
                    tally.hand_over()
        self._parts = []
        return count

    def give_up(self) -> None:
        """Let go of what is unsent."""
        if self.unsent:
            self._let_go()
            for part in self._parts:
                _drop(part.tallies)

    def shorten(self) -> int:
        """Drop the frames behind those that may be under way; return how many publications were in them.

        Only once: what is left then may begin in the middle of a frame, where no ends can be found.
        """
        done = len(self._data) - len(self.unsent)
        ends = list(frame_ends(self._data)) if self._data[:1] in FRAME_STARTS else []
        end = next((end for end in ends if end >= done + PIECE_BYTES), len(self._data))
        if end == len(self._data):
            return 0
        before = self.count
        kept = ends[: bisect_right(ends, end)]
        self._parts = [_kept(part, kept) for part in self._parts]
        data = self._data[done:end]  # a copy: what it was cut from is let go
        self._let_go()
        self._take(data, 0)
        return before - self.count

    def _take(self, data: bytes, sent: int) -> None:
        self._data = data
        self.unsent = memoryview(data)[sent:]
        if data:
            self._budget.hold(data)

    def _let_go(self) -> None:
        if self._data:
            self._budget.release(self._data)
        self._data = b""
        self.unsent = memoryview(b"")  # an empty view of the data would keep it too


def _kept(part: _Part, ends: Sequence[int]) -> _Part:
    """Return `part` with the publications whose frames end at one of `ends`, in order; the others are dropped."""
    count = bisect_right(ends, part.end) - bisect_right(ends, part.begin)
    _drop(part.tallies[count:])
    return part._replace(tallies=part.tallies[:count])


def _drop(tallies: Sequence[Tally | None]) -> None:
    for tally in tallies:
        if tally is not None:
            tally.drop()
