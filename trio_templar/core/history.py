"""What was published in the last seconds, in all rooms: one window, one index by room, one floor. Pure.

Of a room all is here that came behind what was last forgotten of it. That is remembered too, so that a client of a
quiet room can be told that it missed nothing, however long it was away. Nothing older than the `floor` can be proved.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from trio_templar.core.frames import Publication
from trio_templar.core.position import Positions
from trio_templar.core.rooms import trimmed

# Position, room keys, the two sides of the publication, when it came (the event loop's clock). A plain tuple of what
# holds no references: the garbage collector takes it off its lists, and a full window costs it nothing.
Entry = tuple[int, tuple[bytes, ...], bytes, bytes, float]

# What an entry takes beside its bytes and keys, a place of it in a room, a room that has entries, and one of which
# only the last position is left. Measured with tracemalloc; a test holds them.
ENTRY_BYTES: Final = 210
PLACE_BYTES: Final = 20
ROOM_BYTES: Final = 230
FORGOTTEN_BYTES: Final = 250
# Of how many rooms the last position that was forgotten is remembered, and in what share of the bytes.
FORGOTTEN_ROOMS: Final = 50_000
FORGOTTEN_SHARE: Final = 4
# Forgotten entries at the front of a room are cut off once they are half of it, and at least so many.
CUT_ENTRIES: Final = 32


@dataclass(frozen=True, slots=True)
class Span:
    """How much is kept: at most so many seconds and bytes; with 0 of either, nothing."""

    seconds: float
    bytes: int

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self.seconds > 0 and self.bytes > 0


OFF: Final = Span(0, 0)


_position: Final = itemgetter(0)
# Stands where an entry was forgotten, so that nothing holds it any more.
_GONE: Final[Entry] = (0, (), b"", b"", 0.0)


class _Kept:
    """The entries of one room, oldest first. The first `gone` are forgotten; `key` is shared by all entries."""

    __slots__ = ("entries", "gone", "key")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.entries: list[Entry] = []
        self.gone = 0

    def forget_first(self) -> bool:
        """Forget the oldest entry that is left; return whether another is."""
        entries, gone = self.entries, self.gone
        entries[gone] = _GONE
        gone += 1
        if gone >= CUT_ENTRIES and gone * 2 >= len(entries):
            del entries[:gone]
            gone = 0
        self.gone = gone
        return gone < len(entries)

    def first_behind(self, position: int) -> int:
        """Return the index of the first entry behind `position`."""
        return bisect_right(self.entries, position, self.gone, key=_position)


class History:
    """The last publications of all rooms of one gateway, within a `span`.

    `seconds_of` says for how long a room is kept (0: not at all); None: every room for as long as the span is.
    `bytes` is what it takes in memory, keys and what Python adds included.
    """

    def __init__(
        self, positions: Positions, span: Span = OFF, seconds_of: Callable[[bytes], float] | None = None
    ) -> None:
        self.positions = positions
        self.span = span
        self.on = span.on  # whether anything is kept: asked for each publication
        self._seconds_of = seconds_of
        self._window: deque[Entry] = deque()
        self._rooms: dict[bytes, _Kept] = {}
        # The room that was forgotten last is last. To find the first, a plain dict walks over all that left before it.
        self._forgotten: OrderedDict[bytes, int] = OrderedDict()
        self._forgotten_bytes = 0
        self.floor = self._map_floor = positions.last
        self.bytes = 0

    def __len__(self) -> int:
        """Return how many entries are kept."""
        return len(self._window)

    @property
    def oldest(self) -> float | None:
        """When the oldest entry came; None if there is none."""
        return self._window[0][4] if self._window else None

    def keeps(self, key: bytes) -> bool:
        """Whether the room of `key` is kept."""
        return self.on and (self._seconds_of is None or self._seconds_of(key) > 0)

    def rooms(self) -> Iterator[tuple[bytes, int]]:
        """Yield the key of each room that has entries, and how many."""
        for kept in self._rooms.values():
            yield kept.key, len(kept.entries) - kept.gone

    @property
    def room_count(self) -> int:
        """How many rooms have entries."""
        return len(self._rooms)

    def kept(self, key: bytes) -> int:
        """Return how many entries the room of `key` has."""
        kept = self._rooms.get(key)
        return 0 if kept is None else len(kept.entries) - kept.gone

    # What comes in, and what goes

    def add(self, position: int, keys: Iterable[bytes], publication: Publication, now: float) -> None:
        """Keep `publication`, which came `now` at `position`, in the rooms of `keys`, which are different ones."""
        self.positions.last = position
        if not self.on:
            return
        known, seconds_of = self._rooms, self._seconds_of
        rooms, shared = [], []
        for key in keys:
            if seconds_of is None or seconds_of(key) > 0:
                room = known.get(key) or self._new_room(key)
                rooms.append(room.entries)
                shared.append(room.key)
        if not rooms:
            return
        left, right, _, _ = publication
        entry = (position, tuple(shared), left, right, now)
        for entries in rooms:
            entries.append(entry)
        self._window.append(entry)
        self.bytes += _size(entry)
        while self.bytes > self.span.bytes:
            self._forget_oldest()

    def trim(self, now: float, most: int = sys.maxsize) -> bool:
        """Forget what is older than the span, at `most` so many entries; return whether there are more."""
        before = now - self.span.seconds
        while self._window and self._window[0][4] <= before:
            if not most:
                return True
            most -= 1
            self._forget_oldest()
        return False

    def give_way(self, size: int) -> None:
        """Forget the oldest until `size` bytes more are free, or nothing is left."""
        wanted = self.bytes - size
        while self._window and self.bytes > wanted:
            self._forget_oldest()

    def restart(self, floor: int | None = None) -> None:
        """Forget everything, and prove nothing up to the position `floor`: there may be a hole. Without one, up to now.

        Then it gets a position of its own, so that one that was told before is below it.
        """
        self._window.clear()
        self._rooms.clear()
        self._forgotten.clear()
        self._forgotten_bytes = self.bytes = 0
        self.floor = self._map_floor = self.positions.next() if floor is None else floor
        self.positions.last = self.floor

    def apply(self, span: Span, seconds_of: Callable[[bytes], float] | None, now: float, *, longer: bool) -> None:
        """Keep what `span` and `seconds_of` say from now on; `longer`: some room is kept for longer than before."""
        longer = longer or span.seconds > self.span.seconds or (span.on and not self.span.on)
        self.span, self.on, self._seconds_of = span, span.on, seconds_of
        if longer or not span.on:
            self.restart()
        self.trim(now)
        self._bound_forgotten()
        self.give_way(max(0, self.bytes - span.bytes))

    def _new_room(self, key: bytes) -> _Kept:
        key = trimmed(key)
        kept = self._rooms[key] = _Kept(key)
        self.bytes += ROOM_BYTES + len(key)
        return kept

    def _forget_oldest(self) -> None:
        entry = self._window.popleft()
        self.bytes -= _size(entry)
        for key in entry[1]:
            if not self._rooms[key].forget_first():
                del self._rooms[key]
                self.bytes -= ROOM_BYTES + len(key)
            self._remember(key, entry[0])

    def _remember(self, key: bytes, position: int) -> None:
        """Note what was last forgotten of a room. The rooms that were quiet for longest fall out, into one number."""
        new = key not in self._forgotten
        self._forgotten[key] = position
        self._forgotten.move_to_end(key)
        if new:
            self._count_forgotten(FORGOTTEN_BYTES + len(key))
            self._bound_forgotten()

    def _bound_forgotten(self) -> None:
        while len(self._forgotten) > FORGOTTEN_ROOMS or self._forgotten_bytes > self.span.bytes // FORGOTTEN_SHARE:
            oldest, position = self._forgotten.popitem(last=False)
            self._map_floor = max(self._map_floor, position)
            self._count_forgotten(-FORGOTTEN_BYTES - len(oldest))

    def _count_forgotten(self, size: int) -> None:
        self._forgotten_bytes += size
        self.bytes += size

    # What is asked

    def since(self, key: bytes, position: int, now: float, *, until: int, most: int) -> Sequence[Entry] | None:
        """Return what came in the room of `key` behind `position`, up to `until`: the oldest, and one over `most`.

        None if it cannot be proved that this is all of it.
        """
        if position < self.floor or position < self._forgotten.get(key, self._map_floor) or not self.keeps(key):
            return None
        kept = self._rooms.get(key)
        if kept is None:
            return ()
        first, end = kept.first_behind(position), len(kept.entries)
        if kept.entries[-1][0] > until:  # it is not, unless something is on its way to the room
            end = kept.first_behind(until)
        entries = kept.entries[first : min(end, first + most + 1)]
        return None if entries and entries[0][4] <= self._cut(key, now) else entries

    def newest(self, key: bytes, now: float, *, most: int) -> Sequence[Entry]:
        """Return what is kept of the room of `key`: the newest, and one over `most`, in order."""
        kept = self._rooms.get(key)
        if kept is None or not self.keeps(key):
            return ()
        entries = kept.entries[max(kept.gone, len(kept.entries) - most - 1) :]
        return [entry for entry in entries if entry[4] > self._cut(key, now)]

    def _cut(self, key: bytes, now: float) -> float:
        """Return when that came which the room of `key` keeps no longer; the span's own end is for `trim`."""
        return -math.inf if self._seconds_of is None else now - self._seconds_of(key)


def _size(entry: Entry) -> int:
    _, keys, left, right, _ = entry
    return ENTRY_BYTES + len(left) + len(right) + PLACE_BYTES * len(keys)
