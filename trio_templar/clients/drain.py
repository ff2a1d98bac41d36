"""The drain: clients are closed one by one, so that they reconnect one by one elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, Final

import trio

from trio_templar.clients.connection import Connection
from trio_templar.core.hub import Hub
from trio_templar.delivery.entrance import Entrance
from trio_templar.errors import STOPPING
from trio_templar.log import log

logger = logging.getLogger("trio_templar.gateway")

# The share of a drain in which clients are closed; the rest is for goodbyes and hooks.
CLOSING_SHARE: Final = 0.75
# How often to see whether all clients have left by themselves.
LOOK_SECONDS: Final = 0.25
# How many clients are closed at once before other tasks get their turn: each may be a write.
TURN_CLOSES: Final = 100
# What its rooms hold is offered to a client before it is closed. A room that is always full may not delay that: it is
# waited for so long at most, and for such a share of the time for all closes, or a short drain would end before the
# close frame.
PASS_SECONDS: Final = 1.0
PASS_SHARE: Final = 1 / 6
# How often to see whether a pass is through: an event for that would cost every pass of every room.
PASS_LOOK_SECONDS: Final = 0.01

Shuffle = Callable[[list[Any]], object]
shuffle: Final[Shuffle] = SystemRandom().shuffle


class Shutdown:
    """Whether a gateway is going to end, and how long what is not done may take: until the deadline of `scope`.

    `leaving` is set first. No client is admitted any more then, unless another process holds our addresses too: those
    that we have accepted come in until the end. `stopped` is set when no client has any time left.
    """

    def __init__(self, scope: trio.CancelScope, entrance: Entrance, connections: Collection[Connection]) -> None:
        self._scope = scope
        self._entrance = entrance
        self._connections = connections
        self.leaving = trio.Event()
        self.stopped = trio.Event()

    def drain(self, seconds: float) -> None:
        """Begin to close all clients one by one; all of it takes `seconds` at most. A second call changes nothing."""
        if self.leaving.is_set():
            return
        log(logger, logging.INFO, "drain", connections=len(self._connections), seconds=seconds)
        self._end_within(seconds)
        self.leaving.set()

    def stop(self, seconds: float) -> None:
        """Take no more publications, and begin to close all clients at once; all of it takes `seconds` at most."""
        self._end_within(seconds)
        self.leaving.set()
        self.stopped.set()
        self._entrance.close()

    def _end_within(self, seconds: float) -> None:
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + seconds)


@dataclass(slots=True)
class Departure:
    """The end of all `connections`, in an order that `shuffle` makes; `stopped` cuts it short.

    All ends are of `trio.current_time`.
    """

    connections: Collection[Connection]
    hub: Hub
    stopped: trio.Event
    shuffle: Shuffle = shuffle

    async def close_in_turn(self, end: float) -> None:
        """Close all clients that are connected now with 1012, evenly from now to `end`; return early if all have left.

        A client first gets what was published to it: what its rooms hold is waited for, and its backlog has until `end`
        to go out.
        """
        order = list(self.connections)
        self.shuffle(order)
        start = trio.current_time()
        seconds = end - start
        pass_seconds = min(PASS_SECONDS, PASS_SHARE * seconds)
        async with trio.open_nursery() as closes:
            for place, connection in enumerate(order):
                await self._wait_until(start + seconds * place / len(order))
                if self._over:
                    closes.cancel_scope.cancel()
                    break
                closes.start_soon(self._close, connection, end, pass_seconds)

    async def close_late(self, clients: trio.Nursery, end: float) -> None:
        """Close clients that are admitted only now, until `end`; return early once no task of `clients` is left."""
        while clients.child_tasks and not self.stopped.is_set() and (now := trio.current_time()) < end:
            await self.close_all(end - now)
            await self._pause(end)

    async def close_all(self, seconds: float = 0) -> None:
        """Close all clients that are connected now, with 1012; each has `seconds` for what waits, or its goodbye's."""
        for number, connection in enumerate(list(self.connections), 1):
            connection.send_away(STOPPING, seconds)
            if number % TURN_CLOSES == 0:
                await trio.lowlevel.checkpoint()

    @property
    def _over(self) -> bool:
        return self.stopped.is_set() or not self.connections

    async def _wait_until(self, due: float) -> None:
        while not self._over and trio.current_time() < due:
            await self._pause(due)

    async def _pause(self, end: float) -> None:
        """Wait until it is time to look again, or `end`, or the stop."""
        with trio.move_on_at(min(end, trio.current_time() + LOOK_SECONDS)):
            await self.stopped.wait()

    async def _close(self, connection: Connection, end: float, pass_seconds: float) -> None:
        if connection.session is not None:
            with trio.move_on_after(pass_seconds):
                await self._let_pass(connection.session.room_keys())
        connection.send_away(STOPPING, end - trio.current_time())

    async def _let_pass(self, keys: Iterable[bytes]) -> None:
        """Return once all that the rooms of `keys` hold now was offered to their subscribers."""
        rooms = [room for room in map(self.hub.rooms.get, keys) if room is not None and room.channel is not None]
        marks = [(room, room.channel, room.channel.taken + room.channel.publications) for room in rooms]
        for room, channel, mark in marks:
            while room.channel is channel and channel.passed < mark:  # noqa: ASYNC110  # see PASS_LOOK_SECONDS
                await trio.sleep(PASS_LOOK_SECONDS)
