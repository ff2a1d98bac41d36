"""Where a publication stands in the order of all, and how a client is told: an epoch and a number. Pure.

A position is an int that only grows: the wall clock in milliseconds, or one more than the last where that is more. It
means something within its epoch alone, which is random at each start of a gateway, and no secret. Clients keep the
token of both as it is, and compare nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Final

EPOCH_BYTES: Final = 6
# What `Positions.token` makes, and nothing that only resembles it: `int` takes signs, spaces and underscores too.
_TOKEN: Final = re.compile(r"([0-9a-f]+)\.(0|[1-9a-f][0-9a-f]{0,15})", re.ASCII)
# What the token of any gateway looks like, also of another version: that of a gateway which is no more is no mistake.
_SHAPE: Final = re.compile(r"(?=.{1,100}\Z)[0-9a-z]+(\.[0-9a-z]+)+", re.ASCII)


def new_epoch() -> bytes:
    """Return an epoch that no other start of any gateway has had."""
    return secrets.token_hex(EPOCH_BYTES).encode()


def is_token(text: str) -> bool:
    """Whether `text` can be the token of a position, of this gateway or another."""
    return _SHAPE.fullmatch(text) is not None


class Positions:
    """The positions of one epoch. `last` is the highest that was given away, `wall` the clock in seconds."""

    __slots__ = ("_wall", "epoch", "last")

    def __init__(self, epoch: bytes | None = None, wall: Callable[[], float] = lambda: 0.0) -> None:
        self.epoch = epoch or new_epoch()
        self._wall = wall
        self.last = 0
        self.last = self.next()

    def next(self) -> int:
        """Return the position of what is published next; whoever publishes sets `last` to what it has used."""
        now = int(self._wall() * 1000)
        return now if now > self.last else self.last + 1

    def token(self, position: int) -> str:
        """Return how `position` is told to a client: ASCII, without a character that JSON escapes."""
        return f"{self.epoch.decode()}.{position:x}"

    def read(self, token: str) -> int | None:
        """Return the position that `token` tells; None if it is none of this epoch, or was never given away."""
        match = _TOKEN.fullmatch(token)
        if match is None or match[1].encode() != self.epoch:
            return None
        position = int(match[2], 16)
        return position if position <= self.last else None
