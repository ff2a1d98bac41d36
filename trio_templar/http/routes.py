"""The HTTP API of one gateway, put together: its routes, and its listener."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from trio_templar import demo
from trio_templar.delivery.idempotency import IdempotencyCache
from trio_templar.gateway import Gateway
from trio_templar.http import page
from trio_templar.http.app import HttpApi
from trio_templar.http.control import control_routes
from trio_templar.http.metrics import Sources
from trio_templar.http.tree import tree_routes
from trio_templar.http.triggers import TriggerApi
from trio_templar.http.views import Views
from trio_templar.net.listeners import Listening, url_of


def http_app(gateway: Gateway) -> HttpApi:
    """Return the HTTP API of `gateway`, which runs: an ASGI app."""
    from trio_templar.http.exposition import metrics_routes  # prometheus_client takes its time to import

    settings = gateway.settings
    app = HttpApi(
        gateway.authorization,
        max_bytes=settings.max_trigger_bytes,
        body_seconds=settings.http_body_seconds,
        budget=gateway.budget,
    )
    app.routes |= _trigger_api(gateway).routes()
    app.routes |= gateway.health.routes()
    app.routes |= metrics_routes(_sources(gateway, app))
    app.routes |= Views(gateway.hub, gateway.connections, gateway.rates, gateway.clock, gateway.totals).routes()
    app.routes |= gateway.history.routes()
    app.routes |= control_routes(gateway.control, gateway.drain)
    app.routes |= tree_routes(gateway.nurseries, gateway.named_tasks)
    demo_url = demo.websocket_of(gateway.websocket_urls) if settings.demo else None
    app.routes |= page.routes(needs_token=lambda: bool(gateway.authorization.access.token), demo_url=demo_url)
    return app


def _sources(gateway: Gateway, app: HttpApi) -> Sources:
    return Sources(
        hub=gateway.hub,
        connections=gateway.connections,
        fanout=gateway.fanout,
        backlogs=gateway.backlogs,
        budget=gateway.budget,
        admission=gateway.admission,
        bootstrap_limiter=gateway.bootstrap_limiter,
        counts=gateway.connection_counts,
        lag=gateway.lag,
        http=app,
        draining=gateway.leaving.is_set,
    )


def start_http(gateway: Gateway, listeners: Sequence[Listening], nursery: trio.Nursery) -> None:
    """Serve the HTTP API of `gateway` on `listeners` in `nursery`; its URLs are known then."""
    from trio_templar.http.server import serve_http  # only who listens for triggers needs it

    settings = gateway.settings
    grace = min(3.0, settings.drain_seconds / 2)
    nursery.start_soon(serve_http, http_app(gateway), listeners, gateway.stopped.wait, grace, settings.max_callers)
    gateway.trigger_url = url_of(listeners[0], "http", "/trigger/")
    page_url = url_of(listeners[0], "http", "/")
    gateway.page_url = page_url if page_url.startswith("http") else None


def _trigger_api(gateway: Gateway) -> TriggerApi:
    settings = gateway.settings
    cache = IdempotencyCache[Any](
        seconds=settings.idempotency_seconds,
        max_entries=settings.idempotency_entries,
        max_bytes=settings.idempotency_bytes,
        now=trio.current_time,
    )
    return TriggerApi(gateway.fanout, gateway.reader, cache)
