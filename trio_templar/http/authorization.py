"""Who may call the HTTP API: no web page of another host, and where there is a token, only a caller that has it."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import trio

from trio_templar.core.origins import hostname, is_forwarded_securely, origin_allowed
from trio_templar.core.settings import Settings, is_local
from trio_templar.errors import TemplarError
from trio_templar.log import Seldom

logger = logging.getLogger("trio_templar.http_guard")  # operators filter by this name, which is older than the module's

# How long the answer to a wrong token takes, and for how many callers at once. Any more are answered at once: callers
# that wait hold sockets, which those with the right token need.
PENALTY_SECONDS: Final = 1.0
MAX_PENALTIES: Final = 100
# Wrong tokens in this time share a log line.
QUIET_SECONDS: Final = 10.0


class Unauthorized(TemplarError):
    """The caller does not have the trigger token; `challenge` says how one is shown (RFC 9110, 11.6.1)."""

    status = 401

    def __init__(self, message: str, challenge: str = 'Bearer, Basic realm="trigger"') -> None:
        super().__init__(message)
        self.headers = (("WWW-Authenticate", challenge),)


class ForeignPage(TemplarError):
    """The caller is a web page of another host."""

    status = 403


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller must give. `hosts` are the names that `Host` may have besides loopback and addresses; None: any."""

    token: bytes = field(default=b"", repr=False)
    hosts: Collection[str] | None = None


def access_by(settings: Settings) -> Access:
    """Return what `settings` ask of callers: the token, or where there is none, a `Host` that is ours.

    Only on a loopback address without a token can a browser on this machine be led here by a foreign page.
    """
    # An inherited socket (fd://N) counts as local, whatever it is: the check is stricter then than it need be.
    tcp = bool(settings.trigger_bind) and not settings.trigger_bind.startswith("unix:")
    open_to_browsers = tcp and not settings.token and is_local(settings.trigger_bind)
    return Access(settings.token.encode(), settings.trusted_host if open_to_browsers else None)


class Authorization:
    """Decides whether a caller may call. `access` can be replaced at any time."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._penalties = 0
        self._wrong = Seldom(logger, "wrong token", QUIET_SECONDS)

    async def check(self, headers: Mapping[bytes, bytes], peer: str) -> None:
        """Check that a caller with these `headers` may call. One with the right token never waits.

        Raises ForeignPage: if a page of another host is the caller, or may be one that gave its own name our address.
        Raises Unauthorized: if the token is missing, or wrong: then after PENALTY_SECONDS, and the log says so.
        """
        host = headers.get(b"host", b"")
        secure = is_forwarded_securely(headers.get(b"x-forwarded-proto", b""))
        if not origin_allowed(headers.get(b"origin", b""), host, secure=secure):
            raise ForeignPage("pages of other hosts may not call this API")
        if not self.access.token:
            self._check_host(host)
            return
        authorization = headers.get(b"authorization", b"")
        token = _token_in(authorization)
        if hmac.compare_digest(token, self.access.token):
            return
        if token:
            self._wrong.log(trio.current_time(), peer=peer)
            await self._slow_down()
        message = "the trigger token is missing or wrong"
        if authorization.lower().startswith(b"bearer"):  # offered Basic, a browser shows a box for a password
            raise Unauthorized(message, "Bearer")
        raise Unauthorized(message)

    def _check_host(self, host: bytes) -> None:
        """Refuse foreign names: a page can make its own name lead to our address (DNS rebinding)."""
        if self.access.hosts is None or not host:
            return
        name = hostname(f"//{host.decode('latin-1')}")
        if not _is_address(name) and not _is_loopback(name) and name not in map(str.lower, self.access.hosts):
            raise ForeignPage(f"not asked as localhost or by address; --trusted-host {name or 'NAME'} would allow it")

    async def _slow_down(self) -> None:
        if self._penalties >= MAX_PENALTIES:
            return
        self._penalties += 1
        try:
            await trio.sleep(PENALTY_SECONDS)
        finally:
            self._penalties -= 1


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")  # RFC 6761, 6.3


def _token_in(authorization: bytes) -> bytes:
    """Return the token of a `Bearer` header, or the password of a `Basic` one (RFC 6750, RFC 7617)."""
    scheme, _, value = authorization.partition(b" ")
    match scheme.lower():
        case b"bearer":
            return value.strip()
        case b"basic":
            try:
                return base64.b64decode(value, validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
        case _:
            return b""
