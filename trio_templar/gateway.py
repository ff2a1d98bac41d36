"""The gateway: listeners, nurseries, and the order in which they end. The only module that sees all others."""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import trio

from trio_templar import __version__, demo, page
from trio_templar.backend import Bootstrap, Gate, HttpBackend
from trio_templar.backlog import Waiting
from trio_templar.budget import Budget
from trio_templar.clock import Clock
from trio_templar.connection import Connection, House, serve_client
from trio_templar.counters import DELIVERY_BOUNDS, ConnectionCounts
from trio_templar.dialects import DIALECTS
from trio_templar.drain import CLOSING_SHARE, Departure, shuffle
from trio_templar.errors import CAUSES, STOPPING, Busy, SettingsError
from trio_templar.fanout import Bounds, Fanout
from trio_templar.health import Canary, Health
from trio_templar.history import Counts, History
from trio_templar.hooks import Caller, Client, Hook, Hooks
from trio_templar.http_api import HttpApi
from trio_templar.http_drain import drain_routes
from trio_templar.http_guard import Access, Guard
from trio_templar.http_triggers import TriggerApi
from trio_templar.hub import Hub
from trio_templar.idempotency import Memory
from trio_templar.lag import Lag
from trio_templar.listeners import is_guarded, is_unix, open_listeners, url_of
from trio_templar.log import log
from trio_templar.machine import memory_bytes
from trio_templar.metrics import Sources
from trio_templar.nursery_tree import NamedTask, tree_routes
from trio_templar.rates import Rates
from trio_templar.reception import Reception
from trio_templar.reload import Derived, merge
from trio_templar.rooms import Room
from trio_templar.selection import Selection
from trio_templar.session import Rules
from trio_templar.settings import Settings, is_local
from trio_templar.sockets import accept_loop
from trio_templar.steering import Steering
from trio_templar.supervisor import Patience, Supervisor
from trio_templar.tls import Certificate, TlsListener
from trio_templar.triggers import Trigger, TriggerReader, to_json
from trio_templar.views import Views, utc

logger = logging.getLogger("trio_templar.gateway")

# How many of the slowest connections are shown.
SHOWN_SLOWEST: Final = 10


@dataclass(frozen=True, slots=True)
class SlowConnection:
    """A client for which something waits now, and for how many seconds the oldest of it does."""

    id: str
    user_id: Any
    peer: str
    agent: str
    waiting_bytes: int
    waiting_frames: int
    peak_bytes: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """Totals of a gateway. What is counted starts with it.

    `waiting_bytes` is what waits for clients, `memory_bytes` what that and the room channels take, shared bytes once.
    `queued` deliveries had to wait; of these a newer one took the place of `conflated`, and `dropped` were given up,
    by policy. `drops` counts slow clients that were closed, by cause: `bytes`, `frames`, `room`, `progress`, `lag`,
    `age`, `memory`. `slowest` are those for whom most waits, at most ten.
    """

    connections: int
    rooms: int
    subscriptions: int
    triggers: int
    publications: int
    deliveries: int
    in_flight_bytes: int
    waiting_bytes: int
    memory_bytes: int
    slow_connections: int
    queued: int
    conflated: int
    dropped: Mapping[str, int]
    drops: Mapping[str, int]
    slowest: Sequence[SlowConnection]


class Gateway:
    """A running gateway, as the program that embeds it sees it. Made by `serve`.

    The methods, `websocket_urls` and `trigger_url` (None without a trigger listener) are for that program; the rest
    is what the parts of a gateway share.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.dialect = DIALECTS[settings.dialect]
        self.hub = Hub(settings.policies)
        self.clock = Clock()
        self.budget = Budget(settings.memory_bytes or memory_bytes() // 4)
        self.waiting = Waiting(settings.outbox_bytes, settings.outbox_frames, self.budget, self.clock.now)
        self.connections: set[Connection] = set()
        self.reader = TriggerReader(self.dialect, settings.max_publication_bytes)
        self.fanout: Fanout
        self.health: Health
        self.gate: Gate
        self.reception: Reception
        self.connection_counts = ConnectionCounts()
        self.lag = Lag()
        self.websocket_urls: tuple[str, ...] = ()
        self.trigger_url: str | None = None
        self.page_url: str | None = None
        self.certificate: Certificate | None = None
        self.guard = Guard(access_by(settings))
        self.rates = Rates(self.hub)
        self.history = History(self.counts, DELIVERY_BOUNDS)
        self.steering = Steering(self.hub, self.connections)
        self.nurseries: dict[trio.Nursery, str] = {}
        self.task = trio.lowlevel.current_task()
        self.since = trio.current_time()
        self.online_since = datetime.now()  # local and without a zone, as High-templar 3.1 says it
        self.shuffle = shuffle  # who is sent away first in a drain
        self.leaving = trio.Event()
        self.stopped = trio.Event()
        self.scope = trio.CancelScope()

    @property
    def draining(self) -> bool:
        """Whether it lets nobody in any more, because it is going to end."""
        return self.leaving.is_set()

    def in_force(self) -> Settings:
        """Return the settings as they are now: `reload` replaces them."""
        return self.settings

    def reload(self, settings: Settings) -> Sequence[str]:
        """Take over what can be of `settings`, all at once; return the names of those that need a restart to change.

        Tokens, origins, trusted hosts and room policies change for everybody, bounds and the TLS certificate for
        clients that come from now on.
        `Gateway.settings` has what is in force then.

        Raises SettingsError: if they do not go together with what cannot change; then nothing has changed.
        """
        reloaded = merge(self.settings, settings)
        access, policies = access_by(reloaded.settings), reloaded.settings.policies
        certificate = _certificate(reloaded.settings)
        self.settings = reloaded.settings
        if self.certificate and certificate and self.certificate.become(certificate):
            reloaded.changed[:] = sorted({*reloaded.changed, "tls_cert"})
        self.guard.access = access
        self.hub.apply(policies)
        level = logging.WARNING if reloaded.restart else logging.INFO
        log(logger, level, "reloaded", changed=" ".join(reloaded.changed), restart=" ".join(reloaded.restart))
        return reloaded.restart

    async def publish(self, rooms: Iterable[Room], data: Any) -> None:
        """Publish `data` (anything `msgspec` makes JSON of, or `msgspec.Raw`) to `rooms`.

        Blocks while one of them, or memory, is full.
        Raises TriggerError: if it cannot be JSON, or is over a bound (TooLarge).
        Raises Busy: if it stayed full for `trigger_wait_seconds`, or the gateway is stopping; nothing was sent.
        """
        await self.fanout.publish([self._trigger(rooms, data)])

    def publish_nowait(self, rooms: Iterable[Room], data: Any) -> None:
        """Publish `data` to `rooms` at once.

        Raises TriggerError or Busy: as `publish`.
        Raises trio.WouldBlock: if a room, or memory, is full; nothing was sent. Its text says which.
        """
        self.fanout.publish_nowait([self._trigger(rooms, data)])

    def _trigger(self, rooms: Iterable[Room], data: Any) -> Trigger:
        if self.stopped.is_set():
            raise Busy("the gateway is stopping")
        return self.reader.make(rooms, to_json(data))

    async def disconnect(self, whom: Selection, *, code: int = 4000, reason: str = "") -> int:
        """Close the connections of `whom`, which names one id, user, room or peer; return how many that were.

        Raises RequestError: if it names none or several, `code` is not 4000 to 4999, or `reason` over 123 bytes.
        Raises NotFound: if there is no connection with that id.
        """
        return await self.steering.disconnect(whom, code, reason)

    async def unsubscribe(self, whom: Selection, *, reason: str = "") -> int:
        """End the subscriptions of a room, of everybody or of whom else `whom` names; return how many that were.

        The clients get `{"type": "unsubscribed", "requestId": …, "reason": …}`.

        Raises RequestError: if `whom` names no room, or two things beside it.
        Raises NotFound: if there is no connection with that id.
        """
        return await self.steering.unsubscribe(whom, reason)

    def statistics(self) -> Statistics:
        """Return the totals as they are now."""
        return Statistics(
            connections=len(self.connections),
            rooms=len(self.hub.rooms),
            subscriptions=self.hub.subscriptions,
            triggers=self.fanout.triggers,
            publications=self.fanout.publications,
            deliveries=self.fanout.deliveries,
            in_flight_bytes=self.fanout.in_flight_bytes,
            waiting_bytes=self.waiting.bytes,
            memory_bytes=self.budget.used_bytes,
            slow_connections=len(self.waiting.outboxes),
            queued=self.waiting.losses.queued,
            conflated=self.waiting.losses.conflated,
            dropped=dict[str, int](self.waiting.losses.dropped.items()),
            drops={cause: self.waiting.drops.get(close, 0) for close, cause in CAUSES.items()},
            slowest=self._slowest(),
        )

    def _slowest(self) -> list[SlowConnection]:
        waiting = [connection for connection in self.connections if connection.outbox.oldest is not None]
        now = self.clock.now()
        return [
            SlowConnection(
                connection.id,
                connection.user_id,
                connection.peer,
                connection.agent,
                connection.outbox.waiting_bytes,
                connection.outbox.waiting_frames,
                connection.outbox.peak_bytes,
                now - (connection.outbox.oldest or now),
            )
            for connection in heapq.nlargest(SHOWN_SLOWEST, waiting, key=lambda each: each.outbox.waiting_bytes)
        ]

    def status(self) -> str:
        """Return what High-templar 3.1 tells a client that asks for totals; what we do not count is 0."""
        return json.dumps(
            {
                "open_connections": len(self.connections),
                "num_rooms": len(self.hub.rooms),
                "online_since": self.online_since.isoformat(),
                "rabbitmq_messages_received": self.fanout.triggers,
                "ws_messages_received": 0,
                "ws_messages_send": self.fanout.deliveries,
                "ws_messages_send_error": 0,
                "ws_messages_send_queued": 0,
            }
        )

    def totals(self) -> Mapping[str, Any]:
        """Return what `GET /status` says of the whole gateway."""
        statistics = self.statistics()
        uptime = trio.current_time() - self.since
        return {
            "version": __version__,
            "started": utc(uptime),
            "uptime_seconds": round(uptime, 3),
            "draining": self.draining,
            "connections": statistics.connections,
            "rooms": statistics.rooms,
            "subscriptions": statistics.subscriptions,
            "triggers": statistics.triggers,
            "publications": statistics.publications,
            "deliveries": statistics.deliveries,
            "waiting_bytes": statistics.waiting_bytes,
            "memory": {
                "used_bytes": self.budget.used_bytes,
                "soft_bytes": self.budget.soft_bytes,
                "hard_bytes": self.budget.hard_bytes,
            },
            "drops": statistics.drops,
        }

    def counts(self) -> Counts:
        """Return what the history of the last minutes is made of."""
        return Counts(
            connections=len(self.connections),
            waiting_bytes=self.waiting.bytes,
            triggers=self.fanout.triggers,
            publications=self.fanout.publications,
            deliveries=self.fanout.deliveries,
            latency=tuple(self.fanout.seconds.counts),
        )

    def named_tasks(self) -> Iterator[NamedTask]:
        """Return the tasks whose names Trio cannot know."""
        yield self.task, "serve"
        for connection in self.connections:
            if connection.task is not None:
                yield connection.task, f"connection {connection.id[:8]}…"

    def door(self, listener: trio.SocketListener) -> trio.abc.Listener[trio.abc.Stream]:
        """Return what accepts websockets from `listener`, with TLS where there is a certificate; note its URL."""
        tls = None if is_unix(listener) else self.certificate
        self.websocket_urls += (url_of(listener, "wss" if tls else "ws", self.settings.path),)
        return TlsListener(listener, tls) if tls else listener

    def drain(self) -> None:
        """Let nobody in, close everyone with 1012 one after another, run the hooks, and end.

        The closes are spread over the first three quarters of `drain_seconds`; until the last of them it publishes as
        ever. What is not done after `drain_seconds` is dropped. Can be called again, and be cut short by `stop`.
        """
        if self.draining:
            return
        seconds = self.settings.drain_seconds
        log(logger, logging.INFO, "drain", connections=len(self.connections), seconds=seconds)
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + seconds)
        self.leaving.set()

    def stop(self, within: float | None = None) -> None:
        """Let nobody in, send what waits, close everyone at once with 1012, run the hooks, and end.

        What is not done `within` seconds (or `drain_seconds`, if that is less) is dropped. Can be called again.
        """
        seconds = min(self.settings.drain_seconds, within if within is not None else self.settings.drain_seconds)
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + seconds)
        self.leaving.set()
        self.stopped.set()


async def serve(
    settings: Settings,
    *,
    bootstrap: Bootstrap | None = None,
    hooks: Hooks | None = None,
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] = (),
    task_status: trio.TaskStatus[Gateway] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a gateway until it is cancelled (now), or its `stop` or `drain` is done; reports it once it can be reached.

    `bootstrap` answers for the API what `GET bootstrap/` would: `{"allowed_rooms": […], …}`, or raises `Refused`.
    `hooks` take the place of the API paths of the settings. `listeners` are served beside those of `settings.bind`
    and closed at the end.

    Raises SettingsError: if there is no API and no `bootstrap`, or an address cannot be listened on.
    """
    gateway = Gateway(settings)
    async with AsyncExitStack() as stack:
        api = await _api(settings, bootstrap, hooks, stack)
        doors: list[trio.abc.Listener[trio.abc.Stream]] = [
            await stack.enter_async_context(listener) for listener in listeners
        ]
        gateway.certificate = _certificate(settings)
        for address in settings.bind:
            doors += map(gateway.door, await _listen(address, settings, stack))
        triggers = await _listen(settings.trigger_bind, settings, stack) if settings.trigger_bind else []
        if not all(is_guarded(listener, settings) for listener in triggers):
            raise SettingsError(f"trigger_bind: {settings.trigger_bind} is open to other machines; set a trigger_token")
        with gateway.scope:
            await _run(gateway, api, doors, triggers, task_status)


def _certificate(settings: Settings) -> Certificate | None:
    return Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None


async def _listen(address: str, settings: Settings, stack: AsyncExitStack) -> list[trio.SocketListener]:
    listeners = await open_listeners(address, settings)
    return [await stack.enter_async_context(listener) for listener in listeners]


@dataclass(frozen=True, slots=True)
class _Api:
    """Where a gateway asks, and what it tells."""

    bootstrap: Bootstrap
    hooks: Hooks
    api_headers: Callable[..., Any]


async def _api(settings: Settings, bootstrap: Bootstrap | None, hooks: Hooks | None, stack: AsyncExitStack) -> _Api:
    if bootstrap is None and settings.demo:
        bootstrap = demo.bootstrap
    if bootstrap is not None:
        return _Api(bootstrap, hooks or Hooks(), settings.forwarding.api_headers)
    if not settings.api_url:
        raise SettingsError("api_url: where is the API? Give --api-url, or try --demo")
    backend = await stack.enter_async_context(HttpBackend(settings))

    def hook(path: str) -> Hook | None:
        async def post(client: Client) -> None:
            await backend.post(path, client.headers)

        return post if path else None

    posts = Hooks(hook(settings.on_connect), hook(settings.on_ping), hook(settings.on_disconnect))
    return _Api(backend.bootstrap, hooks or posts, settings.forwarding.api_headers)


async def _run(
    gateway: Gateway,
    api: _Api,
    doors: Sequence[trio.abc.Listener[trio.abc.Stream]],
    triggers: Sequence[trio.SocketListener],
    task_status: trio.TaskStatus[Gateway],
) -> None:
    """Open the nursery tree; what is nested deepest ends first when the gateway stops."""
    settings = gateway.settings
    refuses_by_message = gateway.dialect.refusal() is not None
    gate = gateway.gate = Gate(api.bootstrap, settings)
    reception = gateway.reception = Reception(gateway.in_force, gate, refuses_by_message=refuses_by_message)
    async with trio.open_nursery() as hook_calls:
        house = Derived(gateway.in_force, partial(_house, gateway, api, hook_calls))

        async def serve_one(stream: trio.abc.Stream) -> None:
            await serve_client(reception, house(), stream)

        async with trio.open_nursery() as watch:
            supervisor = _supervisor(gateway)
            watch.start_soon(supervisor.supervisor_loop)
            watch.start_soon(supervisor.relief_loop)
            watch.start_soon(gateway.rates.sample_loop)
            watch.start_soon(gateway.history.history_loop)
            watch.start_soon(gateway.lag.lag_loop)
            async with trio.open_nursery() as clients:
                async with trio.open_nursery() as rooms, trio.open_nursery() as http, trio.open_nursery() as accepting:
                    gateway.fanout = _fanout(gateway, rooms)
                    gateway.health = Health(Canary(gateway.fanout), gateway.leaving.is_set, settings.ready_seconds)
                    watch.start_soon(gateway.health.canary_loop)
                    gateway.nurseries |= {hook_calls: "hooks", clients: "connections", rooms: "rooms"}
                    if triggers:
                        _start_http(gateway, triggers, http)
                    accepting.start_soon(_accept, gateway, doors, serve_one, clients)
                    task_status.started(gateway)
                    await gateway.leaving.wait()
                    if not settings.has_heirs:
                        reception.close()
                    if not gateway.stopped.is_set():
                        departure = Departure(gateway.connections, gateway.hub, gateway.shuffle, gateway.stopped)
                        end = trio.current_time() + CLOSING_SHARE * gateway.settings.drain_seconds
                        await departure.close_in_turn(end)
                        if settings.has_heirs:
                            await departure.close_late(clients, end)
                    gateway.stopped.set()
                    reception.close()
                for connection in list(gateway.connections):
                    connection.outbox.close(STOPPING)
            watch.cancel_scope.cancel()


async def _accept(
    gateway: Gateway,
    doors: Iterable[trio.abc.Listener[trio.abc.Stream]],
    serve_one: Callable[[trio.abc.Stream], Awaitable[None]],
    clients: trio.Nursery,
) -> None:
    """Accept clients while there is somebody to tell them that we are leaving, or until others accept them."""
    async with trio.open_nursery() as nursery:
        for door in doors:
            nursery.start_soon(accept_loop, door, serve_one, clients)
        await (gateway.leaving if gateway.settings.has_heirs else gateway.stopped).wait()
        nursery.cancel_scope.cancel()


def access_by(settings: Settings) -> Access:
    """Return who may call the HTTP API. Only on a loopback address without a token can a browser here be in the way."""
    tcp = bool(settings.trigger_bind) and not settings.trigger_bind.startswith("unix:")
    open_to_browsers = tcp and not settings.token and is_local(settings.trigger_bind)
    return Access(settings.token.encode(), settings.trusted_host if open_to_browsers else None)


def http_app(gateway: Gateway) -> HttpApi:
    """Return the HTTP API of `gateway`, which runs: an ASGI app."""
    from trio_templar.exposition import metrics_routes  # prometheus_client takes its time to import

    settings = gateway.settings
    app = HttpApi(gateway.guard, max_bytes=settings.max_trigger_bytes, body_seconds=settings.http_body_seconds)
    app.routes |= _trigger_api(gateway).routes()
    app.routes |= drain_routes(gateway.drain)
    app.routes |= gateway.health.routes()
    app.routes |= metrics_routes(_sources(gateway, app))
    app.routes |= Views(gateway.hub, gateway.connections, gateway.rates, gateway.clock, gateway.totals).routes()
    app.routes |= gateway.history.routes()
    app.routes |= gateway.steering.routes()
    app.routes |= tree_routes(gateway.nurseries, gateway.named_tasks)
    demo_url = demo.websocket_of(gateway.websocket_urls) if settings.demo else None
    app.routes |= page.routes(needs_token=lambda: bool(gateway.guard.access.token), demo_url=demo_url)
    return app


def _sources(gateway: Gateway, app: HttpApi) -> Sources:
    return Sources(
        hub=gateway.hub,
        connections=gateway.connections,
        fanout=gateway.fanout,
        waiting=gateway.waiting,
        budget=gateway.budget,
        reception=gateway.reception,
        gate=gateway.gate,
        counts=gateway.connection_counts,
        lag=gateway.lag,
        http=app,
        draining=gateway.leaving.is_set,
    )


def _start_http(gateway: Gateway, listeners: Sequence[trio.SocketListener], nursery: trio.Nursery) -> None:
    from trio_templar.http_server import serve_http  # hypercorn is only imported by who listens for triggers

    settings = gateway.settings
    grace = min(3.0, settings.drain_seconds / 2)
    nursery.start_soon(serve_http, http_app(gateway), listeners, gateway.stopped.wait, grace)
    gateway.trigger_url = url_of(listeners[0], "http", "/trigger/")
    page_url = url_of(listeners[0], "http", "/")
    gateway.page_url = page_url if page_url.startswith("http") else None


def _trigger_api(gateway: Gateway) -> TriggerApi:
    settings = gateway.settings
    bounds = {"max_entries": settings.idempotency_entries, "max_bytes": settings.idempotency_bytes}
    answers, entries = (
        Memory[Any](seconds=settings.idempotency_seconds, now=trio.current_time, **bounds) for _ in range(2)
    )
    return TriggerApi(gateway.fanout, gateway.reader, answers, entries)


def _house(gateway: Gateway, api: _Api, hook_calls: trio.Nursery) -> House:
    settings = gateway.settings
    caller = Caller(api.hooks, hook_calls, api.api_headers, settings.hook_seconds, settings.ping_hook_seconds)
    rules = Rules(
        dialect=gateway.dialect,
        hub=gateway.hub,
        max_subscriptions=settings.max_subscriptions,
        max_room_bytes=settings.max_room_bytes,
        max_request_id_bytes=settings.max_request_id_bytes,
        status=gateway.status if settings.allow_status and gateway.dialect.allows_status else None,
    )
    return House(
        rules=rules,
        waiting=gateway.waiting,
        connections=gateway.connections,
        hooks=caller if api.hooks else None,
        clock=gateway.clock,
        max_message_bytes=settings.max_message_bytes,
        messages_per_second=settings.messages_per_second,
        messages_burst=settings.messages_burst,
        goodbye_seconds=settings.goodbye_seconds,
        counts=gateway.connection_counts,
    )


def _fanout(gateway: Gateway, rooms: trio.Nursery) -> Fanout:
    settings = gateway.settings
    bounds = Bounds(
        room_publications=settings.room_publications,
        room_bytes=settings.room_bytes,
        max_waiting=settings.max_triggers_waiting,
        wait_seconds=settings.trigger_wait_seconds,
    )
    return Fanout(gateway.hub, rooms, gateway.budget, bounds)


def _supervisor(gateway: Gateway) -> Supervisor:
    settings = gateway.settings
    patience = Patience(
        slow=settings.slow_seconds,
        age=settings.outbox_seconds,
        ping=settings.ping_seconds,
        pong=settings.pong_seconds,
        idle=gateway.dialect.idle_seconds if settings.idle_seconds is None else settings.idle_seconds or None,
    )
    return Supervisor(patience, gateway.connections, gateway.waiting, gateway.clock)
