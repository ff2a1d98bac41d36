"""Settings, and the nurseries that are open, made into all parts of a gateway. The only module that sees all of them.

Each part is built whole, from what it needs, before anybody sees it. What `reload` replaces is at the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from trio_templar import demo
from trio_templar.clients.admission import Admission
from trio_templar.clients.bootstrap import Bootstrap, BootstrapLimiter
from trio_templar.clients.connection import Connection, Context
from trio_templar.clients.control import Control
from trio_templar.clients.drain import Departure, Shutdown
from trio_templar.clients.hooks import HookCaller, HookQueue, Hooks
from trio_templar.clients.statistics import Sources
from trio_templar.clients.supervisor import Supervisor, Timeouts
from trio_templar.clock import Clock
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.history import History, Span
from trio_templar.core.hub import Hub
from trio_templar.core.policies import Policies
from trio_templar.core.position import Positions
from trio_templar.core.recovery import Recovery
from trio_templar.core.reload import Reloaded, merge
from trio_templar.core.room_history import RoomHistories
from trio_templar.core.session import Rules
from trio_templar.core.settings import Settings
from trio_templar.core.triggers import TriggerReader
from trio_templar.counters import ConnectionCounts
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.bus import Bus, LocalBus
from trio_templar.delivery.entrance import Bounds
from trio_templar.delivery.fanout import Fanout
from trio_templar.delivery.follower import Follower
from trio_templar.http.app import HttpApi
from trio_templar.http.authorization import Authorization, access_by
from trio_templar.http.health import Canary, Health
from trio_templar.http.rates import Rates
from trio_templar.http.routes import Served, http_app
from trio_templar.http.tree import NamedTask
from trio_templar.http.trends import Trends
from trio_templar.lag import Lag
from trio_templar.log import log
from trio_templar.machine import descriptor_limit, memory_bytes
from trio_templar.net.endpoints import Endpoints, certificate_of

logger = logging.getLogger("trio_templar.gateway")

# What is kept takes at most this part of the memory that may wait.
HISTORY_SHARE: Final = 8


@dataclass(frozen=True, slots=True)
class Api:
    """Whom a gateway asks who may enter which rooms, and whom it tells what became of clients."""

    bootstrap: Bootstrap
    hooks: Hooks


@dataclass(frozen=True, slots=True, kw_only=True)
class Nurseries:
    """What is open as long as the parts are used: where they start tasks, and the `scope` around all of it."""

    scope: trio.CancelScope
    hook_queue: HookQueue
    clients: trio.Nursery
    rooms: trio.Nursery

    def named(self) -> Mapping[trio.Nursery, str]:
        """Return them with the names that `GET /tree` shows."""
        return {self.hook_queue.nursery: "hooks", self.clients: "connections", self.rooms: "rooms"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What takes a publication to a socket."""

    hub: Hub
    clock: Clock
    budget: Budget
    backlogs: Backlogs
    reader: TriggerReader
    fanout: Fanout
    history: History
    recovery: Recovery
    room_histories: RoomHistories
    bus: Bus


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """What lets clients in, watches them, counts them and sends them away."""

    connections: set[Connection]
    counts: ConnectionCounts
    hooks: Hooks
    hook_queue: HookQueue
    bootstrap_limiter: BootstrapLimiter
    admission: Admission
    supervisor: Supervisor
    lag: Lag
    shutdown: Shutdown
    departure: Departure
    sources: Sources


@dataclass(slots=True)
class Current:
    """The settings in force, and what clients get of them that come from now on. `reload` replaces both."""

    settings: Settings
    context: Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """All parts of one gateway."""

    current: Current
    endpoints: Endpoints
    delivery: Delivery
    clients: Clients
    served: Served


def wire(settings: Settings, api: Api, endpoints: Endpoints, nurseries: Nurseries) -> Parts:
    """Return the parts of a gateway; nothing runs yet. The task that calls is shown as `serve` in `GET /tree`."""
    delivery = _delivery(settings, nurseries.rooms)
    clients = _clients(settings, api, delivery, nurseries)
    current = Current(settings, context_of(settings, delivery, clients))
    served = _served(current, delivery, clients, nurseries)
    return Parts(current=current, endpoints=endpoints, delivery=delivery, clients=clients, served=served)


def _delivery(settings: Settings, rooms: trio.Nursery) -> Delivery:
    hub, clock, dialect = Hub(settings.policies), Clock(), DIALECTS[settings.dialect]
    hard_bytes = settings.memory_bytes or memory_bytes() // 4
    history = History(Positions(wall=time.time), _span(settings, hard_bytes), _kept_seconds(settings.policies))
    budget = Budget(hard_bytes, history)
    fanout = Fanout(hub, rooms, budget, _bounds(settings))
    return Delivery(
        hub=hub,
        clock=clock,
        budget=budget,
        backlogs=Backlogs(settings.outbox_bytes, settings.outbox_frames, budget, clock.now),
        reader=TriggerReader(dialect, settings.max_publication_bytes, settings.max_room_bytes),
        fanout=fanout,
        history=history,
        recovery=Recovery(history, trio.current_time),
        room_histories=RoomHistories(history, dialect, trio.current_time),
        bus=LocalBus(Follower(history, hub, fanout), fanout),
    )


def _span(settings: Settings, hard_bytes: int) -> Span:
    return Span(settings.history_seconds, min(settings.history_bytes, hard_bytes // HISTORY_SHARE))


def _kept_seconds(policies: Policies) -> Callable[[bytes], float] | None:
    return policies.history_seconds if policies.limits_history else None


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        room_publications=settings.room_publications,
        room_bytes=settings.room_bytes,
        max_triggers_waiting=settings.max_triggers_waiting,
        wait_seconds=settings.trigger_wait_seconds,
    )


def _clients(settings: Settings, api: Api, delivery: Delivery, nurseries: Nurseries) -> Clients:
    connections, counts, lag = set[Connection](), ConnectionCounts(), Lag()
    limiter = BootstrapLimiter(api.bootstrap, settings)
    refuses_by_message = DIALECTS[settings.dialect].refusal() is not None
    admission = Admission(settings, limiter, refuses_by_message=refuses_by_message)
    shutdown = Shutdown(nurseries.scope, delivery.fanout.entrance, connections)
    return Clients(
        connections=connections,
        counts=counts,
        hooks=api.hooks,
        hook_queue=nurseries.hook_queue,
        bootstrap_limiter=limiter,
        admission=admission,
        supervisor=Supervisor(_timeouts(settings), connections, delivery.backlogs, delivery.clock, delivery.recovery),
        lag=lag,
        shutdown=shutdown,
        departure=Departure(connections, delivery.hub, shutdown.stopped),
        sources=Sources(
            hub=delivery.hub,
            connections=connections,
            fanout=delivery.fanout,
            backlogs=delivery.backlogs,
            recovery=delivery.recovery,
            admission=admission,
            bootstrap_limiter=limiter,
            counts=counts,
            lag=lag,
            draining=shutdown.leaving.is_set,
        ),
    )


def _timeouts(settings: Settings) -> Timeouts:
    idle = DIALECTS[settings.dialect].idle_seconds if settings.idle_seconds is None else settings.idle_seconds
    return Timeouts(
        slow=settings.slow_seconds,
        age=settings.outbox_seconds,
        ping=settings.ping_seconds,
        pong=settings.pong_seconds,
        idle=idle or None,
    )


def _served(current: Current, delivery: Delivery, clients: Clients, nurseries: Nurseries) -> Served:
    settings, shutdown, task = current.settings, clients.shutdown, trio.lowlevel.current_task()
    return Served(
        authorization=Authorization(access_by(settings)),
        budget=delivery.budget,
        reader=delivery.reader,
        bus=delivery.bus,
        hub=delivery.hub,
        history=delivery.history,
        room_histories=delivery.room_histories,
        connections=clients.connections,
        clock=delivery.clock,
        sources=clients.sources,
        rates=Rates(delivery.hub),
        trends=Trends(clients.sources.now),
        health=Health(Canary(delivery.fanout), shutdown.leaving.is_set, settings.ready_seconds),
        control=Control(delivery.hub, clients.connections),
        drain=lambda: shutdown.drain(current.settings.drain_seconds),
        nurseries=nurseries.named(),
        tasks=lambda: _named_tasks(task, clients),
    )


def _named_tasks(serve: trio.lowlevel.Task, clients: Clients) -> Iterator[NamedTask]:
    """Return the tasks whose names Trio cannot know."""
    yield serve, "serve"
    for connection in clients.connections:
        if connection.task is not None:
            yield connection.task, f"connection {connection.id[:8]}…"


def http_app_of(parts: Parts) -> HttpApi:
    """Return the HTTP API of a gateway: an ASGI app."""
    settings = parts.current.settings
    demo_url = demo.websocket_of(parts.endpoints.websocket_urls) if settings.demo else None
    return http_app(parts.served, settings, demo_url)


def context_of(settings: Settings, delivery: Delivery, clients: Clients) -> Context:
    """Return what `settings` give to the clients that come from now on."""
    caller = HookCaller(
        clients.hooks,
        clients.hook_queue,
        settings.forwarding.api_headers,
        settings.hook_seconds,
        settings.ping_hook_seconds,
        settings.max_connections,
    )
    return Context(
        rules=_rules(settings, delivery, clients.sources),
        backlogs=delivery.backlogs,
        connections=clients.connections,
        hooks=caller if clients.hooks else None,
        clock=delivery.clock,
        max_message_bytes=settings.max_message_bytes,
        messages_per_second=settings.messages_per_second,
        messages_burst=settings.messages_burst,
        goodbye_seconds=settings.goodbye_seconds,
        counts=clients.counts,
    )


def _rules(settings: Settings, delivery: Delivery, sources: Sources) -> Rules:
    dialect = DIALECTS[settings.dialect]
    return Rules(
        dialect=dialect,
        hub=delivery.hub,
        max_subscriptions=settings.max_subscriptions,
        max_room_bytes=settings.max_room_bytes,
        max_request_id_bytes=settings.max_request_id_bytes,
        status=sources.status if settings.allow_status and dialect.allows_status else None,
        recovery=delivery.recovery,
    )


def warn_of_descriptors(settings: Settings) -> None:
    """Log a warning if there are fewer descriptors than all clients and callers that may connect would take."""
    limit, wanted = descriptor_limit(), settings.descriptors
    if limit < wanted:
        log(logger, logging.WARNING, "few descriptors", limit=limit, wanted=wanted, hint="ulimit -n, LimitNOFILE")


def reload(parts: Parts, new: Settings) -> Reloaded:
    """Let the parts take over what they can of `new`, all of it or nothing.

    Raises SettingsError: if it does not go together with what cannot change, or with the sockets that are open.
    """
    # All that can fail comes first, and changes nothing.
    reloaded = merge(parts.current.settings, new)
    settings = reloaded.settings
    parts.endpoints.check_access(settings)
    certificate = certificate_of(settings)
    context = context_of(settings, parts.delivery, parts.clients)
    access, policies = access_by(settings), settings.policies
    keep_longer = policies.keep_longer(parts.current.settings.policies)
    # From here on nothing can fail.
    parts.current.settings, parts.current.context = settings, context
    if parts.endpoints.certificate and certificate and parts.endpoints.certificate.become(certificate):
        reloaded.changed[:] = sorted({*reloaded.changed, "tls_cert"})  # also if it is new in the same file
    parts.clients.admission.settings = settings
    parts.served.authorization.access = access
    # A room that somebody has entered stays one to publish to.
    parts.delivery.reader.max_room_bytes = max(parts.delivery.reader.max_room_bytes, settings.max_room_bytes)
    parts.delivery.hub.apply(policies)
    parts.delivery.fanout.entrance.bounds = _bounds(settings)
    span = _span(settings, parts.delivery.budget.hard_bytes)
    parts.delivery.history.apply(span, _kept_seconds(policies), trio.current_time(), longer=keep_longer)
    parts.clients.supervisor.timeouts = _timeouts(settings)
    if "max_connections" in reloaded.changed:
        warn_of_descriptors(settings)
    level = logging.WARNING if reloaded.restart else logging.INFO
    log(logger, level, "reloaded", changed=" ".join(reloaded.changed), restart=" ".join(reloaded.restart))
    return reloaded
