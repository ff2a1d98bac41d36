"""A Socket.IO server: the query of a client names its room, `POST /trigger/ROOM` emits the body there."""

# mypy: disable-error-code="import-not-found,import-untyped,misc,untyped-decorator,unused-ignore"
# What it imports is installed where it runs, not where it is checked.

import json
from typing import Any
from urllib.parse import parse_qs

import socketio
import uvicorn

# No pings during a run: they would count as work of the publications.
server = socketio.AsyncServer(async_mode="asgi", ping_interval=3600, transports=["websocket"])
websockets = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    """Put a new client into its room."""
    await server.enter_room(sid, parse_qs(environ["QUERY_STRING"])["room"][0])


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer triggers; everything else is Socket.IO's."""
    if scope["type"] != "http" or not scope["path"].startswith("/trigger/"):
        await websockets(scope, receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await server.emit("publish", json.loads(body), room=scope["path"].removeprefix("/trigger/"))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"15")]})
    await send({"type": "http.response.body", "body": b"publish success"})


if __name__ == "__main__":
    uvicorn.run(
        application,
        port=0,
        backlog=4096,
        access_log=False,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
    )
