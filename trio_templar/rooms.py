"""Room keys and permission: the only place that knows both.

A room is any JSON object. Its *identity* is its canonical JSON: `1`, `"1"`, `true` and `1.0` are four rooms, and
the order of keys does not matter. *Permission* is looser (High-templar 2.5): the same set of keys, each value equal
as Python sees it (`1 == 1.0 == True`) or `*` in the allowed room, which stands for any value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

Room = Mapping[str, Any]

_canonical = msgspec.json.Encoder(order="deterministic")

WILDCARD = "*"


def room_key(room: Room) -> bytes:
    """Return the canonical JSON of `room`.

    Raises ValueError: if `room` holds what JSON cannot carry, or text that is not Unicode.
    """
    try:
        return _canonical.encode(room)
    except (TypeError, UnicodeError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"not a JSON object: {error}") from error


def is_allowed(room: Room, allowed_rooms: Iterable[Room]) -> bool:
    """Whether some room in `allowed_rooms` covers `room`. `*` in `room` itself is a literal."""
    return any(covers(allowed, room) for allowed in allowed_rooms)


def covers(allowed: Room, room: Room) -> bool:
    """Whether `allowed` has the keys of `room` and each of its values, or `*` in their place."""
    if allowed.keys() != room.keys():
        return False
    return all(value == WILDCARD or value == room[key] for key, value in allowed.items())
