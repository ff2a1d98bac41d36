"""What an operator, or an embedding program, does to clients: close them, or end their subscriptions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

import trio

from trio_templar.clients.connection import Connection
from trio_templar.clients.selection import Selection
from trio_templar.core.hub import Hub
from trio_templar.errors import Close, RequestError
from trio_templar.log import log

logger = logging.getLogger("trio_templar.steering")  # operators filter by this name, which is older than the module's

# How many connections are dealt with before other tasks get their turn.
TURN_CONNECTIONS: Final = 100
# What a close frame has space for (RFC 6455, 5.5); an unsubscribe goes to as many clients and needs no more.
REASON_BYTES: Final = 123


class Control:
    """Acts on the connections of one gateway, a few at a time: thousands of close frames take a while."""

    def __init__(self, hub: Hub, connections: Collection[Connection]) -> None:
        self._hub = hub
        self._connections = connections

    async def disconnect(self, whom: Selection, code: int, reason: str) -> int:
        """Close the connections of `whom`, each behind its backlog; return how many that were.

        Raises NotFound: if `whom` names a connection that does not exist.
        Raises RequestError: if `whom` is not exactly one thing, `code` not 4000 to 4999, or `reason` over 123 bytes.
        """
        await trio.lowlevel.checkpoint()
        if whom.given != 1:
            raise RequestError("give one of connection, user, room and peer")
        if not 4000 <= code <= 4999:
            raise RequestError(f"code: {code} is not one of 4000 to 4999")
        _check_reason(reason)
        close = Close(code, reason)
        count = await self._apply(lambda connection: connection.outbox.close(close), whom)
        _log("disconnected", count, whom, code=code, why=reason)
        return count

    async def unsubscribe(self, whom: Selection, reason: str) -> int:
        """End the subscriptions of `whom` to its room, and tell the clients; return how many subscriptions that were.

        Raises NotFound: if `whom` names a connection that does not exist.
        Raises RequestError: if `whom` names no room, or more than one thing beside it, or `reason` has over 123 bytes.
        """
        await trio.lowlevel.checkpoint()
        room = whom.room
        if room is None:
            raise RequestError("missing: `room`")
        if whom.given > 2:
            raise RequestError("give at most one of connection, user and peer beside the room")
        _check_reason(reason)
        count = await self._apply(lambda connection: connection.unsubscribe(room, reason), whom)
        _log("unsubscribed", count, whom, why=reason)
        return count

    async def _apply(self, act: Callable[[Connection], int], whom: Selection) -> int:
        """Do `act` to each connection of `whom`; return the sum of what it returns."""
        count = 0
        # The selection is made once, before the first turn of others: one that connects meanwhile is not meant.
        for number, connection in enumerate(whom.of(self._hub, self._connections), 1):
            count += act(connection)
            if number % TURN_CONNECTIONS == 0:
                await trio.lowlevel.checkpoint()
        return count


def _check_reason(reason: str) -> None:
    if len(reason.encode(errors="surrogatepass")) > REASON_BYTES:
        raise RequestError(f"reason: over {REASON_BYTES} bytes")


def _log(event: str, count: int, whom: Selection, **fields: object) -> None:
    room = whom.room.decode() if whom.room is not None else None
    named = {"id": whom.connection, "user": whom.user, "peer": whom.peer, "room": room}
    log(logger, logging.INFO, event, count=count, **named, **fields)
