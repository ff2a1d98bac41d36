"""What a program with a gateway inside tests with: a gateway on memory streams, a fake backend, a client.

    async with open_gateway() as house:
        client = await house.connect()
        assert await client.receive() == {"allowed_rooms": []}

Nothing here opens a socket, so all of it runs under `trio.testing.MockClock`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from trio_templar.backend import Bootstrap
from trio_templar.errors import Close
from trio_templar.forwarding import ClientRequest
from trio_templar.gateway import Gateway, serve
from trio_templar.hooks import Hooks
from trio_templar.rooms import Room
from trio_templar.settings import Settings

StreamPair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


class FakeBackend:
    """A bootstrap callable: admits everybody to `allowed_rooms` after `seconds`, or raises `error`.

    `requests` has what clients asked with, in order; `answer` is merged into what is answered.
    """

    def __init__(self, allowed_rooms: Sequence[Room] = ()) -> None:
        self.allowed_rooms = list(allowed_rooms)
        self.answer: dict[str, Any] = {}
        self.seconds = 0.0
        self.error: Exception | None = None
        self.requests: list[ClientRequest] = []

    async def __call__(self, request: ClientRequest) -> Mapping[str, Any]:
        """Answer one bootstrap."""
        self.requests.append(request)
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return {"allowed_rooms": self.allowed_rooms, **self.answer}


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener whose clients are in this program; `connect` gives the client's end of a stream."""

    def __init__(self, make_pair: StreamPair = trio.testing.memory_stream_pair) -> None:
        self._make_pair = make_pair
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](1000)

    def connect(self, make_pair: StreamPair | None = None) -> trio.abc.Stream:
        """Return a new client stream; its other end waits to be accepted."""
        ours, theirs = (make_pair or self._make_pair)()
        self._send.send_nowait(theirs)
        return ours

    async def accept(self) -> trio.abc.Stream:
        """Return the other end of the next stream."""
        return await self._receive.receive()

    async def aclose(self) -> None:
        """Accept no more."""
        self._send.close()
        self._receive.close()
        await trio.lowlevel.checkpoint()


class Rejected(Exception):
    """The upgrade was answered over HTTP."""

    def __init__(self, status: int, headers: Mapping[str, str], body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.headers = headers
        self.body = body


class Closed(Exception):
    """The gateway closed the websocket, with `close`; code 1006 where it did so without a close frame."""

    def __init__(self, close: Close) -> None:
        super().__init__(f"{close.code} {close.reason}")
        self.close = close


class WebsocketClient:
    """A small websocket client on any stream, which it owns. Answers pings while it receives."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.pings = 0
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    async def open(self, target: str = "/ws/", headers: Mapping[str, str] | None = None) -> None:
        """Ask for a websocket. Raises Rejected: if the answer is not a 101. Raises Closed: if there is none."""
        extra = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        await self.stream.send_all(self._protocol.send(Request(host="testserver", target=target, extra_headers=extra)))
        match await self._next():
            case AcceptConnection():
                return
            case RejectConnection() as rejection:
                named = {name.decode(): value.decode() for name, value in rejection.headers}
                raise Rejected(rejection.status_code, named, await self._body())
            case event:
                raise AssertionError(f"an answer to a handshake, not {event}")

    async def send(self, message: Any) -> None:
        """Send a text (str), a binary message (bytes), or anything else as JSON text."""
        if isinstance(message, bytes):
            event: Event = BytesMessage(message)
        else:
            event = TextMessage(message if isinstance(message, str) else json.dumps(message))
        await self.stream.send_all(self._protocol.send(event))

    async def receive_text(self) -> str:
        """Return the next text. Raises Closed: if the gateway ends the connection instead."""
        parts: list[str] = []
        while True:
            match await self._next():
                case TextMessage(data=data, message_finished=finished):
                    parts.append(str(data))
                    if finished:
                        return "".join(parts)
                case CloseConnection(code=code, reason=reason) as event:
                    await self._echo(event)
                    raise Closed(Close(int(code), reason or ""))
                case Ping() as ping:
                    self.pings += 1
                    await self.stream.send_all(self._protocol.send(ping.response()))

    async def receive(self) -> Any:
        """Return the next message, decoded from JSON; `pong` as it is. Raises Closed: as `receive_text`."""
        text = await self.receive_text()
        return text if text == "pong" else json.loads(text)

    async def subscribe(self, request_id: Any, room: Room) -> Any:
        """Subscribe and return the reply."""
        await self.send({"type": "subscribe", "requestId": request_id, "room": room})
        return await self.receive()

    async def unsubscribe(self, request_id: Any) -> Any:
        """Unsubscribe and return the reply."""
        await self.send({"type": "unsubscribe", "requestId": request_id})
        return await self.receive()

    async def aclose(self, code: int = 1000) -> None:
        """Say goodbye and wait for the answer."""
        await self.stream.send_all(self._protocol.send(CloseConnection(code=code)))
        try:
            while True:
                await self.receive_text()
        except Closed:
            await self.stream.aclose()

    async def _echo(self, event: CloseConnection) -> None:
        if event.code != 1006 and self._protocol.state.name == "REMOTE_CLOSING":
            with suppress(trio.BrokenResourceError):
                await self.stream.send_all(self._protocol.send(event.response()))

    async def _body(self) -> str:
        body = b""
        while isinstance(event := await self._next(), RejectData):
            body += event.data
            if event.body_finished:
                break
        return body.decode()

    async def _next(self) -> Event:
        while not self._events:
            try:
                data = await self.stream.receive_some(65_536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            try:
                self._protocol.receive_data(bytes(data) or None)
            except RemoteProtocolError as error:  # no HTTP at all, or nothing
                raise Closed(Close(1006, str(error))) from error
            self._events.extend(self._protocol.events())
        return self._events.pop(0)


@dataclass
class House:
    """A running gateway on memory streams, its backend, and the door to it."""

    gateway: Gateway
    backend: FakeBackend
    listener: MemoryListener
    served: trio.Event = field(default_factory=trio.Event)

    async def connect(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        target: str = "/ws/",
        make_pair: StreamPair | None = None,
    ) -> WebsocketClient:
        """Return a client with an open websocket. Raises Rejected: if it is not let in."""
        client = WebsocketClient(self.listener.connect(make_pair))
        try:
            await client.open(target, headers)
        except (Rejected, Closed):
            await trio.aclose_forcefully(client.stream)
            raise
        return client

    async def subscriber(self, request_id: Any, room: Room) -> WebsocketClient:
        """Return a client that is subscribed to `room`, past its welcome and the reply."""
        client = await self.connect()
        await client.receive()
        reply = await client.subscribe(request_id, room)
        assert reply["code"] == "success", reply
        return client


@asynccontextmanager
async def open_gateway(
    settings: Settings | None = None,
    *,
    backend: FakeBackend | None = None,
    bootstrap: Bootstrap | None = None,
    hooks: Hooks | None = None,
) -> AsyncIterator[House]:
    """Run a gateway that only memory streams reach (unless `settings` bind more); it is cancelled at the end.

    Who may enter is what `bootstrap` says, or else `backend`; without either, nobody may enter any room.
    """
    settings = settings or Settings(bind=(), trigger_bind="")
    backend = backend or FakeBackend()
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        run = partial(serve, settings, bootstrap=bootstrap or backend, hooks=hooks, listeners=[listener])
        served = trio.Event()

        async def run_to_the_end(*, task_status: trio.TaskStatus[Gateway]) -> None:
            await run(task_status=task_status)
            served.set()

        gateway = await nursery.start(run_to_the_end)
        yield House(gateway, backend, listener, served)
        nursery.cancel_scope.cancel()
