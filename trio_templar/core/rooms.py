"""Rooms: their keys, and which of them a client may enter.

A room is any JSON object. Its *identity* is its canonical JSON: `1`, `"1"`, `true` and `1.0` are four rooms, and
the order of keys does not matter. *Permission* is looser (High-templar 2.5): the same set of keys, each value equal
as Python sees it (`1 == 1.0 == True`) or `*` in the allowed room, which stands for any value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

Room = Mapping[str, Any]

_canonical = msgspec.json.Encoder(order="deterministic")

WILDCARD = "*"
_BRACE: Final = ord("{")
# Of these, values that are equal have the same hash (1, 1.0 and True too). A type of an embedding program may differ.
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def room_key(room: Room) -> bytes:
    """Return the canonical JSON of `room`.

    Raises ValueError: if `room` is no object, or holds what JSON cannot carry, or text that is not Unicode.
    """
    try:
        key = _canonical.encode(room)
    except (TypeError, UnicodeError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"not a JSON object: {error}") from error
    if key[0] != _BRACE:
        raise ValueError(f"not a JSON object: {key[:100].decode(errors='replace')}")
    return key


def trimmed(encoded: bytes) -> bytes:
    """Return a copy of `encoded` for those who keep it.

    msgspec cuts its buffer down to what it wrote, and the allocator does not take the rest back: up to half as much
    again stays behind it, which `sys.getsizeof` does not see and tracemalloc does. `bytes(encoded)` is no copy.
    """
    return bytes(memoryview(encoded))


def is_allowed(room: Room, allowed_rooms: Iterable[Room]) -> bool:
    """Whether some room in `allowed_rooms` covers `room`. A `*` in `room` itself is a plain text."""
    return any(covers(allowed, room) for allowed in allowed_rooms)


def covers(allowed: Room, room: Room) -> bool:
    """Whether `allowed` has the keys of `room` and each of its values, or `*` in their place."""
    if allowed.keys() != room.keys():
        return False
    return all(value == WILDCARD or value == room[key] for key, value in allowed.items())


class RoomIndex:
    """Allowed rooms, found by hash. `allows` says what `is_allowed` says, and looks at a few of them.

    A lookup in 20 000 rooms takes microseconds; reading through them takes milliseconds. An allowed room is stored
    under the hash of its values that are no `*`. A lookup hashes the wanted room once for each set of `*` keys among
    the allowed rooms with the same keys, and asks `covers` about what it finds. The hash alone allows nothing: Python's
    hash of numbers has no secret, so a client can find two that collide.
    """

    __slots__ = ("_by_hash", "_others", "_stars")

    def __init__(self) -> None:
        self._by_hash: dict[int, Room] = {}
        self._stars: dict[frozenset[str], set[frozenset[str]]] = {}  # the keys with `*`, by all keys of a room
        self._others: list[Room] = []  # that share their hash with another room, or have none; read through

    def add(self, room: Room) -> None:
        """Allow `room`, which must not change any more."""
        stars = frozenset([key for key, value in room.items() if type(value) is str and value == WILDCARD])
        try:
            first = self._by_hash.setdefault(_digest(_hashes(room), stars), room)
        except (TypeError, RecursionError):
            self._others.append(room)
            return
        self._stars.setdefault(frozenset(room), set()).add(stars)
        if first is not room and first != room:
            self._others.append(room)

    def allows(self, room: Room) -> bool:
        """Whether some room that was added covers `room`."""
        try:
            hashes = _hashes(room)
            found = [self._by_hash.get(_digest(hashes, stars)) for stars in self._stars.get(frozenset(room), ())]
        except (TypeError, RecursionError):  # no JSON, or nested deeply: rare, so reading through them will do
            found = list(self._by_hash.values())
        return is_allowed(room, [each for each in found if each is not None]) or is_allowed(room, self._others)


def _hashes(room: Room) -> list[tuple[str, int]]:
    """Return the keys with the hashes of their values. Raises TypeError: if a value is not of a JSON type."""
    return [(key, _value_hash(value)) for key, value in room.items()]


def _digest(hashes: Iterable[tuple[str, int]], stars: frozenset[str]) -> int:
    """Return the hash of the rooms with these keys and, where there is no star, these values."""
    return hash((stars, frozenset([item for item in hashes if item[0] not in stars])))


def _value_hash(value: Any) -> int:
    # By the exact type: a subclass may be equal to more than its hash says.
    kind = type(value)
    if kind in _SCALARS:
        return hash(value)
    if kind is list:
        return hash(tuple([_value_hash(item) for item in value]))
    if kind is dict:
        return hash(frozenset([(key, _value_hash(item)) for key, item in value.items()]))
    raise TypeError(f"{kind.__name__} is no type of JSON")
