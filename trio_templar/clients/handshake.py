"""The opening handshake, from the first byte to the 101: a client that is refused gets a real HTTP answer.

trio-websocket sees admitted clients only. Its own handshake answers a plain GET with an empty 400 and hangs, loses the
bytes that come before the 101, and crashes at some headers, which anybody can send.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio
from wsproto.utilities import generate_accept_token

from trio_templar.core.forwarding import ClientRequest
from trio_templar.core.origins import is_forwarded_securely, is_origin, origin_allowed, same_machine
from trio_templar.errors import TemplarError
from trio_templar.net.http_head import Head, HeadError, HeadParser, plain_response
from trio_templar.net.sockets import transport_of
from trio_templar.net.tls_stream import TlsStream

READ_BYTES: Final = 4096
# A TLS handshake begins so: a record of that type (RFC 8446, 5.1), which no HTTP request does.
TLS_START: Final = 0x16
# How a refusal is counted, where its status says enough.
REFUSAL_CAUSES: Final = {
    401: "not authorized",
    404: "path",
    405: "no websocket",
    408: "slow",
    426: "no websocket",
    414: "long",
    431: "long",
    502: "API answer",
}


class HandshakeError(TemplarError):
    """A request that is answered over HTTP and ends there.

    `text` goes to the client. `hint` is for the log alone: what the API did, or what the operator can do.
    `cause` is how it is counted.
    """

    def __init__(self, status: int, text: str, *headers: tuple[str, str], hint: str = "", cause: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers
        self.hint = hint
        self.has_content = True  # an answer to HEAD has none
        self.cause = cause or REFUSAL_CAUSES.get(status, "malformed")

    def response(self) -> bytes:
        """Return the whole HTTP response, in plain text."""
        return plain_response(self.status, self.text, *self.headers, content=self.has_content)


def busy(text: str, retry_after: int = 1, *, cause: str, hint: str = "") -> HandshakeError:
    """Return a 503 that asks the client to come back."""
    return HandshakeError(503, text, ("Retry-After", str(retry_after)), hint=hint, cause=cause)


class PeerLeft(TemplarError):
    """The client left before it was admitted."""


PLAIN: Final = HandshakeError(400, "this address speaks TLS: wss://, not ws://")


async def shake_hands(stream: trio.abc.Stream) -> None:
    """Do the TLS handshake of a client, if `stream` is TLS.

    A client that speaks plain HTTP gets an HTTP answer that says so. The caller sets the deadline.
    Raises PeerLeft: if the handshake fails.
    """
    if not isinstance(stream, TlsStream | trio.SSLStream):
        return
    try:
        await stream.do_handshake()
        return
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        reason = error.__cause__.reason if isinstance(error.__cause__, ssl.SSLError) else ""
    if reason == "HTTP_REQUEST":  # OpenSSL's name for bytes that begin like a request: it must be answered without TLS
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await transport_of(stream).send_all(PLAIN.response())
    raise PeerLeft(f"no TLS: {reason.lower().replace('_', ' ')}" if reason else "")


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A well-formed websocket request: what goes to the API, its key, and the bytes that came behind its head."""

    request: ClientRequest
    key: bytes
    early: bytes


async def read_upgrade(stream: trio.abc.ReceiveStream, path: str, peer: str, max_bytes: int) -> Upgrade:
    """Read one request head and return it, if it asks for a websocket at `path` (RFC 6455, 4.2.1).

    Raises HandshakeError: if it does not, with the answer to give.
    Raises PeerLeft: if the client goes away first.
    The caller sets the deadline.
    """
    parser = HeadParser(max_bytes)
    data = await receive(stream)
    if data[0] == TLS_START:
        raise HandshakeError(400, "TLS, which this address does not speak: ws://, not wss://")
    try:
        while (head := parser.feed(data)) is None:
            data = await receive(stream)
    except HeadError as error:
        raise HandshakeError(error.status, str(error)) from error
    try:  # a client need not wait for its 101 before it sends frames: these are h11's trailing data
        return check_upgrade(head, path, peer, parser.connection.trailing_data[0])
    except HandshakeError as error:
        error.has_content = head.method != b"HEAD"  # RFC 9110, 9.3.2
        raise


async def receive(stream: trio.abc.ReceiveStream) -> bytes:
    """Return the next bytes of a client that is not admitted yet. Raises PeerLeft: if there are none."""
    try:
        data = await stream.receive_some(READ_BYTES)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise PeerLeft from error
    if not data:
        raise PeerLeft
    return bytes(data)


def check_upgrade(head: Head, path: str, peer: str, early: bytes) -> Upgrade:
    """Return what `head` asks for; `early` came behind it. Raises HandshakeError: if it is no websocket at `path`."""
    request = ClientRequest(head.target.decode("latin-1"), head.headers, peer)
    if request.path.removesuffix("/") != path.removesuffix("/"):
        raise HandshakeError(404, "nothing here")
    if head.method not in (b"GET", b"HEAD"):
        raise HandshakeError(405, "only GET", ("Allow", "GET"))
    tokens = _tokens(request.header(b"connection"))
    if head.method == b"HEAD" or b"upgrade" not in tokens or b"websocket" not in _tokens(request.header(b"upgrade")):
        raise HandshakeError(426, "websockets only", ("Upgrade", "websocket"), ("Connection", "Upgrade"))
    if request.header(b"sec-websocket-version") != b"13":
        raise HandshakeError(
            426, "websocket version 13 only", ("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")
        )
    if head.version < b"1.1":
        raise HandshakeError(400, "HTTP/1.1 only")
    if head.has_body:  # its bytes would be taken for frames
        raise HandshakeError(400, "a websocket request has no content")
    key = request.header(b"sec-websocket-key") or b""
    if not _is_key(key):
        raise HandshakeError(400, "Sec-WebSocket-Key is not 16 bytes in base64")
    return Upgrade(request, key, early)


def _tokens(value: bytes | None) -> list[bytes]:
    return [token.strip().lower() for token in (value or b"").split(b",")]


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


def check_origin(request: ClientRequest, allowed_origins: Collection[str], *, over_tls: bool = False) -> None:
    """Check which web page asks: it must be of the request's own host (any port), or of `allowed_origins`.

    A client that is no web page sends no origin and passes. A request over TLS, to us or to the proxy in front, may not
    come from a page without TLS, unless that is allowed. Browsers send the user's cookies from any page, so the origin
    must be checked (RFC 6455, 10.2).

    Raises HandshakeError: if the page is another one.
    """
    origin, host = request.header(b"origin") or b"", request.header(b"host") or b""
    secure = over_tls or is_forwarded_securely(request.header(b"x-forwarded-proto") or b"")
    if not origin_allowed(origin, host, allowed_origins, secure=secure):
        hint = _origin_hint(origin.decode("latin-1"), host.decode("latin-1"))
        raise HandshakeError(403, "origin not allowed", hint=hint, cause="origin")


def _origin_hint(origin: str, host: str) -> str:
    if not is_origin(origin):  # it may be anything, and is not repeated
        return "the Origin is not of the form SCHEME://HOST[:PORT]"
    hint = f"--allowed-origin {origin} would let it in"
    other = same_machine(origin, host)
    # Browsers keep the cookies of localhost and 127.0.0.1 apart: let in alone, the page would be one without a user.
    return f"open the page as {other}, so that its cookies come along; {hint} without them" if other else hint


def choose_subprotocol(request: ClientRequest, known: Collection[str]) -> str:
    """Return the first subprotocol of `known` that the client offers (RFC 6455, 4.2.2); empty if there is none."""
    offered = (request.header(b"sec-websocket-protocol") or b"").decode("latin-1").split(",")
    return next((name for name in map(str.strip, offered) if name in known), "")


def switching_protocols(key: bytes, subprotocol: str = "") -> bytes:
    """Return the 101 for an admitted client: no extension, and no header that is not needed (RFC 6455, 4.2.2)."""
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n".encode() if subprotocol else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %s\r\n%s\r\n" % (generate_accept_token(key), chosen)
    )
