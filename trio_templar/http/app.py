"""The HTTP API: an ASGI app, served on its own listener. What an answer looks like.

One table says which handler a method and path have; others fill it. An exception knows the status that answers it.
Who may call is decided by `http.authorization`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import trio

from trio_templar.delivery.budget import Budget
from trio_templar.errors import Busy, TemplarError, TooLarge
from trio_templar.http.authorization import Authorization

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# How long an answer waits for the rest of a body that nobody needs.
LINGER_SECONDS: Final = 1.0


class UnsupportedType(TemplarError):
    """A form is no trigger."""

    status = 415


class CodedBody(UnsupportedType):
    """The body has a content coding. The answer names the one that works (RFC 9110, 12.5.3)."""

    headers = (("Accept-Encoding", "identity"),)


class TooSlow(TemplarError):
    """The body did not come in time."""

    status = 408


class Gone(TemplarError):
    """The caller left; nobody is to be answered."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the HTTP API; header names are lower case, `query` is as it came, `peer` is the address."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: Body
    query: bytes = b""
    peer: str = ""

    @property
    def content_type(self) -> bytes:
        """The media type alone, lower case; empty where there is none."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. A caller that does not take it holds it, until its socket is given up (see `caller`)."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"text/html; charset=utf-8"  # what High-templar 2.5 says


Handler = Callable[[Request], Awaitable[Response]]


class Route(NamedTuple):
    """Who answers at one method and path; `public` routes need no token and answer pages of any host."""

    handler: Handler
    public: bool = False


Routes = dict[tuple[str, str], Route]


def text(status: int, body: str, *headers: tuple[bytes, bytes]) -> Response:
    """Return an answer in words."""
    return Response(status, body.encode(errors="replace"), headers, b"text/plain; charset=utf-8")


def json_answer(value: Any, status: int = 200) -> Response:
    """Return an answer in JSON that nobody keeps."""
    headers = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
    return Response(status, msgspec.json.encode(value), headers, b"application/json")


def route_of(method: str, path: str, handler: Handler, *, public: bool = False) -> Routes:
    """Return the route of `path`, with and without a last slash."""
    return {(method, path): Route(handler, public), (method, f"{path}/"): Route(handler, public)}


class HttpApi:
    """The ASGI app. `routes` are filled before it is served."""

    def __init__(self, authorization: Authorization, *, max_bytes: int, body_seconds: float, budget: Budget) -> None:
        self._authorization = authorization
        self._budget = budget
        self._max_bytes = max_bytes
        self._body_seconds = body_seconds
        self.routes: Routes = {}
        self.answers: Counter[tuple[str, int]] = Counter()  # by path (of a route) and status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        match scope["type"]:
            case "http":
                headers = joined(scope["headers"])
                body = Body(receive, headers, self._max_bytes, self._body_seconds, self._budget)
                peer = (scope.get("client") or [""])[0]
                request = Request(scope["method"], scope["path"], headers, body, scope["query_string"], peer)
                try:
                    await self._answer(request, send)
                finally:
                    body.release()
            case "lifespan":
                await _live(receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, request: Request, send: Send) -> None:
        try:
            response = await self._route(request)
        except Gone:
            return
        except TemplarError as error:
            response = _failure(error)
        self.answers[self._path_of(request), response.status] += 1
        if not request.body.hopeless:
            await request.body.discard(LINGER_SECONDS)
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [
                    (b"content-type", response.content_type),
                    (b"content-length", str(len(response.body)).encode()),
                    *response.headers,
                ],
            }
        )
        await send({"type": "http.response.body", "body": response.body})

    def _path_of(self, request: Request) -> str:
        """Return the path of a request for the count: nobody can make up new ones."""
        known = (request.method, request.path) in self.routes or any(path == request.path for _, path in self.routes)
        return (request.path.rstrip("/") or "/") if known else "other"

    async def _route(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method  # RFC 9110, 9.3.2; the server omits the content
        route = self.routes.get((method, request.path))
        if route is not None:
            if not route.public:
                await self._authorization.check(request.headers, request.peer)
            if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise CodedBody("no Content-Encoding but identity")
            return await route.handler(request)
        allowed = sorted({method for method, path in self.routes if path == request.path})
        if "GET" in allowed:
            allowed.insert(allowed.index("GET") + 1, "HEAD")
        if allowed:
            return text(405, "method not allowed", (b"allow", ", ".join(allowed).encode()))
        return text(404, "nothing here")


def joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return `headers` by name, values of repeated ones as one list (RFC 9110, 5.3)."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        found[name] = found[name] + b", " + value if name in found else value
    return found


def _failure(error: TemplarError) -> Response:
    """Return the answer to `error`. Raises `error`: if it is a fault of ours; the server logs it and answers 500."""
    if error.status == TemplarError.status:
        raise error
    # ASGI has names in lower case.
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers]
    return text(error.status, str(error), *headers)


class Body:
    """The body of one request, read once, bounded in bytes and in seconds: as a whole, or for each of its lines.

    What is held of it counts in the budget until `release`: it may wait there as a trigger.
    """

    def __init__(
        self, receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int, seconds: float, budget: Budget
    ) -> None:
        self._receive = receive
        self._budget = budget
        self._held = 0
        # Whether the caller sends nothing before it is asked to: who is refused anyway is not asked (RFC 9110, 10.1.1).
        self._waits_for_us = headers.get(b"expect", b"").lower() == b"100-continue"
        announced = headers.get(b"content-length", b"")
        self._announced = int(announced) if announced.isdigit() else 0
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._line = bytearray()
        self._more = True
        self.hopeless = False  # whether it is known to be too long to wait for its end

    async def whole(self) -> bytes:
        """Return the body: when its announced length is there, or it has ended.

        Raises TooLarge: if it is, but not before it is read unless its length was announced.
        Raises TooSlow: if it does not come in time. Raises Gone: if the caller leaves.
        Raises Busy: if too many bytes of such are held already.
        """
        if self._announced > self._max_bytes:
            self.hopeless = True
            raise self._too_large()
        body: bytes | bytearray = b""
        size = 0
        with trio.move_on_after(self._seconds) as scope:
            while self._more and not 0 < self._announced <= size:
                chunk = await self._next()
                size += len(chunk)
                if size > self._max_bytes:
                    continue  # read on, for the answer to arrive
                self._hold(size)
                if not body:
                    body = chunk  # mostly it is all
                elif chunk:
                    body = bytearray(body) if isinstance(body, bytes) else body
                    body += chunk
        if scope.cancelled_caught:
            raise self._too_slow("the body")
        if size > self._max_bytes:
            raise self._too_large()
        return bytes(body)

    async def lines(self) -> list[bytes]:
        """Return the next lines that are there, at least one; none at the end.

        Raises TooLarge, TooSlow, Busy or Gone: as `whole`, for one line.
        """
        with trio.move_on_after(self._seconds) as scope:
            while self._more:
                chunk = await self._next()
                self._hold(len(self._line) + len(chunk))
                self._line += chunk
                if b"\n" in chunk:
                    *lines, self._line = self._line.split(b"\n")
                    return [bytes(line) for line in lines]
                if len(self._line) > self._max_bytes:
                    break  # no need of its end: it is refused
        if scope.cancelled_caught:
            raise self._too_slow("the line")
        last, self._line = bytes(self._line), bytearray()
        return [last] if last else []

    def check(self, line: bytes) -> None:
        """Raise TooLarge: if `line` is."""
        if len(line) > self._max_bytes:
            raise self._too_large()

    async def discard(self, seconds: float) -> None:
        """Read what is left for so long: an answer before the end of a body can be lost to a reset."""
        if self._more and not self._waits_for_us:
            with trio.move_on_after(seconds), contextlib.suppress(Gone):
                while self._more:
                    await self._next()

    def release(self) -> None:
        """Hold nothing more."""
        self._hold(0)

    def _hold(self, size: int) -> None:
        """Count `size` bytes as held now. Raises Busy: if there is no room for them."""
        if size > self._held and not self._budget.fits_arriving(size - self._held, self._held):
            raise Busy("the gateway is full (memory_bytes)")
        self._budget.arriving_bytes += size - self._held
        self._held = size

    async def _next(self) -> bytes:
        self._waits_for_us = False
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._more = False
            raise Gone
        self._more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    def _too_slow(self, what: str) -> TooSlow:
        return TooSlow(f"{what} did not come within {self._seconds:g} s (http_body_seconds)")

    def _too_large(self) -> TooLarge:
        return TooLarge(f"over {self._max_bytes} bytes (max_trigger_bytes)")


async def _live(receive: Receive, send: Send) -> None:
    """Answer the lifespan protocol: there is nothing to start or stop here."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
