"""Where a running gateway is: an address of its settings, or a URL, as the other end connects to it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from trio_templar.commands.command import UsageError
from trio_templar.core.settings import Settings
from trio_templar.core.texts import inherited_descriptor, split_address

# What is before the @ of an authority (RFC 3986, 3.2.1), also where the URL has no scheme.
CREDENTIALS: Final = re.compile(r"([^/?#]*//)?[^/?#]*@")


@dataclass(frozen=True, slots=True)
class Address:
    """A listener to connect to: its URL, and the path of its unix socket where it has one."""

    url: str
    socket: str = ""

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else self.url

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Host and port of the URL."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if self.secure else 80)

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS."""
        return self.url.startswith(("https:", "wss:"))


def http_address(url: str | None, settings: Settings) -> Address:
    """Return where the HTTP API is: at `url`, or else where `settings` have it listen."""
    if url:
        address = _address_of_url(url, ("http", "https"))
        shown, _, query = address.url.partition("?")
        if query:
            raise UsageError(f"--url: {shown!r}: it must not have a query; --token-file gives the token")
        return Address(address.url.removesuffix("/").removesuffix("/trigger"), address.socket)
    if not settings.trigger_bind:
        raise UsageError("trigger_bind is empty, so there is no HTTP API; give the address of another with --url")
    return _address_of_setting(settings.trigger_bind, "http", "trigger_bind")


def websocket_address(url: str | None, settings: Settings) -> Address:
    """Return where websockets are accepted: at `url`, or else at the first address that `settings` bind."""
    if url:
        address = _address_of_url(url, ("ws", "wss"))
        parts = urlsplit(address.url)
        path = settings.path if parts.path in ("", "/") else parts.path
        return Address(parts._replace(path=path).geturl(), address.socket)
    if not settings.bind:
        raise UsageError("bind is empty, so there is no websocket; give the address of another with --url")
    address = _address_of_setting(settings.bind[0], "wss" if settings.tls_cert else "ws", "bind")
    if address.socket:  # no TLS there
        address = Address(address.url.replace("wss:", "ws:"), address.socket)
    return Address(address.url + settings.path, address.socket)


def _address_of_url(url: str, schemes: tuple[str, str]) -> Address:
    """Return where `url` leads, its scheme in small letters. Raises UsageError: if it cannot be sent as it is."""
    if url.startswith("unix:") and url != "unix:":
        return Address(f"{schemes[0]}://localhost", url.removeprefix("unix:"))
    if CREDENTIALS.match(url):  # httpx would send them in place of the token
        instead = "--header 'Authorization: …' sends them" if schemes[0] == "ws" else "--token-file gives the token"
        raise UsageError(f"--url: it must not have a name or password; {instead}")
    shown = url.partition("?")[0]  # a query may have a token
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:  # half an IPv6 address, or a port that is none
        good = False
    if not good:
        raise UsageError(f"--url: {shown!r} is not {schemes[0]}://HOST:PORT, {schemes[1]}:// or unix:PATH")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"--url: {shown!r} has a character that must be written as %XX or xn--")
    return Address(parts.geturl())


def _address_of_setting(address: str, scheme: str, setting: str) -> Address:
    """Return how to reach what listens on `address`: of all addresses, the loopback one."""
    if address.startswith("unix:"):
        return Address(f"{scheme}://localhost", address.removeprefix("unix:"))
    if inherited_descriptor(address) is not None:
        raise UsageError(f"{setting}: {address} is a socket of another process; give its address with --url")
    host, port = split_address(address)
    if port == 0:
        raise UsageError(f"{setting}: port 0 means any free port; the gateway's ready line has the address for --url")
    try:
        ip = ipaddress.ip_address(host)
        if ip.is_unspecified:
            host = "127.0.0.1" if ip.version == 4 else "::1"
    except ValueError:  # a name
        pass
    return Address(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
