"""Leaving without a storm: clients are sent away one by one, so that their reconnects arrive one by one elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, Final

import trio

from trio_templar.clients.connection import Connection
from trio_templar.core.hub import Hub
from trio_templar.errors import STOPPING

# The share of a drain in which clients are sent away; the rest is for goodbyes and hooks.
CLOSING_SHARE: Final = 0.75
# How often to see whether everybody has left by themselves.
LOOK_SECONDS: Final = 0.25
# What has been accepted for a client's rooms is offered to it first, but a room that is always full delays no close: so
# long at most, and such a share of the time for all closes, or a short drain would end before the close frame.
PASS_SECONDS: Final = 1.0
PASS_SHARE: Final = 1 / 6
PASS_LOOK_SECONDS: Final = 0.01

Shuffle = Callable[[list[Any]], object]
shuffle: Final[Shuffle] = SystemRandom().shuffle


@dataclass(frozen=True, slots=True)
class Departure:
    """The end of all `connections`, in the order that `shuffle` makes; `stopped` cuts it short."""

    connections: Collection[Connection]
    hub: Hub
    shuffle: Shuffle
    stopped: trio.Event

    async def close_in_turn(self, end: float) -> None:
        """Close who is connected now with 1012, evenly from now to `end`; return early once nobody is left.

        A client gets what was published to it before its close: from the rooms because that is waited for, from its
        outbox because that sends what it holds, and has the time until `end` for it.
        """
        order = list(self.connections)
        self.shuffle(order)
        start = trio.current_time()
        seconds = end - start
        async with trio.open_nursery() as closing:
            for place, connection in enumerate(order):
                await self._wait_until(start + seconds * place / len(order))
                if self._over:
                    closing.cancel_scope.cancel()
                    break
                closing.start_soon(self._close, connection, end, min(PASS_SECONDS, PASS_SHARE * seconds))

    async def close_late(self, clients: trio.Nursery, end: float) -> None:
        """Close who was accepted before, and is let in until `end`; return early once no task of `clients` is left."""
        while clients.child_tasks and (now := trio.current_time()) < end and not self.stopped.is_set():
            for connection in list(self.connections):
                connection.send_away(STOPPING, end - now)
            with trio.move_on_at(min(end, now + LOOK_SECONDS)):
                await self.stopped.wait()

    @property
    def _over(self) -> bool:
        return self.stopped.is_set() or not self.connections

    async def _wait_until(self, due: float) -> None:
        while (now := trio.current_time()) < due and not self._over:
            with trio.move_on_at(min(due, now + LOOK_SECONDS)):
                await self.stopped.wait()

    async def _close(self, connection: Connection, end: float, pass_seconds: float) -> None:
        if connection.session is not None:
            with trio.move_on_after(pass_seconds):
                await self._let_pass(connection.session.room_keys())
        connection.send_away(STOPPING, end - trio.current_time())

    async def _let_pass(self, keys: Iterable[bytes]) -> None:
        """Return once what waits in these rooms now was offered to everybody in them."""
        rooms = [room for room in map(self.hub.rooms.get, keys) if room is not None and room.channel is not None]
        marks = [(room, room.channel, room.channel.taken + room.channel.publications) for room in rooms]
        for room, channel, mark in marks:
            while room.channel is channel and channel.passed < mark:  # noqa: ASYNC110  # an event would cost each pass
                await trio.sleep(PASS_LOOK_SECONDS)
