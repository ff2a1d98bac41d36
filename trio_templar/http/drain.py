"""`POST /drain/`: SIGTERM for those who cannot send one."""

from __future__ import annotations

from collections.abc import Callable

from trio_templar.errors import RequestError
from trio_templar.http.app import Request, Response, Routes, json_answer, route_of


def drain_routes(drain: Callable[[], None]) -> Routes:
    """Return the routes that call `drain`, which returns at once; the answer is on its way before anything ends."""

    async def answer(request: Request) -> Response:
        if (await request.body.whole()).strip() not in (b"", b"{}"):
            raise RequestError("a drain takes no options; send no body, or {}")
        drain()
        return json_answer({"draining": True})

    return route_of("POST", "/drain", answer)
