"""serve(): what a gateway opens, the nursery tree, and the order in which it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import trio

from trio_templar import demo
from trio_templar.clients.backend import HttpBackend
from trio_templar.clients.bootstrap import Bootstrap
from trio_templar.clients.connection import serve_client
from trio_templar.clients.drain import CLOSING_SHARE
from trio_templar.clients.hooks import Client, Hook, Hooks, open_hook_queue
from trio_templar.core.settings import OTHER_DESCRIPTORS, Settings
from trio_templar.errors import SettingsError
from trio_templar.gateway import Gateway
from trio_templar.net.endpoints import Endpoints, open_endpoints
from trio_templar.net.sockets import accept_loop
from trio_templar.wiring import Api, Nurseries, Parts, http_app_of, warn_of_descriptors, wire

# An answer that is under way when the gateway stops may take so long, or this share of a shorter `drain_seconds`.
ANSWER_SECONDS: Final = 3.0
ANSWER_SHARE: Final = 0.5


async def serve(
    settings: Settings,
    *,
    bootstrap: Bootstrap | None = None,
    hooks: Hooks | None = None,
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] = (),
    task_status: trio.TaskStatus[Gateway] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a gateway until its `stop` or `drain` is done, or it is cancelled, which ends it at once.

    `task_status` gets the gateway once clients can connect. `bootstrap` answers for the API what `GET bootstrap/`
    would: `{"allowed_rooms": […], …}`, or raises `Refused`. `hooks` take the place of the API paths of the settings.
    `listeners` are served beside those of `settings.bind`, and closed at the end.

    Raises SettingsError: if there is no API and no `bootstrap`, an address cannot be listened on, the certificate does
    not load, or other machines could call the HTTP API without a token.
    """
    async with AsyncExitStack() as stack:
        api = await _open_api(settings, bootstrap, hooks, stack)
        endpoints = await open_endpoints(settings, listeners, stack)
        warn_of_descriptors(settings)
        await _run(settings, api, endpoints, task_status)


async def _open_api(settings: Settings, bootstrap: Bootstrap | None, hooks: Hooks | None, stack: AsyncExitStack) -> Api:
    if bootstrap is None and settings.demo:
        bootstrap = demo.bootstrap
    if bootstrap is not None:
        return Api(bootstrap, hooks or Hooks())
    if not settings.api_url:
        raise SettingsError("api_url: where is the API? Give --api-url, or try --demo")
    backend = await stack.enter_async_context(HttpBackend(settings))

    def hook(path: str) -> Hook | None:
        async def post(client: Client) -> None:
            await backend.post(path, client.headers)

        return post if path else None

    posts = Hooks(hook(settings.on_connect), hook(settings.on_ping), hook(settings.on_disconnect))
    return Api(backend.bootstrap, hooks or posts)


async def _run(settings: Settings, api: Api, endpoints: Endpoints, task_status: trio.TaskStatus[Gateway]) -> None:
    """Open the nursery tree, build the parts in it, and wait for the end. What is nested deepest ends first.

    `drain` and `stop` give the scope around it all a deadline; what is not done then is dropped.
    """
    with trio.CancelScope() as scope:
        async with (
            # Hooks end last: each close has one, also the last of them.
            open_hook_queue(settings.max_bootstraps) as hook_queue,
            # Clients are watched to the end: one that does not take its last words is slow like any other.
            trio.open_nursery() as watch,
        ):
            async with (
                # Publishers end after clients: one in the middle of a stream has time that no client waits for.
                trio.open_nursery() as http,
                trio.open_nursery() as clients,
            ):
                # Rooms end before clients: what was published is in an outbox before the close frame is.
                async with trio.open_nursery() as rooms, trio.open_nursery() as accepting:
                    nurseries = Nurseries(scope=scope, hook_queue=hook_queue, clients=clients, rooms=rooms)
                    parts = wire(settings, api, endpoints, nurseries)
                    _start_watching(parts, watch)
                    watch.start_soon(parts.delivery.bus.follow)  # until the end: a drain still hands on
                    _start_http(parts, http)
                    accepting.start_soon(_accept, parts, clients)
                    try:
                        task_status.started(Gateway(parts))
                        await parts.clients.shutdown.leaving.wait()
                        await _send_away(parts, clients)
                    finally:
                        parts.delivery.fanout.entrance.close()
                await parts.clients.departure.close_all()
            watch.cancel_scope.cancel()  # what watches does not end by itself


def _start_watching(parts: Parts, nursery: trio.Nursery) -> None:
    nursery.start_soon(parts.clients.supervisor.supervisor_loop)
    nursery.start_soon(parts.clients.supervisor.relief_loop)
    nursery.start_soon(parts.clients.lag.lag_loop)
    nursery.start_soon(parts.served.rates.sample_loop)
    nursery.start_soon(parts.served.trends.trends_loop)
    nursery.start_soon(parts.served.health.canary_loop)


def _start_http(parts: Parts, nursery: trio.Nursery) -> None:
    if not parts.endpoints.http:
        return
    from trio_templar.http.server import serve_http  # hypercorn: only who listens for triggers needs it

    def grace_seconds() -> float:
        return min(ANSWER_SECONDS, ANSWER_SHARE * parts.current.settings.drain_seconds)

    stopped, max_callers = parts.clients.shutdown.stopped, parts.current.settings.max_callers
    nursery.start_soon(serve_http, http_app_of(parts), parts.endpoints.http, stopped.wait, grace_seconds, max_callers)


async def _accept(parts: Parts, clients: trio.Nursery) -> None:
    """Accept clients while there is somebody to tell them that we are leaving, or until others accept them."""

    def serve_one(stream: trio.abc.Stream) -> Awaitable[None]:  # no coroutine around the one that stays
        return serve_client(parts.clients.admission, parts.current.context, stream)

    shutdown = parts.clients.shutdown
    async with trio.open_nursery() as nursery:
        for listener in parts.endpoints.websockets:
            nursery.start_soon(partial(accept_loop, listener, serve_one, clients, leave=OTHER_DESCRIPTORS))
        await (shutdown.leaving if parts.current.settings.has_heirs else shutdown.stopped).wait()
        nursery.cancel_scope.cancel()


async def _send_away(parts: Parts, clients: trio.Nursery) -> None:
    """Let nobody in any more, and close everyone in turn, unless the gateway is to stop at once."""
    settings, admission, shutdown = parts.current.settings, parts.clients.admission, parts.clients.shutdown
    if not settings.has_heirs:
        admission.close()
    if not shutdown.stopped.is_set():
        end = trio.current_time() + CLOSING_SHARE * settings.drain_seconds
        await parts.clients.departure.close_in_turn(end)
        if settings.has_heirs:
            await parts.clients.departure.close_late(clients, end)
    shutdown.stopped.set()
    admission.close()
