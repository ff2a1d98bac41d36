"""The dashboard: the files of `page_files/`, at `/` and below `/page/`.

They are the same for every caller and say nothing about this gateway. What the page shows it asks for with a token, as
any other caller of the HTTP API.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Callable, Iterator
from importlib.resources.abc import Traversable
from typing import Final
from urllib.parse import urlsplit

import msgspec
import trio

from trio_templar.http.app import Request, Response, Route, Routes

# What a browser may do on the page: run scripts from here, none that is written inline, and ask addresses here.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {}; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),  # ask each time whether it is still the same
)
# Not from the machine's own table of types: a browser runs no module of another type.
TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}


def routes(*, needs_token: Callable[[], bool], demo_url: str | None = None) -> Routes:
    """Return the page's routes for `HttpApi.routes`, read from the package now; `needs_token` is asked each time.

    With a `demo_url` (a websocket address with a port) the page has the two clients of the demo, which connect there.
    """
    files = dict(_files(importlib.resources.files("trio_templar.http") / "page_files", "/page/"))
    files["/"] = files.pop("/page/index.html")
    demo = urlsplit(demo_url) if demo_url else None
    # Any host, but one port: the page is opened under whatever name this machine has.
    policy = POLICY.format(f"'self' {demo.scheme}://*:{demo.port}" if demo else "'self'").encode()
    headers = ((b"content-security-policy", policy), *HEADERS)

    async def config(request: Request) -> Response:  # noqa: ARG001  # each caller gets the same
        await trio.lowlevel.checkpoint()
        clients = demo and {"scheme": demo.scheme, "port": demo.port, "path": demo.path}
        body = msgspec.json.encode({"needs_token": needs_token(), "demo": clients})
        return Response(200, body, headers, b"application/json")

    served = {("GET", path): _file(body, content_type, headers) for path, (body, content_type) in files.items()}
    return {**served, ("GET", "/page.json"): Route(config, public=True)}


def _files(folder: Traversable, path: str) -> Iterator[tuple[str, tuple[bytes, bytes]]]:
    """Yield path, content and type of each file in `folder` that is served."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{path}{entry.name}/")
        elif content_type := TYPES.get("." + entry.name.rpartition(".")[2]):
            yield path + entry.name, (entry.read_bytes(), content_type)


def _file(body: bytes, content_type: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> Route:
    tag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()
    headers = (*headers, (b"etag", tag))
    whole = Response(200, body, headers, content_type)
    unchanged = Response(304, b"", headers, content_type)

    async def handler(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        known = request.headers.get(b"if-none-match", b"")
        return unchanged if tag in known.replace(b"W/", b"").split(b", ") else whole

    return Route(handler, public=True)
