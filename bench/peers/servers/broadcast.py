"""A server made of the `websockets` package: clients of one path are a room, a POST to the same path is broadcast.

The package serves no POST, so triggers come in over a second, minimal HTTP server on the same event loop.
"""

import asyncio
import re
from collections import defaultdict

from websockets.asyncio.server import ServerConnection, broadcast, serve

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\npublish success"

rooms: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def subscriber(connection: ServerConnection) -> None:
    """Keep one client in the room its path names; the first frame says that it is there."""
    assert connection.request is not None
    room = rooms[connection.request.path]
    room.add(connection)
    try:
        await connection.send("joined")
        await connection.wait_closed()
    finally:
        room.discard(connection)


async def publisher(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one keep-alive HTTP connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            broadcast(rooms[head.split()[1]], body.decode())
            writer.write(_ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Serve both until killed; print the ports."""
    websockets = await serve(
        subscriber, "127.0.0.1", 0, compression=None, ping_interval=None, open_timeout=60, backlog=4096
    )
    http = await asyncio.start_server(publisher, "127.0.0.1", 0)
    ports = [next(iter(server.sockets)).getsockname()[1] for server in (websockets, http)]
    print("ready", *ports, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
