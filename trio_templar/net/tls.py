"""TLS on the websocket addresses: a certificate that can be replaced."""

from __future__ import annotations

import hashlib
import ssl
from typing import NoReturn

import trio

from trio_templar.errors import SettingsError
from trio_templar.files import read_small
from trio_templar.net.tls_stream import TlsStream


class Certificate:
    """A certificate with its chain and key; `context` is for clients that come from now on."""

    def __init__(self, cert: str, key: str) -> None:
        """Read the certificate from the file `cert`, its key from `key`, or from beside it if that is empty.

        Raises SettingsError: if that cannot be, naming the file.
        """
        content = [read_small(cert, "tls_cert"), read_small(key or cert, "tls_key")]
        self.digest = hashlib.sha256(b"".join(content)).digest()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.options |= ssl.OP_NO_RENEGOTIATION  # a client could have us do the dear part again and again
        try:
            self.context.load_cert_chain(cert, key or None, password=lambda: _no_password(key or cert))
        except ssl.SSLError as error:
            raise SettingsError(_at_fault(cert, key or cert, error)) from error

    def become(self, other: Certificate) -> bool:
        """Show `other` to clients that come from now on; return whether that is another one."""
        changed = self.digest != other.digest
        self.digest, self.context = other.digest, other.context
        return changed


def _no_password(key: str) -> NoReturn:
    raise SettingsError(f"tls_key: {key}: the key has a passphrase, which nobody is there to enter")


def _at_fault(cert: str, key: str, error: ssl.SSLError) -> str:
    """Return which file OpenSSL does not like; it does not say."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"tls_key: {key}: it is not the key of the certificate in {cert}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cert)
    except ssl.SSLError:
        return f"tls_cert: {cert}: there is no certificate in it that can be read"
    return f"tls_key: {key}: there is no key in it that can be read ({error.reason or error})"


class TlsListener(trio.abc.Listener[TlsStream]):
    """Accepts from `transport` and speaks TLS with the certificate of that moment; the handshake is left to others."""

    def __init__(self, transport: trio.abc.Listener[trio.SocketStream], certificate: Certificate) -> None:
        self._transport = transport
        self._certificate = certificate

    async def accept(self) -> TlsStream:
        """Return the stream of the next client."""
        return TlsStream(await self._transport.accept(), self._certificate.context)

    async def aclose(self) -> None:
        """Listen no longer."""
        await self._transport.aclose()
