"""The sockets of one gateway: where clients open websockets, and where its HTTP API is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import trio

from trio_templar.core.settings import Settings
from trio_templar.errors import SettingsError
from trio_templar.net.listeners import Listening, is_reachable, is_unix, open_listeners, url_of
from trio_templar.net.tls import Certificate, TlsListener

Listener = trio.abc.Listener[trio.abc.Stream]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Open listeners. `http` is empty without a `trigger_bind`; `certificate` is that of the TCP sockets in `bind`."""

    websockets: Sequence[Listener]
    websocket_urls: tuple[str, ...]
    http: Sequence[Listening]
    certificate: Certificate | None

    @property
    def trigger_url(self) -> str | None:
        """Where triggers are posted to; None if there is no HTTP API."""
        return url_of(self.http[0], "http", "/trigger/") if self.http else None

    @property
    def page_url(self) -> str | None:
        """Where a browser finds the dashboard; None if the HTTP API has no TCP socket."""
        return url_of(self.http[0], "http", "/") if self.http and not is_unix(self.http[0]) else None

    def check_access(self, settings: Settings) -> None:
        """Raises SettingsError: if other machines reach the HTTP API, and nothing in `settings` guards it.

        Of an inherited socket no setting tells who reaches it, so the sockets are asked.
        """
        if any(map(is_reachable, self.http)) and not (settings.token or settings.insecure_trigger):
            raise SettingsError(f"trigger_bind: {settings.trigger_bind} is open to other machines; set a trigger_token")


async def open_endpoints(settings: Settings, listeners: Sequence[Listener], stack: AsyncExitStack) -> Endpoints:
    """Open the sockets that `settings` name; `stack` closes them, and `listeners`, which take clients too.

    Raises SettingsError: if an address cannot be listened on, the certificate does not load, or the HTTP API is open
    to other machines without a token.
    """
    for listener in listeners:
        await stack.enter_async_context(listener)
    certificate = certificate_of(settings)
    opened = [listener for address in settings.bind for listener in await _open("bind", address, settings, stack)]
    endpoints = Endpoints(
        websockets=[*listeners, *(_with_tls(listener, certificate) for listener in opened)],
        websocket_urls=tuple(url_of(listener, _scheme(listener, certificate), settings.path) for listener in opened),
        http=await _open("trigger_bind", settings.trigger_bind, settings, stack) if settings.trigger_bind else [],
        certificate=certificate,
    )
    endpoints.check_access(settings)
    return endpoints


def certificate_of(settings: Settings) -> Certificate | None:
    """Return the certificate for websockets, if there is one. Raises SettingsError: if it does not load."""
    return Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None


async def _open(setting: str, address: str, settings: Settings, stack: AsyncExitStack) -> list[Listening]:
    try:
        opened = await open_listeners(address, settings)
    except SettingsError as error:
        raise SettingsError(f"{setting}: {error}") from error
    return [await stack.enter_async_context(listener) for listener in opened]


def _with_tls(listener: Listening, certificate: Certificate | None) -> Listener:
    # Who reaches a unix socket is on this machine, mostly a proxy that has ended the TLS of its clients.
    return TlsListener(listener, certificate) if certificate and not is_unix(listener) else listener


def _scheme(listener: Listening, certificate: Certificate | None) -> str:
    return "wss" if certificate and not is_unix(listener) else "ws"
