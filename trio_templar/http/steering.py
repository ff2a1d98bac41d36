"""What an operator does to clients: `POST /disconnect/` and `/unsubscribe/`."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import UNSET, Meta, UnsetType

from trio_templar.clients.connection import Connection
from trio_templar.clients.selection import Selection
from trio_templar.core.hub import Hub
from trio_templar.errors import Close, RequestError
from trio_templar.http.app import Request, Response, Routes, json_answer, route_of
from trio_templar.http.input import given, key_of, read_body
from trio_templar.log import log, user_text

logger = logging.getLogger("trio_templar.steering")

# How many connections are dealt with before the others get their turn.
TURN: Final = 100
# What a close frame has space for (RFC 6455, 5.5); an unsubscribe goes to as many clients and needs no more.
REASON_BYTES: Final = 123

UserId = str | int | float
# RFC 6455, 7.4.2: for applications.
CloseCode = Annotated[int, Meta(ge=4000, le=4999)]


class _Whom(msgspec.Struct, forbid_unknown_fields=True):
    room: dict[str, Any] | UnsetType = UNSET
    connection: str | UnsetType = UNSET
    user: UserId | UnsetType = UNSET
    peer: str | UnsetType = UNSET
    reason: str = ""

    def selection(self) -> Selection:
        return Selection(
            connection=given(self.connection),
            user=None if self.user is UNSET else user_text(self.user),
            room=None if self.room is UNSET else key_of(self.room),
            peer=given(self.peer),
        )


class _Disconnect(_Whom):
    code: CloseCode = 4000


class Steering:
    """Acts on the connections of one gateway, a few at a time: thousands of close frames take a while."""

    def __init__(self, hub: Hub, connections: Collection[Connection]) -> None:
        self._hub = hub
        self._connections = connections

    def routes(self) -> Routes:
        """Return its routes for `HttpApi.routes`."""
        return {
            **route_of("POST", "/disconnect", self.post_disconnect),
            **route_of("POST", "/unsubscribe", self.post_unsubscribe),
        }

    async def post_disconnect(self, request: Request) -> Response:
        """`POST /disconnect/`: close the connections of one id, user, room or peer."""
        asked = await read_body(request, _Disconnect)
        return json_answer({"disconnected": await self.disconnect(asked.selection(), asked.code, asked.reason)})

    async def post_unsubscribe(self, request: Request) -> Response:
        """`POST /unsubscribe/`: end the subscriptions of one room, of everybody or of some."""
        asked = await read_body(request, _Whom)
        return json_answer({"unsubscribed": await self.unsubscribe(asked.selection(), asked.reason)})

    async def disconnect(self, whom: Selection, code: int, reason: str) -> int:
        """Close the connections of `whom`, behind what waits for them; return how many that were.

        Raises NotFound: if `whom` names a connection that is not there.
        Raises RequestError: if `whom` is not exactly one thing, `code` not 4000 to 4999, or `reason` over 123 bytes.
        """
        await trio.lowlevel.checkpoint()
        if whom.given != 1:
            raise RequestError("give one of connection, user, room and peer")
        if not 4000 <= code <= 4999:
            raise RequestError(f"code: {code} is not one of 4000 to 4999")
        _check_reason(reason)
        close = Close(code, reason)
        count = 0
        for number, connection in enumerate(whom.of(self._hub, self._connections), 1):
            if connection.outbox.closed is None:
                connection.outbox.close(close)
                count += 1
            if not number % TURN:
                await trio.lowlevel.checkpoint()
        _log("disconnected", count, whom, code=code, why=reason)
        return count

    async def unsubscribe(self, whom: Selection, reason: str) -> int:
        """End what the connections of `whom` have subscribed to in its room, and tell them; return how many that were.

        Raises NotFound: if `whom` names a connection that is not there.
        Raises RequestError: if `whom` names no room, or more than one thing beside it, or `reason` has over 123 bytes.
        """
        await trio.lowlevel.checkpoint()
        if whom.room is None:
            raise RequestError("missing: `room`")
        if whom.given > 2:
            raise RequestError("give at most one of connection, user and peer beside the room")
        _check_reason(reason)
        count = 0
        for number, connection in enumerate(whom.of(self._hub, self._connections), 1):
            count += connection.unsubscribe(whom.room, reason)
            if not number % TURN:
                await trio.lowlevel.checkpoint()
        _log("unsubscribed", count, whom, why=reason)
        return count


def _check_reason(reason: str) -> None:
    if len(reason.encode(errors="surrogatepass")) > REASON_BYTES:
        raise RequestError(f"reason: over {REASON_BYTES} bytes")


def _log(event: str, count: int, whom: Selection, **fields: object) -> None:
    room = whom.room.decode() if whom.room is not None else None
    named = {"id": whom.connection, "user": whom.user, "peer": whom.peer, "room": room}
    log(logger, logging.INFO, event, count=count, **named, **fields)
