"""What is going on, as JSON: `GET /status`, `/connections/` and `/rooms/`. Pages are bounded in items and in bytes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain, islice
from operator import itemgetter
from typing import Annotated, Any, Final, Literal

import msgspec
import trio
from msgspec import UNSET, Meta, UnsetType

from trio_templar import __version__
from trio_templar.clients.connection import Connection
from trio_templar.clients.selection import Selection
from trio_templar.clients.statistics import Sources, Statistics
from trio_templar.clock import Clock, utc
from trio_templar.core.history import History
from trio_templar.core.hub import Hub, LiveRoom
from trio_templar.http.app import Request, Response, Routes, json_answer, route_of
from trio_templar.http.input import NoQuery, given, read_query, read_room
from trio_templar.http.rates import Rates
from trio_templar.log import user_text

# A page ends behind the item with which it is longer; the caller's socket need not hold more.
LISTING_PAGE_BYTES: Final = 262_144
# How many rooms of a connection, and how many connections of a status, are named.
NAMED_ROOMS: Final = 20
NAMED_CONNECTIONS: Final = 10

Limit = Annotated[int, Meta(ge=1, le=1000)]
Offset = Annotated[int, Meta(ge=0, le=2**31)]
# One item of a page, encoded when the page gets that far.
Item = Callable[[], Mapping[str, Any]]


class _ConnectionsQuery(msgspec.Struct, forbid_unknown_fields=True):
    user: str | UnsetType = UNSET
    room: str | UnsetType = UNSET
    peer: str | UnsetType = UNSET
    sort: Literal["waiting", "age"] = "waiting"
    limit: Limit = 100
    offset: Offset = 0

    def selection(self) -> Selection:
        room = None if self.room is UNSET else read_room(self.room)
        return Selection(user=given(self.user), room=room, peer=given(self.peer))


class _RoomsQuery(msgspec.Struct, forbid_unknown_fields=True):
    sort: Literal["subscribers", "publications", "rate", "kept"] = "subscribers"
    limit: Limit = 100
    offset: Offset = 0


class Views:
    """The live views of one gateway."""

    def __init__(
        self,
        hub: Hub,
        history: History,
        connections: Collection[Connection],
        rates: Rates,
        clock: Clock,
        sources: Sources,
    ) -> None:
        self._hub = hub
        self._history = history
        self._connections = connections
        self._rates = rates
        self._clock = clock
        self._sources = sources

    def routes(self) -> Routes:
        """Return its routes for `HttpApi.routes`."""
        return {
            **route_of("GET", "/status", self.status),
            **route_of("GET", "/connections", self.connections),
            **route_of("GET", "/rooms", self.rooms),
        }

    async def status(self, request: Request) -> Response:
        """`GET /status`: the totals, and the connections for which most waits."""
        await trio.lowlevel.checkpoint()
        read_query(request, NoQuery)
        waiting = [connection for connection in self._connections if connection.outbox.waiting_bytes]
        slowest = sorted(waiting, key=_most_waiting)[:NAMED_CONNECTIONS]
        return json_answer(
            {**_totals(self._sources.now()), "slowest": [self._connection_view(connection) for connection in slowest]}
        )

    async def connections(self, request: Request) -> Response:
        """`GET /connections/`: those that were asked for, a page of them."""
        await trio.lowlevel.checkpoint()
        query = read_query(request, _ConnectionsQuery)
        found = query.selection().of(self._hub, self._connections)
        found.sort(key=_most_waiting if query.sort == "waiting" else _oldest)
        items = (self._connection_view(connection) for connection in islice(found, query.offset, None))
        return _page("connections", items, len(found), query.offset, query.limit)

    async def rooms(self, request: Request) -> Response:
        """`GET /rooms/`: a page of those that have a subscriber, then of those of which only publications are kept."""
        await trio.lowlevel.checkpoint()
        query = read_query(request, _RoomsQuery)
        figure: dict[str, Callable[[LiveRoom], float]] = {
            "subscribers": lambda room: len(room.subscriptions),
            "publications": lambda room: room.publications,
            "rate": self._rates.of,
            "kept": lambda room: self._history.kept(room.key),
        }
        live = self._hub.rooms
        found = sorted(live.values(), key=lambda room: (-figure[query.sort](room), room.key))
        # There may be many of these, and none has a subscriber, so they are not sorted unless that is asked for.
        quiet: Iterable[tuple[bytes, int]] = (each for each in self._history.rooms() if each[0] not in live)
        if query.sort == "kept":
            quiet = heapq.nlargest(query.offset + query.limit, quiet, key=itemgetter(1))
        total = len(found) + self._history.room_count - sum(self._history.kept(key) > 0 for key in live)
        keys = chain((room.key for room in found), (key for key, _ in quiet))
        items = (self._room_view(key) for key in islice(keys, query.offset, None))
        return _page("rooms", items, total, query.offset, query.limit)

    def _room_view(self, key: bytes) -> Mapping[str, Any]:
        room = self._hub.rooms.get(key)
        return {
            "room": msgspec.Raw(key),
            "subscribers": len(room.subscriptions) if room else 0,
            "publications": room.publications if room else 0,
            "channel": room.channel.publications if room and room.channel else 0,
            "rate": round(self._rates.of(room), 3) if room else 0.0,
            "kept": self._history.kept(key),
        }

    def _connection_view(self, connection: Connection) -> Mapping[str, Any]:
        age = trio.current_time() - connection.since
        now = self._clock.now()
        outbox, session = connection.outbox, connection.session
        keys = session.room_keys() if session else []
        return {
            "id": connection.id,
            "user": user_text(connection.user_id),
            "peer": connection.peer,
            "agent": connection.agent,
            "since": utc(age),
            "age_seconds": round(age, 3),
            "rooms": [msgspec.Raw(key) for key in islice(dict.fromkeys(keys), NAMED_ROOMS)],
            "subscriptions": len(keys),
            "waiting_bytes": outbox.waiting_bytes,
            "waiting_frames": outbox.waiting_frames,
            "peak_bytes": outbox.peak_bytes,
            "oldest_seconds": None if outbox.oldest is None else round(now - outbox.oldest, 3),
            "last_alive_seconds": round(now - connection.last_heard, 3),
            "lost": outbox.lost,
            "frames": outbox.publications,
            "sent_bytes": outbox.sent_bytes,
        }


def _totals(now: Statistics) -> Mapping[str, Any]:
    """Return what `/status` says of the whole gateway."""
    return {
        "version": __version__,
        "started": utc(now.uptime_seconds),
        "uptime_seconds": round(now.uptime_seconds, 3),
        "draining": now.draining,
        "connections": now.connections,
        "rooms": now.rooms,
        "subscriptions": now.subscriptions,
        "triggers": now.triggers,
        "publications": now.publications,
        "deliveries": now.deliveries,
        "waiting_bytes": now.waiting_bytes,
        "memory": {
            "used_bytes": now.memory_bytes,
            "soft_bytes": now.memory_soft_bytes,
            "hard_bytes": now.memory_hard_bytes,
        },
        "history": {
            "publications": now.history_publications,
            "bytes": now.history_bytes,
            "span_seconds": round(now.history_span_seconds, 3),
        },
        "recoveries": now.recoveries,
        "replayed": now.replayed,
        "drops": now.drops,
        "client_errors": now.client_errors,
    }


def _most_waiting(connection: Connection) -> tuple[float, float, str]:
    return -connection.outbox.waiting_bytes, connection.since, connection.id


def _oldest(connection: Connection) -> tuple[float, str]:
    return connection.since, connection.id


def _page(name: str, items: Iterable[Mapping[str, Any]], total: int, offset: int, limit: int) -> Response:
    """Answer with up to `limit` items (which begin at `offset`), and where the next page begins.

    Fewer of them if they are long, but at least one, if any is left.
    """
    encoded: list[msgspec.Raw] = []
    size = 0
    for item in islice(items, limit):
        encoded.append(msgspec.Raw(msgspec.json.encode(item)))
        size += len(encoded[-1])
        if size >= LISTING_PAGE_BYTES:
            break
    end = offset + len(encoded)
    return json_answer({"total": total, "next": end if end < total else None, name: encoded})
