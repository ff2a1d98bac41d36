"""Who watches all clients: who is slow, who is silent, and whether memory is short.

Outboxes judge their own bounds when something is put; what only time can tell is judged here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

import trio

from trio_templar.clients.connection import Connection
from trio_templar.clock import Clock
from trio_templar.core.frames import PING
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.outbox import Outbox
from trio_templar.errors import CROWDED, IDLE, LAGGING, SILENT, STALE, STUCK

# How many clients are looked at before others get their turn; a look takes less than a microsecond.
TURN_CONNECTIONS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a client may be what; seconds. `idle` is None where it may be idle for ever.

    `slow`: without progress, or over half of its bytes. `age`: how old the oldest may be that waits for it.
    """

    slow: float
    age: float
    ping: float
    pong: float
    idle: float | None

    @property
    def tick(self) -> float:
        """How often to look: often enough for the shortest of them."""
        return min(1.0, *(seconds / 4 for seconds in (self.slow, self.age, self.ping, self.pong, self.idle or 4.0)))


@dataclass(slots=True)
class _Watch:
    """A client for which something waits: how much it had been sent when, and since when it is over half."""

    sent_bytes: int
    since: float
    over_since: float | None = None


class Supervisor:
    """Watches `connections` and `backlogs`, which others fill."""

    def __init__(
        self,
        timeouts: Timeouts,
        connections: Iterable[Connection],
        backlogs: Backlogs,
        clock: Clock,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._timeouts = timeouts
        self._connections = connections
        self._backlogs = backlogs
        self._clock = clock
        self._cpu = cpu
        self._watches: dict[Outbox, _Watch] = {}

    async def supervisor_loop(self) -> NoReturn:
        """Look at everybody, for ever. Time in which this process did not run counts against nobody.

        Time in which it was busy counts: a slow client must not stay the longer the more there is to do.
        """
        tick = self._timeouts.tick
        looked, worked = trio.current_time(), self._cpu()
        while True:
            await trio.sleep(tick)
            late = trio.current_time() - looked - tick
            missed = late - max(0.0, self._cpu() - worked - tick)
            looked, worked = trio.current_time(), self._cpu()
            if missed > tick:
                self._clock.forgive(missed)
            if late > tick:
                await trio.lowlevel.checkpoint()  # what came in meanwhile is heard before anybody is judged
            await self.look(self._clock.now())
            await self._look_for_silence()

    async def relief_loop(self) -> NoReturn:
        """Close the worst clients whenever more waits than memory allows, for ever."""
        while True:
            await self._backlogs.budget.alarm.park()
            await self.relieve()

    async def look(self, now: float) -> None:
        """Close who has been slow for too long, giving way after each: to cut takes a while."""
        watches: dict[Outbox, _Watch] = {}
        for outbox in list(self._backlogs.outboxes):
            if outbox.closed is None and not outbox.idle:  # it may have changed meanwhile
                watches[outbox] = watch = self._watches.get(outbox) or _Watch(outbox.sent_bytes, now)
                self._judge_slowness(outbox, watch, now)
                if outbox.closed is not None:
                    await trio.lowlevel.checkpoint()
        self._watches = watches

    async def _look_for_silence(self) -> None:
        """Close who has been silent or idle for too long, giving way in between."""
        connections = list(self._connections)
        for start in range(0, len(connections), TURN_CONNECTIONS):
            now = self._clock.now()
            for connection in connections[start : start + TURN_CONNECTIONS]:
                if connection.outbox.closed is None:
                    self._judge_silence(connection, now)
                    if connection.outbox.closed is not None:
                        await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    async def relieve(self) -> None:
        """Close those for whom most waits, of these the one who waits longest, until memory suffices."""
        outboxes = sorted(self._backlogs.outboxes, key=lambda outbox: (-outbox.waiting_bytes, outbox.oldest))
        for outbox in outboxes:
            if not self._backlogs.budget.exceeded:
                break
            outbox.cut(CROWDED)  # without a turn in between, in which a pass puts in more than one cut gives back
        await trio.lowlevel.checkpoint()

    def _judge_slowness(self, outbox: Outbox, watch: _Watch, now: float) -> None:
        if watch.sent_bytes != outbox.sent_bytes:
            watch.sent_bytes, watch.since = outbox.sent_bytes, now
        if outbox.waiting_bytes <= self._backlogs.max_bytes / 2:
            watch.over_since = None
        elif watch.over_since is None:
            watch.over_since = now
        if now - watch.since >= self._timeouts.slow:
            outbox.cut(STUCK)
        elif watch.over_since is not None and now - watch.over_since >= self._timeouts.slow:
            outbox.cut(LAGGING)
        elif not outbox.expire(now - self._timeouts.age):
            outbox.cut(STALE)

    def _judge_silence(self, connection: Connection, now: float) -> None:
        timeouts = self._timeouts
        silent = now - connection.last_heard
        if timeouts.idle and now - connection.last_message >= timeouts.idle:
            connection.outbox.close(IDLE)
        elif silent < timeouts.ping:
            connection.pinged = False
        elif not connection.pinged:
            connection.pinged = True
            connection.outbox.reply(PING)
        elif silent >= timeouts.ping + timeouts.pong:
            connection.outbox.cut(SILENT)
