"""The way to a websocket: TCP, TLS or a unix socket, the upgrade, and what its failures mean."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import trio

from trio_templar.client import Closed, Rejected, WebsocketClient
from trio_templar.commands.command import CommandError, Status
from trio_templar.commands.gateway_api import reason, tls_context
from trio_templar.commands.places import Place


class Ended(CommandError):
    """The connection, or the way to it, is over; another try may help."""


async def dial(place: Place, headers: Sequence[tuple[str, str]], ca: str, seconds: float) -> WebsocketClient:
    """Return a client with an open websocket, within `seconds`.

    Raises Ended: if nobody answers, or the gateway has no room or no API now.
    Raises CommandError: if it does not let this client in.
    """
    try:
        with trio.fail_after(seconds):
            return await _upgraded(await _open(place, ca), place, headers)
    except trio.TooSlowError as error:
        raise Ended(Status.UNREACHABLE, f"no answer within {seconds:g} s (--timeout)") from error
    except (OSError, trio.BrokenResourceError, Closed, UnicodeError) as error:  # UnicodeError: no name of a host
        raise Ended(Status.UNREACHABLE, f"cannot reach it: {reason(error)}") from error
    except Rejected as error:
        raise _rejection(error) from error


async def _upgraded(stream: trio.abc.Stream, place: Place, headers: Sequence[tuple[str, str]]) -> WebsocketClient:
    client = WebsocketClient(stream)
    parts = urlsplit(place.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        await client.open(target or "/", headers, host=parts.netloc)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return client


async def _open(place: Place, ca: str) -> trio.abc.Stream:
    if place.socket:
        return await trio.open_unix_socket(place.socket)
    host, port = place.address
    stream = await trio.open_tcp_stream(host, port)
    if not place.secure:
        return stream
    secure = trio.SSLStream(stream, tls_context(ca), server_hostname=host, https_compatible=True)
    try:
        await secure.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure


def _rejection(rejected: Rejected) -> CommandError:
    text = f"{rejected.status}: {' '.join(rejected.body.split())[:500]}"
    match rejected.status:
        case 401 | 403:
            return CommandError(Status.REFUSED, text)
        case 503:
            return Ended(Status.BUSY, text)
        case status if status >= 500:
            return Ended(Status.FAILED, text)
        case _:
            return CommandError(Status.FAILED, f"{text} (is it the bind and path of a trio_templar?)")
