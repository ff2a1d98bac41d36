"""A small websocket client on any Trio stream, for `trio-templar listen` and for tests."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
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

from trio_templar.core.dialects import Since
from trio_templar.core.rooms import Room
from trio_templar.errors import Close

# A gateway's publications are far smaller: a peer that sends more is no gateway.
MAX_TEXT: Final = 2**28


class Rejected(Exception):
    """The upgrade was answered over HTTP."""

    def __init__(self, status: int, headers: Mapping[str, str], body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.headers = headers
        self.body = body


class Closed(Exception):
    """The gateway closed the websocket, with `close`; code 1006 if it sent no close frame."""

    def __init__(self, close: Close) -> None:
        super().__init__(f"{close.code} {close.reason}")
        self.close = close


class _Placed(msgspec.Struct, rename={"request_id": "requestId"}):
    """What a message says of positions."""

    at: str | None = None
    type: str = ""
    request_id: msgspec.Raw = msgspec.Raw(b"")


class WebsocketClient:
    """A small websocket client on any stream, which it owns. Answers pings while it receives.

    `positions` has up to where each subscription that asked for positions has received what its room got, by its
    requestId as JSON. A client that comes back takes over those of the connection before, and passes each as `since`:

        client.positions = before.positions
        reply = await client.subscribe(1, room, since=client.position(1))

    Where the reply has `"recovered": false`, publications are missing that must be fetched elsewhere.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.pings = 0
        self.positions: dict[str, str] = {}
        self._placed: set[str] = set()  # those that this connection has told a position, and that have not ended
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: Iterator[Event] = iter(())
        self._parts: list[str] = []
        self._size = 0
        self._half_sent = False
        self._early: deque[str] = deque()  # what came before a reply that was waited for

    async def open(
        self,
        target: str = "/ws/",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        *,
        host: str = "localhost",
    ) -> None:
        """Ask for a websocket. Raises Rejected: if the answer is not a 101. Raises Closed: if there is none."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        extra = [(name.encode(), value.encode("latin-1")) for name, value in pairs]
        await self.stream.send_all(self._protocol.send(Request(host=host, target=target, extra_headers=extra)))
        match await self._next():
            case AcceptConnection():
                return
            case RejectConnection() as rejection:
                named = {name.decode(): value.decode("latin-1") for name, value in rejection.headers}
                raise Rejected(rejection.status_code, named, await self._body())
            case event:
                raise AssertionError(f"an answer to a handshake, not {event}")

    async def send(self, message: Any) -> None:
        """Send a text (str), a binary message (bytes), or anything else as JSON text."""
        if isinstance(message, bytes):
            event: Event = BytesMessage(message)
        else:
            event = TextMessage(message if isinstance(message, str) else json.dumps(message))
        await self._send(event)

    async def _send(self, event: Event) -> None:
        try:
            await self.stream.send_all(self._protocol.send(event))
        except BaseException:  # cancelled, for one: nothing that follows half a frame can be understood
            self._half_sent = True
            raise

    async def receive_text(self) -> str:
        """Return the next text; nothing is lost if it is cancelled.

        Raises Closed: if the gateway ends the connection instead, or sends more than `MAX_TEXT`.
        """
        text = self._early.popleft() if self._early else await self._next_text()
        self._follow(text)
        return text

    async def _next_text(self) -> str:
        while True:
            match await self._next():
                case TextMessage(data=data, message_finished=finished):
                    self._parts.append(str(data))
                    self._size += len(data)
                    if self._size > MAX_TEXT:
                        raise Closed(Close(1009, f"a message of over {MAX_TEXT} characters"))
                    if finished:
                        return self._whole()
                case CloseConnection(code=code, reason=reason) as event:
                    await self._answer(event)
                    raise Closed(Close(int(code), reason or ""))
                case Ping() as ping:
                    self.pings += 1
                    await self._answer(ping)

    def _whole(self) -> str:
        text = "".join(self._parts)
        self._parts = []
        self._size = 0
        return text

    async def receive(self) -> Any:
        """Return the next message, decoded from JSON; `pong` as it is. Raises Closed: as `receive_text`."""
        text = await self.receive_text()
        return text if text == "pong" else json.loads(text)

    def position(self, request_id: Any) -> str | None:
        """Return what to pass as `since` to go on behind what this subscription has received; None if nothing did."""
        return self.positions.get(json.dumps(request_id))

    async def subscribe(self, request_id: Any, room: Room, since: Since = msgspec.UNSET) -> Any:
        """Subscribe and return the reply; `receive` returns later what came before it.

        `since` asks for positions: with None for those alone, with a position also for what came behind it. In the
        latter case the reply has `recovered`, also if the gateway is an older one, which knows nothing of it.
        """
        message = {"type": "subscribe", "requestId": request_id, "room": room}
        if isinstance(since, str):
            self.positions[json.dumps(request_id)] = since  # it still is where we are if no reply comes
        await self.send(message if since is msgspec.UNSET else {**message, "since": since})
        reply = await self._reply()
        if isinstance(since, str) and reply["code"] == "success":
            reply.setdefault("recovered", False)
        return reply

    async def unsubscribe(self, request_id: Any) -> Any:
        """Unsubscribe and return the reply, as `subscribe`."""
        await self.send({"type": "unsubscribe", "requestId": request_id})
        reply = await self._reply()
        self._placed.discard(json.dumps(request_id))
        return reply

    async def _reply(self) -> Any:
        while True:
            text = await self._next_text()
            if text != "pong" and "code" in (message := json.loads(text)):
                self._follow(text)
                return message
            self._early.append(text)

    def _follow(self, text: str) -> None:
        """Note the position that a message has, once it is handed on."""
        if '"at": "' not in text and '"unsubscribed"' not in text:
            return
        with suppress(msgspec.MsgspecError, RecursionError):
            placed = msgspec.json.decode(text, type=_Placed)
            if placed.type == "unsubscribed":
                self._placed.discard(bytes(placed.request_id).decode())
            if placed.at is None:
                return
            if placed.type == "position":  # of one that this connection has told none yet, or ended, it says nothing
                self.positions.update(dict.fromkeys(self._placed, placed.at))
                return
            request_id = bytes(placed.request_id).decode()
            self._placed.add(request_id)
            self.positions[request_id] = placed.at

    async def aclose(self, code: int = 1000) -> None:
        """Say goodbye, wait for the answer without a deadline, and close the stream, also if this is cancelled.

        After a message that was sent by half there is no goodbye.
        """
        try:
            if self._protocol.state is ConnectionState.OPEN and not self._half_sent:
                await self._send(CloseConnection(code=code))
                while True:
                    await self.receive_text()
        except (Closed, trio.BrokenResourceError):
            pass
        finally:
            await self.stream.aclose()

    async def _answer(self, event: Ping | CloseConnection) -> None:
        """Answer, unless we have said goodbye; if it cannot arrive, the next read says why."""
        if self._protocol.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            with suppress(trio.BrokenResourceError):
                await self._send(event.response())

    async def _body(self) -> str:
        body = b""
        while isinstance(event := await self._next(), RejectData):
            body += event.data
            if event.body_finished:
                break
        return body.decode(errors="replace")  # a proxy answers as it likes

    async def _next(self) -> Event:
        """Return the next event."""
        # One by one: with each that is taken wsproto changes its state, and in that after a close it answers no ping.
        while (event := next(self._events, None)) is None:
            try:
                data = await self.stream.receive_some(65_536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            try:
                self._protocol.receive_data(bytes(data) or None)
            except RemoteProtocolError as error:  # no HTTP at all, or nothing
                raise Closed(Close(1006, str(error))) from error
            self._events = self._protocol.events()
        return event
