"""Where a running gateway is: an address of its settings, or a URL, as the other end has to dial it."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from trio_templar.commands.command import CommandError, Status
from trio_templar.commands.sources import read_settings
from trio_templar.core.settings import Settings
from trio_templar.core.texts import inherited_descriptor, split_address

DEFAULT_TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """A listener to dial: its URL, and the path of its unix socket where it has one."""

    url: str
    socket: str = ""

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else self.url

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the URL."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if self.secure else 80)

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS."""
        return self.url.startswith(("https:", "wss:"))


def add_http_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that calls the HTTP API."""
    parser.add_argument("--config", metavar="FILE", help="the gateway's TOML file: its trigger_bind and token are used")
    parser.add_argument("--url", help="the HTTP API, as http://HOST:PORT or unix:PATH [that of trigger_bind]")
    parser.add_argument("--token", metavar="TOKEN", help="the trigger token; better by file or environment")
    parser.add_argument("--token-file", metavar="FILE", help="file whose first line is the trigger token")
    add_common_options(parser)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command has that dials a gateway."""
    parser.add_argument("--ca", metavar="FILE", help="file of certificates to trust for https or wss")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for an answer [{DEFAULT_TIMEOUT_SECONDS:g}]",
    )


def seconds(text: str) -> float:
    """Return a number of seconds. Raises argparse.ArgumentTypeError: if it is none, or not over 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 31_536_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds over 0")
    return value


def count(text: str) -> int:
    """Return a whole number. Raises argparse.ArgumentTypeError: if it is none, or not over 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number over 0")
    return int(text)


def caller_settings(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Return the gateway's settings with the token that the options give. Raises SettingsError: as `serve` would."""
    given: dict[str, Any] = {"config": arguments["config"]}
    if arguments["token_file"] is not None:
        given["trigger_token_file"] = arguments["token_file"]
    elif arguments["token"] is not None:
        given |= {"trigger_token": arguments["token"], "trigger_token_file": ""}
    return read_settings(given, environment)


def http_place(url: str | None, settings: Settings) -> Place:
    """Return where the HTTP API is: at `url`, or else where `settings` have it listen."""
    if url:
        place = _place_of(url, ("http", "https"))
        if urlsplit(place.url).query:
            raise CommandError(Status.USAGE, f"--url: {url!r}: a query has no place in it; the token has an option")
        return Place(place.url.removesuffix("/").removesuffix("/trigger"), place.socket)
    if not settings.trigger_bind:
        raise CommandError(Status.USAGE, "trigger_bind is empty, so there is no HTTP API; --url says where another is")
    return _place_at(settings.trigger_bind, "http", "trigger_bind")


def websocket_place(url: str | None, settings: Settings) -> Place:
    """Return where websockets are accepted: at `url`, or else at the first address that `settings` bind."""
    if url:
        place = _place_of(url, ("ws", "wss"))
        parts = urlsplit(place.url)
        if "@" in parts.netloc:
            raise CommandError(Status.USAGE, "--url: no name and password; --header 'Authorization: …' sends them")
        path = settings.path if parts.path in ("", "/") else parts.path
        return Place(parts._replace(path=path).geturl(), place.socket)
    if not settings.bind:
        raise CommandError(Status.USAGE, "bind is empty, so there is no websocket; --url says where another is")
    place = _place_at(settings.bind[0], "wss" if settings.tls_cert else "ws", "bind")
    if place.socket:  # no TLS there
        place = Place(place.url.replace("wss:", "ws:"), place.socket)
    return Place(place.url + settings.path, place.socket)


def _place_of(url: str, schemes: tuple[str, str]) -> Place:
    """Return where `url` leads, its scheme in small letters. Raises CommandError: if it cannot be sent as it is."""
    if url.startswith("unix:") and url != "unix:":
        return Place(f"{schemes[0]}://localhost", url.removeprefix("unix:"))
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:  # half an IPv6 address, or a port that is none
        good = False
    if not good:
        raise CommandError(
            Status.USAGE, f"--url: {url!r} is not {schemes[0]}://HOST:PORT, {schemes[1]}:// or unix:PATH"
        )
    if not url.isascii() or not url.isprintable() or " " in url:
        raise CommandError(Status.USAGE, f"--url: {url!r} has a character that must be written as %XX or xn--")
    return Place(parts.geturl())


def _place_at(address: str, scheme: str, setting: str) -> Place:
    """Return how to dial what listens on `address`: of all addresses, the loopback one."""
    if address.startswith("unix:"):
        return Place(f"{scheme}://localhost", address.removeprefix("unix:"))
    if inherited_descriptor(address) is not None:
        raise CommandError(Status.USAGE, f"{setting}: {address} is a socket of another process; --url says where it is")
    host, port = split_address(address)
    if port == 0:
        raise CommandError(Status.USAGE, f"{setting}: port 0 is any; the gateway's ready line has the one for --url")
    try:
        ip = ipaddress.ip_address(host)
        if ip.is_unspecified:
            host = "127.0.0.1" if ip.version == 4 else "::1"
    except ValueError:  # a name
        pass
    return Place(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
