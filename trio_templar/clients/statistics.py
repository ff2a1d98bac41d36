"""The totals of a gateway, as the program that embeds it sees them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trio_templar.clients.connection import Connection

# How many of the slowest connections are shown.
SHOWN_SLOWEST: Final = 10


@dataclass(frozen=True, slots=True)
class SlowConnection:
    """A client for which something waits now, and for how many seconds the oldest of it does."""

    id: str
    user_id: Any
    peer: str
    agent: str
    waiting_bytes: int
    waiting_frames: int
    peak_bytes: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """Totals of a gateway. What is counted starts with it.

    `waiting_bytes` is what waits for clients, `memory_bytes` what that and the room channels take, shared bytes once.
    `queued` deliveries had to wait; of these a newer one took the place of `conflated`, and `dropped` were given up,
    by policy. `drops` counts slow clients that were closed, by cause: `bytes`, `frames`, `room`, `progress`, `lag`,
    `age`, `memory`. `slowest` are those for whom most waits, at most ten. `client_errors` counts the messages of
    clients that were answered with an error, by its text: `room-not-found` is a subscription that was refused.
    """

    connections: int
    rooms: int
    subscriptions: int
    triggers: int
    publications: int
    deliveries: int
    in_flight_bytes: int
    waiting_bytes: int
    memory_bytes: int
    slow_connections: int
    queued: int
    conflated: int
    dropped: Mapping[str, int]
    drops: Mapping[str, int]
    slowest: Sequence[SlowConnection]
    client_errors: Mapping[str, int]


def slowest(connections: Collection[Connection], now: float) -> list[SlowConnection]:
    """Return those for whom most waits, most first; `now` is of the gateway's clock."""
    waiting = [connection for connection in connections if connection.outbox.oldest is not None]
    return [
        SlowConnection(
            connection.id,
            connection.user_id,
            connection.peer,
            connection.agent,
            connection.outbox.waiting_bytes,
            connection.outbox.waiting_frames,
            connection.outbox.peak_bytes,
            now - (connection.outbox.oldest or now),
        )
        for connection in heapq.nlargest(SHOWN_SLOWEST, waiting, key=lambda each: each.outbox.waiting_bytes)
    ]
