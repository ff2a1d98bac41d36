"""Which web pages may talk to us. A browser lets any page try, with the user's cookies or from inside a network."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit


def origin_allowed(origin: bytes, host: bytes, allowed_origins: Collection[str] = ()) -> bool:
    """Whether a request to `host` may come from `origin`, the values of its headers.

    It may if it names no origin (it is from no page), one with the same host (on any port), or an allowed one.
    """
    text = origin.decode("latin-1")
    if not text or "*" in allowed_origins or text.lower() in map(str.lower, allowed_origins):
        return True
    return hostname(text) == hostname(f"//{host.decode('latin-1')}") != ""


def hostname(url: str) -> str:
    """Return the host of `url`, lower case and without its port; empty if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
