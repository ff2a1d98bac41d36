"""The API: who may enter which rooms, and the hooks. The only module that knows httpx.

`HttpBackend` asks over HTTP; an embedding program can give a callable of its own instead.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import httpx
import msgspec
import trio

from trio_templar.core.answers import as_json, failure, read_as_python
from trio_templar.core.forwarding import ClientRequest, Header
from trio_templar.core.rooms import Room, RoomIndex
from trio_templar.core.settings import Settings
from trio_templar.counters import BOOTSTRAP_BOUNDS, Histogram
from trio_templar.errors import (
    BackendError,
    Busy,
    Refused,
    SettingsError,
    TemplarError,
    Unavailable,
    cause_of,
    http_fault,
)
from trio_templar.files import read_small

logger = logging.getLogger("trio_templar.backend")


class Bootstrap(Protocol):
    """Says who may enter which rooms, in place of the API: what `GET bootstrap/` would answer.

    It may raise Refused, Busy and Unavailable. It is cancelled after `bootstrap_seconds`, or when the client leaves.
    """

    def __call__(self, request: ClientRequest, /) -> Awaitable[Mapping[str, Any]]:
        """Return `{"allowed_rooms": [...], ...}` for one client."""


ACCEPT: Final = ((b"Accept", b"*/*"), (b"Accept-Encoding", b"identity"))
# Shorter than the API's own (gunicorn: 2 s), or a request meets a connection that is being closed.
KEEP_ALIVE_SECONDS: Final = 1.5

# So many allowed rooms are read through in 0.2 ms, or put into an index in 0.6 ms.
FEW_ROOMS: Final = 200


@dataclass(frozen=True, slots=True)
class BootstrapAnswer:
    """What the backend said of one client it lets in. `user_id` is any JSON value, or None.

    Many `allowed_rooms` have an `index`; a few are read through as quickly, and it takes memory.
    """

    allowed_rooms: Sequence[Room]
    user_id: Any = None
    index: RoomIndex | None = None


def read_answer(answer: object, user_id_path: Sequence[str]) -> BootstrapAnswer:
    """Read a bootstrap answer. Raises BackendError: if it is nonsense, saying what."""
    if not isinstance(answer, Mapping):
        raise BackendError(f"the bootstrap answer is no object but {type(answer).__name__}")
    allowed_rooms = answer.get("allowed_rooms")
    if allowed_rooms is None:
        allowed_rooms = []
    if not isinstance(allowed_rooms, list | tuple):
        raise BackendError("allowed_rooms is no list")
    for index, room in enumerate(allowed_rooms):
        if not isinstance(room, Mapping):
            raise NoRoom(f"allowed_rooms[{index}] is no object")
    user_id = as_json(".".join(user_id_path), _follow(answer, user_id_path))
    return BootstrapAnswer(as_json("allowed_rooms", allowed_rooms), user_id)


class NoRoom(BackendError):
    """An allowed room is no object: for High-templar 3 a refusal, not an error."""


def _steps(user_id_path: str) -> Sequence[str]:
    return [step for step in user_id_path.split(".") if step]


def _follow(value: Any, path: Sequence[str]) -> Any:
    """Return what `path` (keys, or indices of lists) leads to in `value`, or None (High-templar 2.5)."""
    for step in path:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, TypeError, IndexError, ValueError):
            return None
    return value if path else None


class BootstrapLimiter:
    """Bootstrap calls: at most so many at once, at most so many waiting, each with a deadline from its slot on."""

    def __init__(self, bootstrap: Bootstrap, settings: Settings) -> None:
        self._bootstrap = bootstrap
        self._limiter = trio.CapacityLimiter(settings.max_bootstraps)
        self._max_waiting = settings.max_bootstraps_waiting
        self._seconds = settings.bootstrap_seconds
        self._user_id_path = _steps(settings.user_id_path)
        self.answers: Counter[str] = Counter()  # by what came of them
        self.seconds = Histogram(BOOTSTRAP_BOUNDS)

    async def admit(self, request: ClientRequest) -> BootstrapAnswer:
        """Ask the backend about one client.

        Raises Busy: if too many wait already.
        Raises Refused, BackendError or Unavailable: as the backend answers.
        """
        if self._limiter.statistics().tasks_waiting >= self._max_waiting:
            raise Busy("too many clients wait for the API (max_bootstraps_waiting)")
        async with self._limiter:
            start = trio.current_time()
            outcome = "left"  # unless it turns out otherwise, the client has gone
            try:
                answer = read_answer(await self._ask(request), self._user_id_path)
                outcome = "admitted"
            except TemplarError as error:
                outcome = _outcome(error)
                raise
            finally:
                self.answers[outcome] += 1
                self.seconds.observe(trio.current_time() - start)
        return await _indexed(answer)

    async def _ask(self, request: ClientRequest) -> Mapping[str, Any]:
        try:
            with trio.fail_after(self._seconds):
                return await self._bootstrap(request)
        except trio.TooSlowError as error:
            raise Unavailable(f"the API did not answer within {self._seconds:g} s") from error
        except TemplarError:
            raise
        except Exception as error:  # a bootstrap may be foreign code
            known = cause_of(error)
            if isinstance(known, TemplarError):  # raised in a nursery
                raise known from error
            logger.exception("the bootstrap crashed")
            raise Unavailable("the API failed") from error


async def _indexed(answer: BootstrapAnswer) -> BootstrapAnswer:
    """Return `answer` with an index if it has many rooms, made in slices: others get their turns."""
    if len(answer.allowed_rooms) <= FEW_ROOMS:
        return answer
    index = RoomIndex()
    for number, room in enumerate(answer.allowed_rooms):
        if number % FEW_ROOMS == 0:
            await trio.lowlevel.checkpoint()
        index.add(room)
    return replace(answer, index=index)


def _outcome(error: TemplarError) -> str:
    match error:
        case Refused():
            return "refused"
        case Busy():
            return "busy"
        case Unavailable():
            return "unavailable"
        case _:
            return "nonsense"


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Link:
    """A transport and the connection of its last answer, if it had one."""

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
        """Whether the next request goes out on that connection; else it opens one. It may still be lost on the way."""
        if self._stream is None or trio.current_time() - self._used >= KEEP_ALIVE_SECONDS:
            return False
        try:
            return not self._stream.get_extra_info("is_readable")
        except ValueError:  # it is closed
            return False


class HttpBackend:
    """The API over HTTP, on TCP, TLS or a unix socket. Open from `async with` to its end; shared by all clients.

    It uses httpx's transports without the client around them: they have no cookie jar in which users could meet, follow
    no redirects, read no environment.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.api_url if settings.api_url.endswith("/") else settings.api_url + "/"
        self._bootstrap_url = httpx.URL(self._url + "bootstrap/")  # parsing one takes longer than it looks
        self._forwarding = settings.forwarding
        self._max_bytes = settings.max_bootstrap_bytes
        self._new_transport = partial(
            httpx.AsyncHTTPTransport,
            verify=_tls(settings),
            limits=httpx.Limits(max_connections=1, keepalive_expiry=KEEP_ALIVE_SECONDS),
            uds=settings.api_socket or None,
            trust_env=False,
        )
        # One transport with one connection for each call at once, the last used on top. A shared pool looks at all its
        # connections several times in each call, and loses slots for good when a call is cancelled while it is full.
        self._idle: list[_Link] = []

    async def __aenter__(self) -> HttpBackend:
        return self

    async def __aexit__(self, *exc: object) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
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
            if not kept:  # asking twice would be twice the work for an API that is at its end
                raise _unavailable(error) from error
            # A kept connection may have died since its last use; a GET can be asked again, on a new one.
            answer = await self._translated(_Link(self._new_transport()), "GET", self._bootstrap_url, headers)
        except httpx.HTTPError as error:
            raise _unavailable(error) from error
        if answer.status != 200:
            raise failure(answer.status, answer.headers, datetime.now(UTC))
        try:
            return msgspec.json.decode(answer.body)  # type: ignore[no-any-return]  # `admission` checks it
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return read_as_python(answer.body)

    async def post(self, path: str, headers: Sequence[Header]) -> None:
        """POST to a hook's path. Raises BackendError: if the API does not answer with a 2xx."""
        answer = await self._translated(self._link(), "POST", httpx.URL(self._url + path.lstrip("/")), headers)
        if not 200 <= answer.status < 300:
            raise BackendError(f"the API answered {answer.status} to the hook {path}")

    def api_headers(self, request: ClientRequest) -> list[Header]:
        """Return the headers that go with every call for this client."""
        return self._forwarding.api_headers(request)

    def _link(self) -> _Link:
        return self._idle.pop() if self._idle else _Link(self._new_transport())

    async def _translated(self, link: _Link, method: str, url: httpx.URL, headers: Sequence[Header]) -> _Answer:
        try:
            return await self._request(link, method, url, headers)
        except httpx.HTTPError as error:
            raise _unavailable(error) from error

    async def _request(self, link: _Link, method: str, url: httpx.URL, headers: Sequence[Header]) -> _Answer:
        """Return what the API answers; a body of more than `max_bootstrap_bytes` is an error."""
        request = httpx.Request(method, url, headers=[*headers, *ACCEPT])
        whole = False
        try:
            response = await link.transport.handle_async_request(request)
            body = await self._body(response)
            whole = True
        finally:
            if whole:
                link.used(response.extensions["network_stream"])
                self._idle.append(link)
            else:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await link.transport.aclose()
        return _Answer(response.status_code, response.headers, body)

    async def _body(self, response: httpx.Response) -> bytes:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = bytearray()
        async with aclosing(aiter(response.stream)) as chunks:  # type: ignore[type-var]  # it is a generator
            async for chunk in chunks:
                body += chunk
                if len(body) > self._max_bytes:
                    raise BackendError(f"the answer is over {self._max_bytes} bytes (max_bootstrap_bytes)")
        await response.stream.aclose()
        return bytes(body)


def _unavailable(error: httpx.HTTPError) -> Unavailable:
    reason = http_fault(error) if isinstance(error, httpx.ProtocolError) else _reason(error)
    return Unavailable(f"the API is down: {type(error).__name__}: {reason}")


def _reason(error: BaseException) -> str:
    """Return the first words on the way to the cause: what TLS said is under errors that say nothing."""
    reason: BaseException | None = error
    while reason is not None and not str(reason):
        reason = reason.__cause__ or reason.__context__
    return str(reason or "")


def _tls(settings: Settings) -> ssl.SSLContext:
    """Return the one context all connections share; without TLS one that trusts nobody."""
    if not settings.api_url.startswith("https://"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not settings.api_ca:
        return httpx.create_ssl_context(trust_env=False)
    read_small(settings.api_ca, "api_ca")  # it may be no file at all, and OpenSSL reads whatever it is to its end
    try:
        return ssl.create_default_context(cafile=settings.api_ca)
    except OSError as error:
        raise SettingsError(f"api_ca: {settings.api_ca}: {error}") from error
