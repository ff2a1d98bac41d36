"""The supervisor: it finds the clients that are slow or silent, and closes the worst ones when memory is short.

An outbox judges its own bounds when something is put into it; what only time can tell is judged here.
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
from trio_templar.core.recovery import Recovery
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.outbox import Outbox
from trio_templar.errors import CROWDED, IDLE, LAGGING, SILENT, STALE, STUCK

# How many clients are looked at before other tasks get their turn; a look takes less than a microsecond.
TURN_CONNECTIONS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """After how many seconds a client is closed, or gets a ping.

    `slow`: its backlog made no progress, or was over half of its bytes, for so long. `age`: the oldest publication in
    its backlog is so old. `ping`: it has been silent for so long, and gets a ping. `pong`: so long after that it is
    still silent. `idle`: it has sent no message for so long; None: it may be idle for ever.
    """

    slow: float
    age: float
    ping: float
    pong: float
    idle: float | None

    @property
    def tick(self) -> float:
        """How often to look: four times in the shortest of them, and at least once a second."""
        return min(1.0, *(seconds / 4 for seconds in (self.slow, self.age, self.ping, self.pong, self.idle or 4.0)))


@dataclass(slots=True)
class _Watch:
    """What the last looks saw of a client that has a backlog.

    `sent_bytes` had been sent to it, as many as at `progress_at`; its backlog is over half since `over_since`.
    """

    sent_bytes: int
    progress_at: float
    over_since: float | None = None

    def update(self, sent_bytes: int, now: float, *, over_half: bool) -> None:
        """Take note of what is seen at `now`."""
        if self.sent_bytes != sent_bytes:
            self.sent_bytes, self.progress_at = sent_bytes, now
        if not over_half:
            self.over_since = None
        elif self.over_since is None:
            self.over_since = now


class Supervisor:
    """Watches `connections` and `backlogs`, which others fill. `cpu` says how many seconds this thread has worked.

    What is kept for a `recovery` is forgotten at each tick once it is too old. `timeouts` can be replaced at any time.
    """

    def __init__(
        self,
        timeouts: Timeouts,
        connections: Iterable[Connection],
        backlogs: Backlogs,
        clock: Clock,
        recovery: Recovery,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self.timeouts = timeouts
        self._connections = connections
        self._backlogs = backlogs
        self._clock = clock
        self._recovery = recovery
        self._cpu = cpu
        self._watches: dict[Outbox, _Watch] = {}

    async def supervisor_loop(self) -> NoReturn:
        """Look at all clients, again and again, until cancelled.

        Time in which this process did not run (SIGSTOP, a suspended machine, no CPU) moves all deadlines. Time in which
        it worked does not: else slow clients would stay the longer, the more there is to do.
        """
        looked, worked = trio.current_time(), self._cpu()
        while True:
            tick = self.timeouts.tick
            await trio.sleep(tick)
            late = trio.current_time() - looked - tick
            missed = late - max(0.0, self._cpu() - worked - tick)  # work beyond a tick explains as much of `late`
            looked, worked = trio.current_time(), self._cpu()
            if missed > tick:
                self._clock.forgive(missed)
            if late > tick:
                await trio.lowlevel.checkpoint()  # what clients sent meanwhile is read before they are judged
            await self.look(self._clock.now())
            await self._look_for_silence()
            self._backlogs.budget.make_space()
            while self._recovery.tidy():  # noqa: ASYNC110  # nothing is waited for
                await trio.lowlevel.checkpoint()

    async def relief_loop(self) -> NoReturn:
        """Close the worst clients whenever all backlogs are more than memory allows, until cancelled."""
        while True:
            await self._backlogs.budget.alarm.park()
            await self.relieve()

    async def look(self, now: float) -> None:
        """Close clients that have been slow for too long, with a checkpoint after each: to close one takes a while."""
        watches: dict[Outbox, _Watch] = {}
        for outbox in list(self._backlogs.outboxes):
            if outbox.closing.open and not outbox.idle:  # it may have changed since the list was made
                watches[outbox] = watch = self._watches.get(outbox) or _Watch(outbox.sent_bytes, now)
                if self._cut_if_slow(outbox, watch, now):
                    await trio.lowlevel.checkpoint()
        self._watches = watches

    async def _look_for_silence(self) -> None:
        """Close clients that have been silent or idle for too long, with checkpoints in between."""
        connections = list(self._connections)
        for start in range(0, len(connections), TURN_CONNECTIONS):
            now = self._clock.now()
            for connection in connections[start : start + TURN_CONNECTIONS]:
                if self._close_if_silent(connection, now):
                    await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    async def relieve(self) -> None:
        """Close clients until memory suffices: those with the largest backlog first, of equal ones the oldest first.

        Those that are being closed, as in a drain, lose the publications that wait. What is only kept goes before any.
        """
        self._backlogs.budget.make_space()
        outboxes = sorted(self._backlogs.outboxes, key=lambda outbox: (-outbox.waiting_bytes, outbox.oldest))
        for outbox in outboxes:
            if not self._backlogs.budget.exceeded:
                break
            outbox.cut(CROWDED)  # without a turn in between, in which a pass would put in more than a cut gives back
        await trio.lowlevel.checkpoint()

    def _cut_if_slow(self, outbox: Outbox, watch: _Watch, now: float) -> bool:
        watch.update(outbox.sent_bytes, now, over_half=outbox.bytes_to_keep > self._backlogs.max_bytes / 2)
        if now - watch.progress_at >= self.timeouts.slow:
            return outbox.cut(STUCK)
        if watch.over_since is not None and now - watch.over_since >= self.timeouts.slow:
            return outbox.cut(LAGGING)
        return outbox.drop_stale(now - self.timeouts.age) and outbox.cut(STALE)

    def _close_if_silent(self, connection: Connection, now: float) -> bool:
        if not connection.outbox.closing.open:  # it has a deadline of its own
            return False
        timeouts = self.timeouts
        silent = now - connection.last_heard
        if timeouts.idle and now - connection.last_message >= timeouts.idle:
            return connection.outbox.close(IDLE)
        if silent < timeouts.ping:
            connection.pinged = False
        elif not connection.pinged:
            connection.pinged = True
            connection.outbox.reply(PING)
        elif silent >= timeouts.ping + timeouts.pong:
            return connection.outbox.cut(SILENT)
        return False
