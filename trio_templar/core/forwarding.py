"""The request of a client, and what of it goes on to the API: cookies, token, address, and headers of the settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args
from urllib.parse import parse_qsl

from trio_templar.core.texts import shown

Header = tuple[bytes, bytes]
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
SourceKind = Literal["key", "param", "cookie", "fixed"]


@dataclass(frozen=True)
class ClientRequest:
    """The request that opens a websocket. Header names are lower case; `peer` is the address, or empty."""

    target: str
    headers: Sequence[Header]
    peer: str = ""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: bytes) -> bytes | None:
        """Return the header `name` (lower case), repeated ones joined with `, ` (cookies with `; `)."""
        values = [value for key, value in self.headers if key == name]
        if not values:
            return None
        return (b"; " if name == b"cookie" else b", ").join(values)

    def cookie(self, name: bytes) -> bytes | None:
        """Return the last cookie called `name`, as Django does, without quotes around it."""
        return self._cookies.get(name)

    def param(self, name: str) -> bytes | None:
        """Return the first query parameter called `name`, in UTF-8."""
        return self._params.get(name)

    @cached_property
    def _cookies(self) -> dict[bytes, bytes]:
        pairs = (part.strip().partition(b"=") for part in (self.header(b"cookie") or b"").split(b";"))
        return {name: value.strip(b'"') for name, _, value in pairs}

    @cached_property
    def _params(self) -> dict[str, bytes]:
        pairs = parse_qsl(self.target.partition("?")[2], keep_blank_values=True)
        return {name: value.encode() for name, value in reversed(pairs)}


@dataclass(frozen=True, slots=True)
class HeaderRule:
    """One `--connection-header`: a header for the API, where its value comes from, and the format around it."""

    name: bytes
    kind: SourceKind
    source: str
    format: str = "{}"

    @classmethod
    def parse(cls, text: str) -> HeaderRule:
        """Read `NAME=KIND:SOURCE` or `NAME=KIND:SOURCE:FORMAT`, where `{}` in FORMAT stands for the value.

        Raises ValueError: if it is not of that form.
        """
        name, equals, rest = text.partition("=")
        kind, colon, source = rest.partition(":")
        if not equals or not colon or not name.isascii() or not name.replace("-", "").isalnum():
            raise ValueError(f"{shown(text)} is not NAME=key:…, param:…, cookie:… or fixed:…")
        if kind not in get_args(SourceKind):
            raise ValueError(f"{shown(text)}: the source is key, param, cookie or fixed, not {shown(kind)}")
        if kind == "fixed":
            if not source.strip():
                raise ValueError(f"{shown(text)} has no value")
            return cls(name.encode(), "fixed", source)
        source, _, format_ = source.partition(":")
        if not source:
            raise ValueError(f"{shown(text)} is not NAME={kind}:SOURCE")
        if "{}" not in (format_ or "{}"):
            raise ValueError(f"{shown(text)}: the format has no {{}}")
        return cls(name.encode(), kind, source, format_ or "{}")  # type: ignore[arg-type]  # checked above

    def value(self, request: ClientRequest) -> bytes | None:
        """Return the header's value for `request`, or None if the client did not send its source."""
        match self.kind:
            case "key":
                found = request.header(self.source.lower().encode())
            case "param":
                found = request.param(self.source)
            case "cookie":
                found = request.cookie(self.source.encode())
            case "fixed":
                return self.source.encode()
        if not found:
            return None
        before, _, after = self.format.partition("{}")
        return before.encode() + found + after.encode()


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The rules by which `api_headers` works; `ip_from` is a header (lower case), `peer`, or empty.

    `real_ip` passes the client's `X-Real-IP` on as it is (High-templar 3.1).
    """

    ip_from: bytes = b""
    host: bool = False
    real_ip: bool = False
    rules: Sequence[HeaderRule] = ()

    def api_headers(self, request: ClientRequest) -> list[Header]:
        """Return the headers for the API; one whose source the client did not send is left out."""
        token = request.param("token")
        found: list[tuple[bytes, bytes | None]] = [
            (b"Cookie", request.header(b"cookie")),
            (b"User-Agent", request.header(b"user-agent")),
            (b"X-CSRFToken", request.cookie(b"csrftoken")),
            # parse_qsl reads `+` as a blank, as forms write it. A token has no blanks (RFC 6750, 2.1), so it was a `+`.
            (b"Authorization", b"Token " + token.replace(b" ", b"+") if token else None),
            (b"X-Forwarded-For", self._ip(request)),
            (b"X-Real-IP", request.header(b"x-real-ip") if self.real_ip and not self.ip_from else None),
            (b"Host", request.header(b"host") if self.host else None),
        ]
        return _merged(found, ((rule.name, rule.value(request)) for rule in self.rules))

    def _ip(self, request: ClientRequest) -> bytes | None:
        if self.ip_from == b"peer":
            return request.peer.encode()
        return request.header(self.ip_from) if self.ip_from else None


def _merged(
    defaults: Iterable[tuple[bytes, bytes | None]], rules: Iterable[tuple[bytes, bytes | None]]
) -> list[Header]:
    """Return both, later names over earlier ones, without what is missing, empty or no header value (RFC 9110, 5.5)."""
    merged: dict[bytes, Header] = {}
    for name, value in (*defaults, *rules):
        if value and _FIELD_VALUE.fullmatch(value):
            merged[name.lower()] = (name, value.strip())
    return list(merged.values())
