"""POST to AMQP: passes each body on to the exchange that High-templar 3 listens to, then answers."""

# mypy: disable-error-code="import-not-found,import-untyped,misc,untyped-decorator,unused-ignore"
# What it imports is installed where it runs, not where it is checked.

import asyncio
import re

import aio_pika
from aio_pika.abc import AbstractExchange

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def publisher(exchange: AbstractExchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one keep-alive HTTP connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            await exchange.publish(aio_pika.Message(body), routing_key="*", mandatory=False)
            writer.write(_ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Serve until killed; print the port."""
    connection = await aio_pika.connect("amqp://guest:guest@127.0.0.1/")
    channel = await connection.channel(publisher_confirms=False)
    exchange = await channel.declare_exchange("hightemplar", aio_pika.ExchangeType.DIRECT)
    server = await asyncio.start_server(lambda *streams: publisher(exchange, *streams), "127.0.0.1", 0)
    print("ready", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
