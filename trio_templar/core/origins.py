"""Which web pages may talk to us. A browser lets any page try, with the user's cookies or from inside a network."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

# What a browser sends (RFC 6454, 7). It has no password, path or query, so it can be shown. Some send `file://`.
_ORIGIN: Final = re.compile(r"null|[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]*)(:\d{1,5})?", re.IGNORECASE)
# The dot behind a name stands for the root of DNS: browsers keep it, and the host is the same without it.
_LAST_DOT: Final = re.compile(r"\.(?=(:\d+)?$)")
_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")


def origin_allowed(origin: bytes, host: bytes, allowed_origins: Collection[str] = (), *, secure: bool = False) -> bool:
    """Whether a request to `host` may come from `origin`; both are values of its headers.

    It may if it has no origin (it is not from a page), one with the same host (on any port), or an allowed one. A
    `secure` request, one over TLS, may not come from a page without TLS: anyone between could have written that page.
    """
    text = origin.decode("latin-1")
    if not text or "*" in allowed_origins or _plain(text) in map(_plain, allowed_origins):
        return True
    if secure and text.lower().startswith("http:"):
        return False
    return hostname(text) == hostname(f"//{host.decode('latin-1')}") != ""


def is_forwarded_securely(forwarded_proto: bytes) -> bool:
    """Whether the proxy in front was asked over TLS, as its `X-Forwarded-Proto` says; a page cannot set that header."""
    return forwarded_proto.partition(b",")[0].strip().lower() in (b"https", b"wss")


def _plain(origin: str) -> str:
    return _LAST_DOT.sub("", origin.lower())


def is_origin(text: str) -> bool:
    """Whether `text` has the form of an origin, and so no secret in it."""
    return _ORIGIN.fullmatch(text) is not None


def same_machine(origin: str, host: str) -> str:
    """Return the address under which a page of `origin` would have the host of `host`, if both mean this machine.

    Of `http://localhost:8000` and `127.0.0.1:8001` it is `http://127.0.0.1:8000`. Empty if they do not.
    """
    theirs, ours = hostname(origin), hostname(f"//{host}")
    if theirs not in _THIS_MACHINE or ours not in _THIS_MACHINE:
        return ""
    form = _ORIGIN.fullmatch(origin)
    port = form[2] if form and form[2] else ""
    return f"{origin.partition('://')[0]}://{f'[{ours}]' if ':' in ours else ours}{port}"


def hostname(url: str) -> str:
    """Return the host of `url`, lower case, without its port and last dot; empty if there is none."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""
