"""The way to a websocket: TCP, TLS or a unix socket, the upgrade, and what its failures mean."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import trio

from trio_templar.client import Closed, Rejected, WebsocketClient
from trio_templar.commands.addresses import Address
from trio_templar.commands.command import CommandError, ExitStatus, UsageError


class Ended(CommandError):
    """The connection, or the way to it, is over; another try may help."""


async def connect(address: Address, headers: Sequence[tuple[str, str]], ca: str, seconds: float) -> WebsocketClient:
    """Return a client with an open websocket, within `seconds`.

    Raises Ended: if nobody answers, or the gateway has no room or no API now.
    Raises CommandError: if it does not let this client in.
    """
    try:
        with trio.fail_after(seconds):
            return await _upgraded(await _open(address, ca), address, headers)
    except trio.TooSlowError as error:
        raise Ended(ExitStatus.UNREACHABLE, f"no answer within {seconds:g} s (--timeout)") from error
    except (OSError, trio.BrokenResourceError, Closed, UnicodeError) as error:  # UnicodeError: no name of a host
        raise Ended(ExitStatus.UNREACHABLE, f"cannot reach it: {reason(error)}") from error
    except Rejected as error:
        raise _rejection(error) from error


async def _upgraded(stream: trio.abc.Stream, address: Address, headers: Sequence[tuple[str, str]]) -> WebsocketClient:
    client = WebsocketClient(stream)
    parts = urlsplit(address.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        await client.open(target or "/", headers, host=parts.netloc)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return client


async def _open(address: Address, ca: str) -> trio.abc.Stream:
    if address.socket:
        return await trio.open_unix_socket(address.socket)
    host, port = address.host_and_port
    stream = await trio.open_tcp_stream(host, port)
    if not address.secure:
        return stream
    # https_compatible: many servers close TCP without a close_notify.
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
            return CommandError(ExitStatus.REFUSED, text)
        case 503:
            return Ended(ExitStatus.BUSY, text)
        case status if status >= 500:  # a proxy, as 502 while the gateway behind it restarts
            return Ended(ExitStatus.FAILED, text)
        case _:
            return CommandError(
                ExitStatus.FAILED, f"{text} (is this the websocket address of a gateway, bind and path?)"
            )


def tls_context(ca: str) -> ssl.SSLContext:
    """Return whom to trust: the certificates in the file `ca`, or the machine's.

    Raises CommandError: if there are none.
    """
    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise UsageError(f"--ca: {ca}: {error}") from error


def reason(error: BaseException) -> str:
    """Return why a connection failed, in the words of who knows best: the system or TLS, not those around them."""
    chain = list(_causes(error))
    for cause in reversed(chain):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError) and cause.reason:  # an OSError too, but its number is not the system's
            return f"the TLS handshake failed: {cause.reason.replace('_', ' ').lower()}"
    for cause in reversed(chain):
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            # Below 0 it is one of getaddrinfo's, of which the system has no words by number.
            return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
    return next((str(cause) for cause in chain if str(cause)), type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            yield from _causes(error.exceptions[0])
        error = error.__cause__ or error.__context__
