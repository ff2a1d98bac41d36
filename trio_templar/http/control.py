"""What an operator does to clients and to the gateway: `POST /disconnect/`, `/unsubscribe/` and `/drain/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from trio_templar.clients.control import Control
from trio_templar.clients.selection import Selection
from trio_templar.errors import RequestError
from trio_templar.http.app import Request, Response, Routes, json_answer, route_of
from trio_templar.http.input import given, key_of, read_body
from trio_templar.log import user_text

UserId = str | int | float
# RFC 6455, 7.4.2: for applications.
CloseCode = Annotated[int, Meta(ge=4000, le=4999)]


class _Unsubscribe(msgspec.Struct, forbid_unknown_fields=True):
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


class _Disconnect(_Unsubscribe):
    code: CloseCode = 4000


def control_routes(control: Control, drain: Callable[[], None]) -> Routes:
    """Return the routes for `HttpApi.routes`. `drain` returns at once: the answer goes out before anything ends."""

    async def post_disconnect(request: Request) -> Response:
        asked = await read_body(request, _Disconnect)
        return json_answer({"disconnected": await control.disconnect(asked.selection(), asked.code, asked.reason)})

    async def post_unsubscribe(request: Request) -> Response:
        asked = await read_body(request, _Unsubscribe)
        return json_answer({"unsubscribed": await control.unsubscribe(asked.selection(), asked.reason)})

    async def post_drain(request: Request) -> Response:
        if (await request.body.whole()).strip() not in (b"", b"{}"):
            raise RequestError("a drain takes no options; send no body, or {}")
        drain()
        return json_answer({"draining": True})

    return {
        **route_of("POST", "/disconnect", post_disconnect),
        **route_of("POST", "/unsubscribe", post_unsubscribe),
        **route_of("POST", "/drain", post_drain),
    }
