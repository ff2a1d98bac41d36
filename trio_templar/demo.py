"""`--demo`: an API inside the gateway, and a page that shows what a gateway does.

The page's websockets go to the gateway's own address and its button to `/trigger/`: nothing about them is special.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import trio

from trio_templar.errors import Refused
from trio_templar.forwarding import ClientRequest
from trio_templar.http_api import Request, Response, Route, Routes
from trio_templar.rooms import Room

# Who may enter what. The token of a real user would be a secret; these are their names.
USERS: Final[Mapping[str, Sequence[Room]]] = {
    "ada": [{"target": "news"}, {"target": "car", "car": "*"}],
    "grace": [{"target": "news"}, {"target": "car", "car": 2}],
}

FILES: Final = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/demo.js": ("demo.js", b"text/javascript; charset=utf-8"),
    "/demo.css": ("demo.css", b"text/css; charset=utf-8"),
    "/demo.svg": ("demo.svg", b"image/svg+xml"),
}


async def bootstrap(request: ClientRequest) -> Mapping[str, Any]:
    """Answer what an API answers to `GET bootstrap/`; `?token=` says who asks.

    Raises Refused: if that is nobody we know.
    """
    await trio.lowlevel.checkpoint()
    name = (request.param("token") or b"").decode()
    if name not in USERS:
        raise Refused(401)
    return {"user": {"id": name}, "allowed_rooms": USERS[name]}


def routes(websocket_urls: Iterable[str], *, needs_token: bool) -> Routes:
    """Return the page's routes for `HttpApi.routes`; the page connects to the first of `websocket_urls` with a port."""
    websocket = next(url for url in map(urlsplit, websocket_urls) if url.port)
    folder = importlib.resources.files("trio_templar") / "demo_page"
    config = {"port": websocket.port, "path": websocket.path, "needs_token": needs_token}
    answers = {path: ((folder / name).read_bytes(), content_type) for path, (name, content_type) in FILES.items()}
    answers["/demo.json"] = msgspec.json.encode(config), b"application/json"
    headers = _headers(f"ws://*:{websocket.port}")
    return {
        ("GET", path): _always(Response(200, body, headers, content_type))
        for path, (body, content_type) in answers.items()
    }


def _headers(websockets: str) -> tuple[tuple[bytes, bytes], ...]:
    # Any host, but one port: the page is opened under whatever name this machine has.
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' {websockets}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return (
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
    )


def _always(response: Response) -> Route:
    async def handler(request: Request) -> Response:  # noqa: ARG001  # the same to everybody
        await trio.lowlevel.checkpoint()
        return response

    return Route(handler, public=True)
