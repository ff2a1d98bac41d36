"""serve(): listeners, nurseries, and the order in which they end. The only module that sees all others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from trio_templar import demo
from trio_templar.clients.admission import Admission
from trio_templar.clients.backend import HttpBackend
from trio_templar.clients.bootstrap import Bootstrap, BootstrapLimiter
from trio_templar.clients.connection import Context, serve_client
from trio_templar.clients.drain import CLOSING_SHARE, Departure
from trio_templar.clients.hooks import Client, Hook, HookCaller, HookQueue, Hooks
from trio_templar.clients.supervisor import Supervisor, Timeouts
from trio_templar.core.reload import Derived
from trio_templar.core.session import Rules
from trio_templar.core.settings import OTHER_DESCRIPTORS, Settings
from trio_templar.delivery.fanout import Bounds, Fanout
from trio_templar.errors import STOPPING, SettingsError
from trio_templar.gateway import Gateway, certificate_of
from trio_templar.http.health import Canary, Health
from trio_templar.http.routes import start_http
from trio_templar.net.listeners import Listening, open_listeners
from trio_templar.net.sockets import accept_loop


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
        client_listeners: list[trio.abc.Listener[trio.abc.Stream]] = [
            await stack.enter_async_context(listener) for listener in listeners
        ]
        gateway.certificate = certificate_of(settings)
        for address in settings.bind:
            client_listeners += map(gateway.listener, await _listen(address, settings, stack))
        triggers = await _listen(settings.trigger_bind, settings, stack) if settings.trigger_bind else []
        gateway.open_api(triggers)
        gateway.warn_of_descriptors()
        with gateway.scope, closing(HookQueue(settings.max_bootstraps)) as hook_queue:
            await _run(gateway, api, hook_queue, client_listeners, triggers, task_status)


async def _listen(address: str, settings: Settings, stack: AsyncExitStack) -> list[Listening]:
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
    hook_queue: HookQueue,
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
    triggers: Sequence[Listening],
    task_status: trio.TaskStatus[Gateway],
) -> None:
    """Open the nursery tree; what is nested deepest ends first when the gateway stops."""
    settings = gateway.settings
    refuses_by_message = gateway.dialect.refusal() is not None
    limiter = gateway.bootstrap_limiter = BootstrapLimiter(api.bootstrap, settings)
    admission = gateway.admission = Admission(gateway.in_force, limiter, refuses_by_message=refuses_by_message)
    async with trio.open_nursery() as hook_queue.nursery:
        context = Derived(gateway.in_force, partial(_context, gateway, api, hook_queue))

        def serve_one(stream: trio.abc.Stream) -> Awaitable[None]:  # no coroutine around the one that stays
            return serve_client(admission, context(), stream)

        async with trio.open_nursery() as watch:
            supervisor = _supervisor(gateway)
            watch.start_soon(supervisor.supervisor_loop)
            watch.start_soon(supervisor.relief_loop)
            watch.start_soon(gateway.rates.sample_loop)
            watch.start_soon(gateway.history.history_loop)
            watch.start_soon(gateway.lag.lag_loop)
            # Publishers end last: one in the middle of a stream has time that no client waits for.
            async with trio.open_nursery() as http, trio.open_nursery() as clients:
                async with trio.open_nursery() as rooms, trio.open_nursery() as accepting:
                    gateway.fanout = _fanout(gateway, rooms)
                    gateway.health = Health(Canary(gateway.fanout), gateway.leaving.is_set, settings.ready_seconds)
                    watch.start_soon(gateway.health.canary_loop)
                    gateway.nurseries |= {hook_queue.nursery: "hooks", clients: "connections", rooms: "rooms"}
                    if triggers:
                        start_http(gateway, triggers, http)
                    accepting.start_soon(_accept, gateway, listeners, serve_one, clients)
                    with closing(gateway.fanout):
                        task_status.started(gateway)
                        await gateway.leaving.wait()
                        await _send_away(gateway, clients)
                for connection in list(gateway.connections):
                    connection.outbox.close(STOPPING)
            watch.cancel_scope.cancel()


async def _send_away(gateway: Gateway, clients: trio.Nursery) -> None:
    """Let nobody in any more, and close everyone in turn, unless the gateway is to stop at once."""
    if not gateway.settings.has_heirs:
        gateway.admission.close()
    if not gateway.stopped.is_set():
        departure = Departure(gateway.connections, gateway.hub, gateway.shuffle, gateway.stopped)
        end = trio.current_time() + CLOSING_SHARE * gateway.settings.drain_seconds
        await departure.close_in_turn(end)
        if gateway.settings.has_heirs:
            await departure.close_late(clients, end)
    gateway.stopped.set()
    gateway.admission.close()


async def _accept(
    gateway: Gateway,
    listeners: Iterable[trio.abc.Listener[trio.abc.Stream]],
    serve_one: Callable[[trio.abc.Stream], Awaitable[None]],
    clients: trio.Nursery,
) -> None:
    """Accept clients while there is somebody to tell them that we are leaving, or until others accept them."""
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(partial(accept_loop, listener, serve_one, clients, leave=OTHER_DESCRIPTORS))
        await (gateway.leaving if gateway.settings.has_heirs else gateway.stopped).wait()
        nursery.cancel_scope.cancel()


def _context(gateway: Gateway, api: _Api, hook_queue: HookQueue) -> Context:
    settings = gateway.settings
    caller = HookCaller(
        api.hooks,
        hook_queue,
        api.api_headers,
        settings.hook_seconds,
        settings.ping_hook_seconds,
        settings.max_connections,
    )
    rules = Rules(
        dialect=gateway.dialect,
        hub=gateway.hub,
        max_subscriptions=settings.max_subscriptions,
        max_room_bytes=settings.max_room_bytes,
        max_request_id_bytes=settings.max_request_id_bytes,
        status=gateway.status if settings.allow_status and gateway.dialect.allows_status else None,
    )
    return Context(
        rules=rules,
        backlogs=gateway.backlogs,
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
        max_triggers_waiting=settings.max_triggers_waiting,
        wait_seconds=settings.trigger_wait_seconds,
    )
    return Fanout(gateway.hub, rooms, gateway.budget, bounds)


def _supervisor(gateway: Gateway) -> Supervisor:
    settings = gateway.settings
    timeouts = Timeouts(
        slow=settings.slow_seconds,
        age=settings.outbox_seconds,
        ping=settings.ping_seconds,
        pong=settings.pong_seconds,
        idle=gateway.dialect.idle_seconds if settings.idle_seconds is None else settings.idle_seconds or None,
    )
    return Supervisor(timeouts, gateway.connections, gateway.backlogs, gateway.clock)
