"""The API over HTTP: the bootstrap, and the hooks. The only module here that knows httpx."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import httpx
import msgspec
import trio

from trio_templar.core.answers import failure, read_as_python
from trio_templar.core.forwarding import ClientRequest, Header
from trio_templar.core.settings import Settings
from trio_templar.errors import BackendError, SettingsError, Unavailable, http_fault
from trio_templar.files import read_small

ACCEPT: Final = ((b"Accept", b"*/*"), (b"Accept-Encoding", b"identity"))
# Shorter than the API's own (gunicorn: 2 s), or a request meets a connection that is being closed.
KEEP_ALIVE_SECONDS: Final = 1.5
# How long closing connections may hold up the end of a call, or of the gateway: TLS says goodbye first.
CLOSE_SECONDS: Final = 1.0


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Link:
    """A transport of httpx with one connection, which is kept between calls.

    A pool of httpcore that calls share looks at all its connections several times in each call, and loses slots for
    good when a call is cancelled while it is full (httpcore#1093), as it is when a client leaves.
    """

    __slots__ = ("_stream", "_used", "transport")

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self.transport = transport
        self._stream: Any = None  # an httpcore.AsyncNetworkStream
        self._used = 0.0

    def used(self, stream: Any) -> None:
        """Take note of the connection that has answered just now."""
        self._stream = stream
        self._used = trio.current_time()

    @property
    def is_open(self) -> bool:
        """Whether the next request goes out on the kept connection; else it opens one. It may still die on the way."""
        if self._stream is None or trio.current_time() - self._used >= KEEP_ALIVE_SECONDS:
            return False
        try:
            return not self._stream.get_extra_info("is_readable")  # readable between calls: the API has closed it
        except ValueError:  # our end is closed: it has no descriptor to look at
            return False


class HttpBackend:
    """The API over HTTP, on TCP, TLS or a unix socket. Open from `async with` to its end; shared by all clients.

    It uses httpx's transports without the client around them: they have no cookie jar in which users could meet, follow
    no redirects, read no environment.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.api_url if settings.api_url.endswith("/") else settings.api_url + "/"
        self._bootstrap_url = httpx.URL(self._url + "bootstrap/")  # parsed once: httpx takes long for it
        self._forwarding = settings.forwarding
        self._max_bytes = settings.max_bootstrap_bytes
        self._new_transport = partial(
            httpx.AsyncHTTPTransport,
            verify=_tls(settings),
            limits=httpx.Limits(max_connections=1, keepalive_expiry=KEEP_ALIVE_SECONDS),
            uds=settings.api_socket or None,
            trust_env=False,
        )
        self._idle: list[_Link] = []  # the last used on top, so that those too many are not used and expire

    async def __aenter__(self) -> HttpBackend:
        return self

    async def __aexit__(self, *exc: object) -> None:
        with _goodbye():
            while self._idle:
                await self._idle.pop().transport.aclose()

    async def bootstrap(self, request: ClientRequest) -> Mapping[str, Any]:
        """Ask `GET bootstrap/` with the client's own headers and return the answer.

        Raises Busy: if the API answers 408, 425 or 429. Raises Unavailable: if it is down or answers 5xx.
        Raises Refused: if it answers anything else but 200.
        Raises BackendError: if the answer is too long, or not JSON.
        """
        headers = self._forwarding.api_headers(request)
        link = self._link()
        kept = link.is_open
        try:
            answer = await self._request(link, "GET", self._bootstrap_url, headers)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            if not kept:  # to ask twice would be twice the work for an API that is at its end
                raise _unavailable(error) from error
            # A kept connection may have died since its last use; a GET can be asked again, on a new one.
            answer = await self._translated(self._new_link(), "GET", self._bootstrap_url, headers)
        except httpx.HTTPError as error:
            raise _unavailable(error) from error
        if answer.status != 200:
            raise failure(answer.status, answer.headers, datetime.now(UTC))
        try:
            return msgspec.json.decode(answer.body)  # type: ignore[no-any-return]  # `read_answer` checks it
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return read_as_python(answer.body)

    async def post(self, path: str, headers: Sequence[Header]) -> None:
        """POST to a hook's path. Raises BackendError: if the API does not answer with a 2xx."""
        answer = await self._translated(self._link(), "POST", httpx.URL(self._url + path.lstrip("/")), headers)
        if not 200 <= answer.status < 300:
            raise BackendError(f"the API answered {answer.status} to the hook {path}")

    def _link(self) -> _Link:
        return self._idle.pop() if self._idle else self._new_link()

    def _new_link(self) -> _Link:
        return _Link(self._new_transport())

    async def _translated(self, link: _Link, method: str, url: httpx.URL, headers: Sequence[Header]) -> _Answer:
        try:
            return await self._request(link, method, url, headers)
        except httpx.HTTPError as error:
            raise _unavailable(error) from error

    async def _request(self, link: _Link, method: str, url: httpx.URL, headers: Sequence[Header]) -> _Answer:
        """Return what the API answers; keep `link` for the next call only if the answer was read to its end."""
        request = httpx.Request(method, url, headers=[*headers, *ACCEPT])
        try:
            response = await link.transport.handle_async_request(request)
            body = await self._body(response)
        except BaseException:  # a cancellation too: on this connection an answer is still on its way
            with _goodbye():
                await link.transport.aclose()
            raise
        link.used(response.extensions["network_stream"])
        self._idle.append(link)
        return _Answer(response.status_code, response.headers, body)

    async def _body(self, response: httpx.Response) -> bytes:
        """Return the body. Raises BackendError: if it has more than `max_bootstrap_bytes`."""
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = bytearray()
        # httpx leaves its generator open when it is not read to its end, for the garbage collector to close.
        async with aclosing(aiter(response.stream)) as chunks:  # type: ignore[type-var]  # it is a generator
            async for chunk in chunks:
                body += chunk
                if len(body) > self._max_bytes:
                    raise BackendError(f"the answer is over {self._max_bytes} bytes (max_bootstrap_bytes)")
        await response.stream.aclose()
        return bytes(body)


def _goodbye() -> trio.CancelScope:
    """Return a scope in which connections can be closed although the task is cancelled, for a moment."""
    return trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS)


def _unavailable(error: httpx.HTTPError) -> Unavailable:
    reason = http_fault(error) if isinstance(error, httpx.ProtocolError) else _reason(error)
    return Unavailable(f"the API is down: {type(error).__name__}: {reason}")


def _reason(error: BaseException) -> str:
    """Return the first words on the way to the cause: what TLS said is under errors of httpx that say nothing."""
    reason: BaseException | None = error
    while reason is not None and not str(reason):
        reason = reason.__cause__ or reason.__context__
    return str(reason or "")


def _tls(settings: Settings) -> ssl.SSLContext:
    """Return the one context that all connections share; without TLS an empty one.

    httpx makes one for each transport that is given none, and to read all certificates takes tens of milliseconds.
    """
    if not settings.api_url.startswith("https://"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not settings.api_ca:
        return httpx.create_ssl_context(trust_env=False)
    read_small(settings.api_ca, "api_ca")  # it may be no file at all, and OpenSSL reads whatever it is to its end
    try:
        return ssl.create_default_context(cafile=settings.api_ca)
    except OSError as error:
        raise SettingsError(f"api_ca: {settings.api_ca}: {error}") from error
