"""The HTTP API of one gateway, put together from the parts that it serves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from trio_templar.clients.connection import Connection
from trio_templar.clients.control import Control
from trio_templar.clients.statistics import Sources
from trio_templar.clock import Clock
from trio_templar.core.history import History
from trio_templar.core.hub import Hub
from trio_templar.core.room_history import RoomHistories
from trio_templar.core.settings import Settings
from trio_templar.core.triggers import TriggerReader
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.bus import Bus
from trio_templar.delivery.idempotency import IdempotencyCache
from trio_templar.http import page
from trio_templar.http.app import HttpApi
from trio_templar.http.authorization import Authorization
from trio_templar.http.control import control_routes
from trio_templar.http.health import Health
from trio_templar.http.history import history_routes
from trio_templar.http.rates import Rates
from trio_templar.http.tree import NamedTask, tree_routes
from trio_templar.http.trends import Trends
from trio_templar.http.triggers import TriggerApi
from trio_templar.http.views import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The parts of a gateway that its HTTP API serves. `nurseries` and `tasks` are as for `NurseryTree`."""

    authorization: Authorization
    budget: Budget
    reader: TriggerReader
    bus: Bus
    hub: Hub
    history: History
    room_histories: RoomHistories
    connections: Collection[Connection]
    clock: Clock
    sources: Sources
    rates: Rates
    trends: Trends
    health: Health
    control: Control
    drain: Callable[[], None]
    nurseries: Mapping[trio.Nursery, str]
    tasks: Callable[[], Iterable[NamedTask]]


def http_app(served: Served, settings: Settings, demo_url: str | None = None) -> HttpApi:
    """Return the HTTP API: an ASGI app. With a `demo_url` its page has the clients of the demo (see `page`)."""
    from trio_templar.http.exposition import metrics_routes  # prometheus_client takes its time to import

    app = HttpApi(
        served.authorization,
        max_bytes=settings.max_trigger_bytes,
        body_seconds=settings.http_body_seconds,
        budget=served.budget,
    )
    app.routes |= TriggerApi(served.bus, served.reader, _cache(settings)).routes()
    app.routes |= served.health.routes()
    app.routes |= metrics_routes(served.sources, app.answers)
    app.routes |= Views(
        served.hub, served.history, served.connections, served.rates, served.clock, served.sources
    ).routes()
    app.routes |= history_routes(served.room_histories)
    app.routes |= served.trends.routes()
    app.routes |= control_routes(served.control, served.drain)
    app.routes |= tree_routes(served.nurseries, served.tasks)
    app.routes |= page.routes(needs_token=lambda: bool(served.authorization.access.token), demo_url=demo_url)
    return app


def _cache(settings: Settings) -> IdempotencyCache[Any]:
    return IdempotencyCache[Any](
        seconds=settings.idempotency_seconds,
        max_entries=settings.idempotency_entries,
        max_bytes=settings.idempotency_bytes,
        now=trio.current_time,
    )
