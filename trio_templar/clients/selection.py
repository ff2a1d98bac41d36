"""Which connections an operator means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trio_templar.clients.connection import Connection
from trio_templar.core.hub import Hub
from trio_templar.errors import NotFound
from trio_templar.log import user_text


@dataclass(frozen=True, slots=True)
class Selection:
    """The connections that fit all fields that are not None; without any, all connections.

    `connection` is an id, `user` a user id as text, `room` a room key, `peer` an address with or without its port.
    """

    connection: str | None = None
    user: str | None = None
    room: bytes | None = None
    peer: str | None = None

    @property
    def given(self) -> int:
        """How many fields are not None."""
        return sum(value is not None for value in (self.connection, self.user, self.room, self.peer))

    def of(self, hub: Hub, connections: Iterable[Connection]) -> list[Connection]:
        """Return the selected connections, in no order. Raises NotFound: if no connection has the given id."""
        found = list(connections)
        if self.connection is not None:
            found = [connection for connection in found if connection.id == self.connection]
            if not found:
                raise NotFound(f"connection: there is none with the id {self.connection!r}")
        if self.user is not None:
            found = [connection for connection in found if user_text(connection.user_id) == self.user]
        if self.room is not None:
            room = hub.rooms.get(self.room)
            there = {subscription.receiver for subscription in room.subscriptions} if room else set()
            found = [connection for connection in found if connection.outbox in there]
        if self.peer is not None:
            found = [connection for connection in found if self.peer in (connection.peer, _host(connection.peer))]
        return found


def _host(peer: str) -> str:
    return peer.rpartition(":")[0].strip("[]")
