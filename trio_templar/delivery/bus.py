"""The log of what is published: publishers append to it, and each node of a gateway follows it.

A gateway that is alone has a `LocalBus`: what is appended there is handed on in the same step. `Bus` is where a log
that several nodes share takes its place; `ask` is for what such a log does not hold, as who is connected where.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from trio_templar.core.triggers import Trigger
from trio_templar.delivery.fanout import Fanout
from trio_templar.delivery.follower import Follower, placed


class Bus(Protocol):
    """A log that all nodes read."""

    def append_nowait(self, triggers: Sequence[Trigger]) -> int:
        """Append `triggers`, all or none, and return the last position; 0 if nothing is kept.

        Raises Full (a `trio.WouldBlock`): if a room, or memory, is full. Raises Busy: if no more is taken.
        Raises TooLarge: if they never will fit.
        """

    async def append(self, triggers: Sequence[Trigger]) -> int:
        """Append `triggers`, all or none, and return the last position; blocks while a room, or memory, is full.

        Raises Busy: if it stayed full for too long, or no more is taken. Raises TooLarge: if they never will fit.
        """

    async def follow(self) -> None:
        """Hand on what other nodes append, until cancelled."""

    async def ask(self, question: bytes) -> Sequence[bytes]:
        """Return what each of the other nodes answers to `question`: what is true of all nodes is asked, not kept."""


class LocalBus:
    """The log of a gateway that is alone."""

    def __init__(self, follower: Follower, fanout: Fanout) -> None:
        self._follower = follower
        self._fanout = fanout

    def append_nowait(self, triggers: Sequence[Trigger]) -> int:
        """Append and hand on `triggers`, all or none; return the last position. Raises as `Bus.append_nowait`."""
        history = self._follower.history
        appended = placed(triggers, history.positions.next()) if history.on else triggers
        plan = self._fanout.plan(appended)
        self._fanout.entrance.check(plan)
        self._follower.take(appended, plan)
        return appended[-1].publication.position if appended else 0

    async def append(self, triggers: Sequence[Trigger]) -> int:
        """Append and hand on `triggers`, all or none; return the last position. Blocks and raises as `Bus.append`."""
        return await self._fanout.entrance.when_free(lambda: self.append_nowait(triggers))

    async def follow(self) -> None:
        """Return at once: there is no other node."""
        await trio.lowlevel.checkpoint()

    async def ask(self, question: bytes) -> Sequence[bytes]:
        """Return nothing: there is no other node."""
        await trio.lowlevel.checkpoint()
        return ()
