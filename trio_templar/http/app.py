"""The HTTP API: an ASGI app, served on its own listener, and what its handlers get and return.

One table says which handler a method and path have; others fill it. An exception knows the status that answers it.
Who may call is decided by `http.authorization`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from trio_templar.delivery.budget import Budget
from trio_templar.errors import TemplarError
from trio_templar.http.authorization import Authorization
from trio_templar.http.body import Body, Gone, Message, Receive

Scope = Message
Send = Callable[[Message], Awaitable[None]]

# How long an answer waits for the rest of a body that its handler did not read.
LINGER_SECONDS: Final = 1.0


class UnsupportedType(TemplarError):
    """A form is no trigger."""

    status = 415


class CodedBody(UnsupportedType):
    """The body has a content coding. The answer names the one that works (RFC 9110, 12.5.3)."""

    headers = (("Accept-Encoding", "identity"),)


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
    """One answer. A caller that does not take it keeps it in memory, until its socket is given up (see `caller`)."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"text/html; charset=utf-8"  # what High-templar 2.5 says


Handler = Callable[[Request], Awaitable[Response]]


class Route(NamedTuple):
    """What answers at one method and path; a `public` route needs no token and answers pages of any host."""

    handler: Handler
    public: bool = False


Routes = dict[tuple[str, str], Route]


def text(status: int, body: str, *headers: tuple[bytes, bytes]) -> Response:
    """Return an answer in words."""
    return Response(status, body.encode(errors="replace"), headers, b"text/plain; charset=utf-8")


def json_answer(value: Any, status: int = 200) -> Response:
    """Return an answer in JSON that no cache keeps."""
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
            case _:  # ASGI allows no answer but this one to a websocket
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
        headers = [
            (b"content-type", response.content_type),
            (b"content-length", str(len(response.body)).encode()),
            *response.headers,
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    def _path_of(self, request: Request) -> str:
        """Return the path of a request for the count: that of a route, or callers could make up any number of them."""
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


async def _live(receive: Receive, send: Send) -> None:
    """Answer the lifespan protocol: there is nothing to start or stop here."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
