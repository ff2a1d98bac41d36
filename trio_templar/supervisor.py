"""The one task that watches all clients: who is slow, who is silent, and whether memory is short.

Outboxes judge their own bounds when something is put; what only time can tell is judged here. A policy that is kinder
to slow consumers than a disconnect belongs here too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

import trio

from trio_templar.connection import Connection
from trio_templar.errors import CROWDED, IDLE, SILENT, STUCK
from trio_templar.frames import PING
from trio_templar.outbox import Outbox, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a client may be what; seconds. `idle` is None where it may be idle for ever."""

    slow: float
    ping: float
    pong: float
    idle: float | None
    outboxes_bytes: int

    @property
    def tick(self) -> float:
        """How often to look: often enough for the shortest of them."""
        return min(1.0, *(seconds / 4 for seconds in (self.slow, self.ping, self.pong, self.idle or 4.0)))


class Supervisor:
    """Watches `connections` and `waiting`, which others fill."""

    def __init__(self, patience: Patience, connections: Iterable[Connection], waiting: Waiting) -> None:
        self._patience = patience
        self._connections = connections
        self._waiting = waiting
        self._progress: dict[Outbox, tuple[int, float]] = {}  # bytes sent, and since when it is that many

    async def supervisor_loop(self) -> NoReturn:
        """Look at everybody, for ever. Time in which this process did not run counts against nobody."""
        tick = self._patience.tick
        looked = trio.current_time()
        while True:
            await trio.sleep(tick)
            now = trio.current_time()
            if now - looked > 2 * tick:
                self.forgive(now - looked - tick)
            looked = now
            self.look(now)

    def look(self, now: float) -> None:
        """Close who has been slow, silent or idle for too long, and the slowest while memory is short."""
        self._judge_progress(now)
        self._relieve_memory()
        for connection in list(self._connections):
            if connection.outbox.closed is None:
                self._judge_silence(connection, now)

    def forgive(self, seconds: float) -> None:
        """Move all that was noted of time by `seconds`: nobody could act meanwhile."""
        self._progress = {outbox: (sent, since + seconds) for outbox, (sent, since) in self._progress.items()}
        for connection in self._connections:
            connection.last_heard += seconds
            connection.last_message += seconds

    def _judge_progress(self, now: float) -> None:
        progress: dict[Outbox, tuple[int, float]] = {}
        for outbox in list(self._waiting.outboxes):
            sent, since = self._progress.get(outbox, (outbox.sent_bytes, now))
            if sent != outbox.sent_bytes:
                sent, since = outbox.sent_bytes, now
            if now - since >= self._patience.slow:
                outbox.cut(STUCK)
            else:
                progress[outbox] = sent, since
        self._progress = progress

    def _relieve_memory(self) -> None:
        if self._waiting.bytes <= self._patience.outboxes_bytes:
            return
        for outbox in sorted(self._waiting.outboxes, key=lambda outbox: outbox.waiting_bytes, reverse=True):
            outbox.cut(CROWDED)
            if self._waiting.bytes <= self._patience.outboxes_bytes:
                return

    def _judge_silence(self, connection: Connection, now: float) -> None:
        patience = self._patience
        silent = now - connection.last_heard
        if patience.idle and now - connection.last_message >= patience.idle:
            connection.outbox.close(IDLE)
        elif silent < patience.ping:
            connection.pinged = False
        elif not connection.pinged:
            connection.pinged = True
            connection.outbox.reply(PING)
        elif silent >= patience.ping + patience.pong:
            connection.outbox.cut(SILENT)
