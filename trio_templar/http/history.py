"""`GET /history/`: what is kept of a room, also of one that nobody is in."""

from __future__ import annotations

import msgspec
import trio

from trio_templar.core.room_history import DEFAULT_LIMIT, RoomHistories
from trio_templar.errors import Forgotten
from trio_templar.http.app import Request, Response, Routes, json_answer, route_of
from trio_templar.http.input import read_query, read_room


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    room: str
    since: str | None = None
    limit: int = DEFAULT_LIMIT


def history_routes(room_histories: RoomHistories) -> Routes:
    """Return the route for `HttpApi.routes`."""

    async def get_history(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        query = read_query(request, _Query)
        try:
            return json_answer(room_histories.of(read_room(query.room), query.since, query.limit))
        except Forgotten as error:
            return json_answer({"at": error.at}, error.status)

    return route_of("GET", "/history", get_history)
