"""The texts of settings: made normal where the meaning is clear, refused where they cannot work. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from trio_templar.errors import SettingsError

# Of sun_path in sockaddr_un (unix(7)), without the NUL at its end.
MAX_SOCKET_PATH_BYTES: Final = 107
# Characters of which the IDNA of browsers (2008) and that of Python (2003) make different names.
DEVIANT: Final = frozenset("ßς\u200c\u200d")
# How much of a text an error shows.
SHOWN: Final = 60
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[^\s/\\@?#,:\[\]%<>^|\"*]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_NOT_ADDRESS: Final = "is not HOST:PORT, [V6]:PORT, unix:PATH or fd://N"


def plain(text: str) -> str:
    """Return `text` without blanks around it. Raises SettingsError: if it has control characters, or is not Unicode."""
    text = text.strip()
    if any(character < " " or character == "\x7f" for character in text):
        raise SettingsError("a line end is in it" if "\n" in text or "\r" in text else "a control character is in it")
    return text


def shown(text: str) -> str:
    """Return `text` as an error shows it: quoted, and cut at `SHOWN` characters."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}…"


def unicode(text: str) -> str:
    """Return `text`. Raises SettingsError: if it is not Unicode, as a variable with other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingsError("it is not UTF-8") from error
    return text


def _without_blank(text: str) -> str:
    if any(character.isspace() for character in text):
        raise SettingsError(f"{shown(text)} has a blank in it")
    return text


def ascii_host(host: str) -> str:
    """Return the name of a host as it is sent: lower case, in ASCII (IDNA). Raises SettingsError: if it is none."""
    host = host.lower()
    if not _HOST.fullmatch(host):
        raise SettingsError(f"{shown(host)} is not the name of a host")
    if host.isascii():
        return host
    if DEVIANT & set(host):
        raise SettingsError("give it as its browser sends it, with xn--")
    try:
        return host.encode("idna").decode()
    except UnicodeError as error:
        raise SettingsError(f"{shown(host)} is not the name of a host") from error


def _split(url: str) -> SplitResult | None:
    """Return the parts of `url`, None if it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises too
    except ValueError:  # half an IPv6 address, or a port that is none
        return None
    return parts if parts.scheme and parts.hostname else None


def _authority(parts: SplitResult, *, default_port: bool) -> str:
    """Return host and port, normal; without the port that is the default of the scheme, unless `default_port`."""
    name = parts.hostname or ""
    host = f"[{ipaddress.IPv6Address(name)}]" if ":" in name else ascii_host(name)
    keep = parts.port is not None and (default_port or parts.port != DEFAULT_PORTS.get(parts.scheme))
    return f"{host}:{parts.port}" if keep else host


def api_url(text: str) -> str:
    """Return the URL of an API; empty: none."""
    if not text:
        return text
    parts = _split(_without_blank(unicode(text)))
    if "@" in (parts.netloc if parts else text):
        raise SettingsError(
            "it has a name or password, which would not be sent; "
            "--connection-header 'Authorization=fixed:Basic …' sends one"
        )
    if not parts or parts.scheme not in DEFAULT_PORTS or parts.port == 0:
        raise SettingsError(f"{shown(text)} is not an http:// or https:// URL")
    for sign, name in ("#", "fragment"), ("?", "query"):
        if sign in text:
            raise SettingsError(f"it has a {name}, which would not be sent")
    return f"{parts.scheme}://{_authority(parts, default_port=True)}{parts.path}"


def origin(text: str) -> str:
    """Return an Origin as browsers write it (RFC 6454, 6.2)."""
    lower = unicode(text).lower()
    if lower in ("*", "null"):
        return lower
    for sign, why in (
        (",", "a comma is in no origin; give the option once for each"),
        (
            "*",
            "there are no patterns but *; name each origin",
        ),
    ):
        if sign in text:
            raise SettingsError(f"{shown(text)}: {why}")
    if lower.startswith("file:"):
        raise SettingsError(f"{shown(text)}: pages from files have the origin null")
    parts = _split(lower)
    if parts is None or any(map(str.isspace, text)):
        raise SettingsError(f"{shown(text)} is not scheme://host[:port], null or *")
    if parts.scheme in ("ws", "wss"):
        raise SettingsError(f"{shown(text)}: a page has http or https, not {parts.scheme}")
    if "@" in text or "?" in text or "#" in text or parts.path not in ("", "/"):
        raise SettingsError(f"{shown(text)}: an origin is scheme://host[:port] alone")
    try:
        return f"{parts.scheme}://{_authority(parts, default_port=False)}"
    except SettingsError as error:
        raise SettingsError(f"{shown(text)}: {error}") from error


def path(text: str) -> str:
    """Return the path of a request as browsers send it: what is not ASCII, percent-encoded."""
    if not unicode(text).startswith("/"):
        raise SettingsError(f"{shown(text)} does not start with /")
    if "?" in text or "#" in text:
        raise SettingsError(f"{shown(text)} has a query or fragment, which no path has")
    if {".", ".."} & set(_without_blank(text).split("/")):
        raise SettingsError(f"{shown(text)} has . or .. in it, which browsers take out")
    return quote(text, safe="/%:@!$&'()*+,;=~[]|^`{}\\\"<>")


def hook(text: str) -> str:
    """Return what is appended to the URL of the API."""
    if "#" in unicode(text) or "://" in text.partition("?")[0]:
        raise SettingsError(f"{shown(text)} is no path; it is appended to api_url")
    return _without_blank(text)


def socket_path(text: str) -> str:
    """Return the path of a unix socket, without `unix:` before it."""
    bare = text.removeprefix("unix:").strip()
    if text and not bare:
        raise SettingsError("there is no path behind unix:")
    if len(bare.encode(errors="surrogateescape")) > MAX_SOCKET_PATH_BYTES:
        raise SettingsError(f"the path of a unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes")
    return bare


def address(text: str) -> str:
    """Return where to listen."""
    if text.startswith("unix:"):
        if text == "unix:":
            raise SettingsError(f"{shown(text)} has no path")
        return f"unix:{socket_path(text)}"
    if inherited_descriptor(unicode(text)) is None:
        if text.startswith("*:"):
            port = text.removeprefix("*:")
            raise SettingsError(f"{shown(text)}: every address is 0.0.0.0:{port} or [::]:{port}")
        split_address(text)
    return text


def trigger_address(text: str) -> str:
    """Return where to listen, if at all."""
    return "" if text in ("", "none") else address(text)


def split_address(text: str) -> tuple[str, int]:
    """Return host (without the last dot of DNS) and port. Raises SettingsError: if not `HOST:PORT` or `[V6]:PORT`."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    port_number = number(port, 65535)
    if port_number is None or not (_is_ip(bare) if bare != host else _HOST.fullmatch(host)):
        raise SettingsError(f"{shown(text)} {_NOT_ADDRESS}")
    return bare.removesuffix("."), port_number


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def inherited_descriptor(text: str) -> int | None:
    """Return N of `fd://N`, a listening socket that we are started with; None if `text` is something else."""
    return number(text.removeprefix("fd://"), 2**31 - 1) if text.startswith("fd://") else None


def number(text: str, largest: int) -> int | None:
    """Return the number `text` is; None if it is none, or too large (int() refuses what has 4301 digits)."""
    digits = len(text) <= len(str(largest)) and text.isascii() and text.isdecimal()
    return int(text) if digits and int(text) <= largest else None


def socket_mode(text: str) -> str:
    """Return the permissions of a socket, in octal."""
    if text and not re.fullmatch("0?[0-7]{3}", text):
        raise SettingsError(f"{shown(text)} is no mode in octal, like 0660")
    if text and not int(text, 8) & 0o222:
        raise SettingsError(f"with {text!r} nobody could connect: that takes the right to write")
    return text


def host_name(text: str) -> str:
    """Return the name of a host, without a port."""
    try:
        return ascii_host(text)
    except SettingsError as error:
        raise SettingsError(f"{shown(text)} is not the name of a host alone") from error


def token(text: str) -> str:
    """Return a token of HTTP (RFC 9110, 5.6.2), as the names of subprotocols are."""
    if not _TOKEN.fullmatch(text):
        raise SettingsError(f"{shown(text)} is not a name without blanks, commas and the like")
    return text


def header_or_peer(text: str) -> str:
    """Return the name of a header, or `peer`."""
    if text and not _TOKEN.fullmatch(text):
        raise SettingsError(f"{shown(text)} is not the name of a header, or peer")
    return text


def dotted(text: str) -> str:
    """Return a path of keys like `user.id`; empty: none."""
    if text and "" in unicode(text).split("."):
        raise SettingsError(f"{shown(text)} is no path like user.id")
    return text
