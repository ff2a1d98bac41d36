"""The numbers of a gateway. They are collected in one place; whoever shows some of them has them from here."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import trio

from trio_templar.clients.admission import Admission
from trio_templar.clients.bootstrap import BootstrapLimiter
from trio_templar.clients.connection import Connection
from trio_templar.core.hub import Hub
from trio_templar.core.recovery import Recovery
from trio_templar.counters import ConnectionCounts, Distribution
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.fanout import Fanout
from trio_templar.errors import SLOW_CAUSES
from trio_templar.lag import Lag

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The numbers of a gateway at one moment. Counts start with the gateway.

    `waiting_bytes` is what waits for clients, `memory_bytes` what that and the room channels take, shared bytes once;
    over `memory_soft_bytes` publishers wait, over `memory_hard_bytes` clients are closed.
    `history_publications` are kept for clients that come back, the oldest for `history_span_seconds`; they take
    `history_bytes`, which give way to what waits. `recoveries` counts the positions that clients came back with, by
    outcome: `recovered`, `unknown` (it cannot be proved what came behind it) or `too large`; `replayed` the
    publications that they got again.
    `queued` deliveries had to wait; of these a newer one took the place of `conflated`, and `dropped` were given up,
    by policy. `drops` counts slow clients that were closed, by cause: `bytes`, `frames`, `room`, `progress`, `lag`,
    `age`, `memory`. `slowest` are the largest backlogs, at most ten. `client_errors` counts the messages of
    clients that were answered with an error, by its text: `room-not-found` is a subscription that was refused.
    `opened` and `closed` (by close code) count connections, `refused` clients that were not let in, by cause;
    `bootstraps` counts calls to the API, by outcome. The distributions are of seconds.
    """

    uptime_seconds: float
    draining: bool
    connections: int
    opened: int
    closed: Mapping[str, int]
    refused: Mapping[str, int]
    bootstraps: Mapping[str, int]
    client_errors: Mapping[str, int]
    rooms: int
    subscriptions: int
    triggers: int
    publications: int
    deliveries: int
    in_flight_bytes: int
    waiting_bytes: int
    memory_bytes: int
    memory_soft_bytes: int
    memory_hard_bytes: int
    history_bytes: int
    history_publications: int
    history_span_seconds: float
    recoveries: Mapping[str, int]
    replayed: int
    slow_connections: int
    queued: int
    conflated: int
    dropped: Mapping[str, int]
    drops: Mapping[str, int]
    publication_seconds: Distribution
    bootstrap_seconds: Distribution
    lag_seconds: Distribution
    slowest: Sequence[SlowConnection] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The parts of a gateway that count, each what it knows. `online_since` is local and has no zone."""

    hub: Hub
    connections: Collection[Connection]
    fanout: Fanout
    backlogs: Backlogs
    recovery: Recovery
    admission: Admission
    bootstrap_limiter: BootstrapLimiter
    counts: ConnectionCounts
    lag: Lag
    draining: Callable[[], bool]
    since: float = field(default_factory=trio.current_time)
    online_since: datetime = field(default_factory=datetime.now)

    def now(self) -> Statistics:
        """Return the numbers that the parts keep: as quick with many clients as with none, so each may ask."""
        fanout, backlogs, budget = self.fanout, self.backlogs, self.backlogs.budget
        history, now = self.recovery.history, trio.current_time()
        return Statistics(
            uptime_seconds=now - self.since,
            draining=self.draining(),
            connections=len(self.connections),
            opened=self.counts.opened,
            closed=dict(self.counts.closed),
            refused=dict(self.admission.refused),
            bootstraps=dict(self.bootstrap_limiter.answers),
            client_errors=dict(self.counts.errors),
            rooms=len(self.hub.rooms),
            subscriptions=self.hub.subscriptions,
            triggers=fanout.triggers,
            publications=fanout.publications,
            deliveries=fanout.deliveries,
            in_flight_bytes=fanout.in_flight_bytes,
            waiting_bytes=backlogs.bytes,
            memory_bytes=budget.used_bytes,
            memory_soft_bytes=budget.soft_bytes,
            memory_hard_bytes=budget.hard_bytes,
            history_bytes=history.bytes,
            history_publications=len(history),
            history_span_seconds=0.0 if history.oldest is None else now - history.oldest,
            recoveries=dict[str, int](self.recovery.outcomes.items()),
            replayed=self.recovery.replayed,
            slow_connections=len(backlogs.outboxes),
            queued=backlogs.losses.queued,
            conflated=backlogs.losses.conflated,
            dropped=dict[str, int](backlogs.losses.dropped.items()),
            drops={cause: backlogs.drops.get(close, 0) for close, cause in SLOW_CAUSES.items()},
            publication_seconds=fanout.seconds.now(),
            bootstrap_seconds=self.bootstrap_limiter.seconds.now(),
            lag_seconds=self.lag.histogram.now(),
        )

    def with_slowest(self) -> Statistics:
        """Return all numbers, and the slowest clients, for which each connection is looked at."""
        return replace(self.now(), slowest=slowest(self.connections, self.backlogs.now()))

    def sent_bytes(self) -> int:
        """Return the bytes that were written to clients. Looks at each connection: a delivery adds to its own count."""
        return self.counts.sent_bytes + sum(connection.outbox.sent_bytes for connection in self.connections)

    def peak_bytes(self) -> int:
        """Return the largest backlog that one client ever had. Looks at each connection."""
        return max([self.counts.peak_bytes, *(connection.outbox.peak_bytes for connection in self.connections)])

    def status(self) -> str:
        """Return what High-templar 3.1 tells a client that asks for totals; what we do not count is 0."""
        now = self.now()
        return json.dumps(
            {
                "open_connections": now.connections,
                "num_rooms": now.rooms,
                "online_since": self.online_since.isoformat(),
                "rabbitmq_messages_received": now.triggers,
                "ws_messages_received": 0,
                "ws_messages_send": now.deliveries,
                "ws_messages_send_error": 0,
                "ws_messages_send_queued": 0,
            }
        )


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
