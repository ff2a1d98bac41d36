"""A running gateway: what its parts share, and what an embedding program or an operator can do with it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import trio

from trio_templar import __version__
from trio_templar.clients.admission import Admission
from trio_templar.clients.bootstrap import BootstrapLimiter
from trio_templar.clients.connection import Connection
from trio_templar.clients.control import Control
from trio_templar.clients.drain import shuffle
from trio_templar.clients.selection import Selection
from trio_templar.clients.statistics import Statistics, slowest
from trio_templar.clock import Clock, utc
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.hub import Hub
from trio_templar.core.reload import merge
from trio_templar.core.rooms import Room
from trio_templar.core.settings import Settings, is_local
from trio_templar.core.triggers import Trigger, TriggerReader, to_json
from trio_templar.counters import DELIVERY_BOUNDS, ConnectionCounts
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.fanout import Fanout
from trio_templar.errors import SLOW_CAUSES, SettingsError
from trio_templar.http.authorization import Access, Authorization
from trio_templar.http.health import Health
from trio_templar.http.rates import Rates
from trio_templar.http.tree import NamedTask
from trio_templar.http.trends import Counts, History
from trio_templar.lag import Lag
from trio_templar.log import log
from trio_templar.machine import descriptor_limit, memory_bytes
from trio_templar.net.listeners import Listening, is_reachable, is_unix, url_of
from trio_templar.net.tls import Certificate, TlsListener

logger = logging.getLogger("trio_templar.gateway")


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
        self.backlogs = Backlogs(settings.outbox_bytes, settings.outbox_frames, self.budget, self.clock.now)
        self.connections: set[Connection] = set()
        self.reader = TriggerReader(self.dialect, settings.max_publication_bytes, settings.max_room_bytes)
        self.fanout: Fanout
        self.health: Health
        self.bootstrap_limiter: BootstrapLimiter
        self.admission: Admission
        self.connection_counts = ConnectionCounts()
        self.lag = Lag()
        self.websocket_urls: tuple[str, ...] = ()
        self.trigger_url: str | None = None
        self.page_url: str | None = None
        self.certificate: Certificate | None = None
        self._api_is_reachable = False  # from other machines; of an inherited socket no setting says it
        self.authorization = Authorization(access_by(settings))
        self.rates = Rates(self.hub)
        self.history = History(self.counts, DELIVERY_BOUNDS)
        self.control = Control(self.hub, self.connections)
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

        Raises SettingsError: if they do not go together with what cannot change, or with the sockets that are open;
        then nothing has changed.
        """
        reloaded = merge(self.settings, settings)
        self._check_api(reloaded.settings)
        access, policies = access_by(reloaded.settings), reloaded.settings.policies
        certificate = certificate_of(reloaded.settings)
        self.settings = reloaded.settings
        if self.certificate and certificate and self.certificate.become(certificate):
            reloaded.changed[:] = sorted({*reloaded.changed, "tls_cert"})
        self.authorization.access = access
        # A room that somebody has entered stays one to publish to.
        self.reader.max_room_bytes = max(self.reader.max_room_bytes, reloaded.settings.max_room_bytes)
        self.hub.apply(policies)
        if "max_connections" in reloaded.changed:
            self.warn_of_descriptors()
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
        return self.reader.make(rooms, to_json(data))

    async def disconnect(self, whom: Selection, *, code: int = 4000, reason: str = "") -> int:
        """Close the connections of `whom`, which names one id, user, room or peer; return how many that were.

        Raises RequestError: if it names none or several, `code` is not 4000 to 4999, or `reason` over 123 bytes.
        Raises NotFound: if there is no connection with that id.
        """
        return await self.control.disconnect(whom, code, reason)

    async def unsubscribe(self, whom: Selection, *, reason: str = "") -> int:
        """End the subscriptions of a room, of everybody or of whom else `whom` names; return how many that were.

        The clients get `{"type": "unsubscribed", "requestId": …, "reason": …}`.

        Raises RequestError: if `whom` names no room, or two things beside it, or `reason` has over 123 bytes.
        Raises NotFound: if there is no connection with that id.
        """
        return await self.control.unsubscribe(whom, reason)

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
            waiting_bytes=self.backlogs.bytes,
            memory_bytes=self.budget.used_bytes,
            slow_connections=len(self.backlogs.outboxes),
            queued=self.backlogs.losses.queued,
            conflated=self.backlogs.losses.conflated,
            dropped=dict[str, int](self.backlogs.losses.dropped.items()),
            drops={cause: self.backlogs.drops.get(close, 0) for close, cause in SLOW_CAUSES.items()},
            slowest=slowest(self.connections, self.clock.now()),
            client_errors=dict(self.connection_counts.errors),
        )

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
            "client_errors": statistics.client_errors,
        }

    def counts(self) -> Counts:
        """Return what the history of the last minutes is made of."""
        return Counts(
            connections=len(self.connections),
            waiting_bytes=self.backlogs.bytes,
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

    def listener(self, listener: Listening) -> trio.abc.Listener[trio.abc.Stream]:
        """Return what accepts websockets from `listener`, with TLS where there is a certificate; note its URL."""
        tls = None if is_unix(listener) else self.certificate
        self.websocket_urls += (url_of(listener, "wss" if tls else "ws", self.settings.path),)
        return TlsListener(listener, tls) if tls else listener

    def open_api(self, listeners: Iterable[Listening]) -> None:
        """Note who can reach the HTTP API. Raises SettingsError: if other machines can, and nothing guards it."""
        self._api_is_reachable = any(map(is_reachable, listeners))
        self._check_api(self.settings)

    def _check_api(self, settings: Settings) -> None:
        if self._api_is_reachable and not (settings.token or settings.insecure_trigger):
            raise SettingsError(f"trigger_bind: {settings.trigger_bind} is open to other machines; set a trigger_token")

    def warn_of_descriptors(self) -> None:
        """Say so in the log if there are fewer descriptors than the clients and callers that are let in can take."""
        limit, wanted = descriptor_limit(), self.settings.descriptors
        if limit < wanted:
            log(logger, logging.WARNING, "few descriptors", limit=limit, wanted=wanted, hint="ulimit -n, LimitNOFILE")

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
        self.fanout.close()


def certificate_of(settings: Settings) -> Certificate | None:
    """Return the certificate for websockets, if there is one. Raises SettingsError: if it does not load."""
    return Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None


def access_by(settings: Settings) -> Access:
    """Return who may call the HTTP API. Only on a loopback address without a token can a browser here be in the way."""
    tcp = bool(settings.trigger_bind) and not settings.trigger_bind.startswith("unix:")
    # An inherited socket (fd://N) counts as local, whatever it is: the check is stricter then than it need be.
    open_to_browsers = tcp and not settings.token and is_local(settings.trigger_bind)
    return Access(settings.token.encode(), settings.trusted_host if open_to_browsers else None)
