"""Whole conversations of clients that know nothing of positions, byte for byte as before there were any.

Beside them, in the same rooms, are clients that ask for positions, come back with them and get what they missed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MemorySendStream, MockClock, memory_stream_one_way_pair

from tests.unit.conftest import CAR, RIDE, quiet, settled
from trio_templar.clients.selection import Selection
from trio_templar.core.policies import RoomPolicy
from trio_templar.core.rooms import room_key
from trio_templar.testing import FakeBackend, MemoryGateway, open_gateway

NEWS = {"target": "news"}
LONG = "x" * 300
HANDSHAKE = (
    b"GET /ws/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
NO_ID = b"00000000-0000-0000-0000-000000000000"
PING, PONG, CLOSE = b"\x89\x80\0\0\0\0", b"\x8a\x80\0\0\0\0", b"\x88\x82\0\0\0\0\x03\xf4"


def subscribe(request_id: Any, room: Any, **more: Any) -> str:
    return json.dumps({"type": "subscribe", "requestId": request_id, "room": room, **more})


def masked(text: str) -> bytes:
    """Return a text frame of a client, masked with zeros."""
    payload = text.encode()
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2)
    return b"\x81" + size + bytes(4) + payload


class Old:
    """A client without positions: the bytes it was sent."""

    def __init__(self, running: MemoryGateway) -> None:
        self._way_in, receive = memory_stream_one_way_pair()
        self._way_out = MemorySendStream()
        theirs = trio.StapledStream(self._way_out, receive)
        running.listener.connect(lambda: (theirs, theirs))
        self.data = b""

    async def send(self, data: bytes) -> None:
        await self._way_in.send_all(data)
        await self.read()

    async def read(self) -> None:
        """Take what there is, once nothing more comes."""
        await settled()
        with suppress(trio.WouldBlock):
            self.data += self._way_out.get_data_nowait()


class Companions:
    """Clients in the same rooms with a `since`: null, nonsense, or (`first`) the first position that one was told."""

    def __init__(self, running: MemoryGateway, sinces: Sequence[str]) -> None:
        self._running = running
        self._sinces = sinces
        self.replies: list[dict[str, Any]] = []

    async def join(self) -> None:
        """Let one more come for each since, to all rooms, and subscribe once more to one of them."""
        ats = [reply["at"] for reply in self.replies if "at" in reply]
        for since in self._sinces:
            position = {"null": None, "nonsense": "nonsense", "first": ats[0] if ats else None}[since]
            client = await self._running.connect()
            await client.receive()
            for request_id, room in ((1, CAR), ("b", RIDE), (3, NEWS), (1, CAR)):
                await client.send(subscribe(request_id, room, since=position))
                while "code" not in (message := await client.receive()):
                    pass
                self.replies.append(message)


async def converse(running: MemoryGateway, companions: Companions) -> bytes:
    """Return what one client hears of all that can be said to it."""
    publish = running.gateway.publish_nowait
    await companions.join()
    client = Old(running)
    await client.send(HANDSHAKE)
    for text in (
        "ping",
        subscribe(1, CAR),
        subscribe(1, CAR),
        subscribe(1, RIDE),
        subscribe("é", NEWS),
        subscribe(2, {"target": "none"}),
        subscribe(2, 1),
        '{"type": "subscribe"}',
        '{"type": "status"}',
        "{",
    ):
        await client.send(masked(text))
    await companions.join()
    publish([CAR], 1)
    await client.read()
    publish([CAR], {"é": LONG})
    await client.read()
    publish([CAR, RIDE, CAR], "twice")
    await client.read()
    for number in range(4):  # without a turn in between: all but the first wait, and the last takes their place
        publish([NEWS], number)
    await client.read()
    await companions.join()
    await client.send(masked('{"type": "unsubscribe", "requestId": 1}'))
    await client.send(masked('{"type": "unsubscribe", "requestId": 1}'))
    publish([CAR], "not heard")
    await client.send(masked(subscribe(3.5, CAR)))
    publish([CAR, NEWS], None)
    await client.send(PING)
    await running.gateway.unsubscribe(Selection(room=room_key(CAR)), reason="over")
    publish([CAR], "not heard")
    await companions.join()
    await client.send(PONG)
    publish([NEWS], "last")
    running.gateway.stop()
    await client.read()
    await client.send(CLOSE)
    return re.sub(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", NO_ID, client.data)


# As it was before there were positions, but for the ids of connections.
HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n"
    b"\r\n"
)
GOLDEN = {
    "2": HEAD
    + b'\x81N{"allowed_rooms": [{"target": "car"}, {"target": "ride"}, {"target": "news"}]}'
    + b"\x81\x04pong"
    + b'\x81#{"requestId": 1, "code": "success"}'
    + b'\x81#{"requestId": 1, "code": "success"}'
    + b'\x81A{"requestId": 1, "code": "error", "message": "request-id-in-use"}'
    + b'\x81*{"requestId": "\\u00e9", "code": "success"}'
    + b'\x81>{"requestId": 2, "code": "error", "message": "room-not-found"}'
    + b'\x81<{"requestId": 2, "code": "error", "message": "invalid-room"}'
    + b'\x81@{"requestId": null, "code": "error", "message": "no-request-id"}'
    + b'\x81K{"requestId": null, "code": "error", "message": "message-type-not-allowed"}'
    + b'\x81C{"requestId": null, "code": "error", "message": "non-json-message"}'
    + b'\x81.{"requestId": 1, "type": "publish", "data": 1}'
    + b'\x81~\x01b{"requestId": 1, "type": "publish", "data": {"\xc3\xa9":"'
    + LONG.encode()
    + b'"}}'
    + b'\x814{"requestId": 1, "type": "publish", "data": "twice"}'
    + b'\x814{"requestId": 1, "type": "publish", "data": "twice"}'
    + b'\x815{"requestId": "\\u00e9", "type": "publish", "data": 0}'
    + b'\x811{"type": "gap", "requestId": "\\u00e9", "lost": 2}'
    + b'\x815{"requestId": "\\u00e9", "type": "publish", "data": 3}'
    + b'\x81#{"requestId": 1, "code": "success"}'
    + b'\x81>{"requestId": 1, "code": "error", "message": "not-subscribed"}'
    + b'\x81%{"requestId": 3.5, "code": "success"}'
    + b'\x813{"requestId": 3.5, "type": "publish", "data": null}'
    + b'\x818{"requestId": "\\u00e9", "type": "publish", "data": null}'
    + b"\x8a\x00"
    + b'\x81<{"type": "unsubscribed", "requestId": 3.5, "reason": "over"}'
    + b'\x81:{"requestId": "\\u00e9", "type": "publish", "data": "last"}'
    + b"\x88\x19\x03\xf4the gateway is stopping",
    "3": HEAD
    + b'\x81e{"is_authorized": true, "allowed_rooms": [{"target": "car"}, {"target": "ride"}, {"target": "news"}]}'
    + b"\x81\x04pong"
    + b'\x81\x13{"code": "success"}'
    + b'\x81\x13{"code": "success"}'
    + b'\x811{"code": "error", "message": "request-id-in-use"}'
    + b'\x81\x13{"code": "success"}'
    + b'\x81.{"code": "error", "message": "room-not-found"}'
    + b'\x81,{"code": "error", "message": "invalid-room"}'
    + b'\x81-{"code": "error", "message": "no-request-id"}'
    + b'\x81m{"requestId": "%b", "code": "error", "message": "message-type-not-allowed"}' % NO_ID
    + b'\x81e{"requestId": "%b", "code": "error", "message": "non-json-message"}' % NO_ID
    + b'\x81.{"type": "publish", "data": 1, "requestId": 1}'
    + b'\x81~\x01b{"type": "publish", "data": {"\xc3\xa9":"'
    + LONG.encode()
    + b'"}, "requestId": 1}'
    + b'\x814{"type": "publish", "data": "twice", "requestId": 1}'
    + b'\x814{"type": "publish", "data": "twice", "requestId": 1}'
    + b'\x815{"type": "publish", "data": 0, "requestId": "\\u00e9"}'
    + b'\x811{"type": "gap", "requestId": "\\u00e9", "lost": 2}'
    + b'\x815{"type": "publish", "data": 3, "requestId": "\\u00e9"}'
    + b'\x81\x13{"code": "success"}'
    + b'\x81.{"code": "error", "message": "not-subscribed"}'
    + b'\x81\x13{"code": "success"}'
    + b'\x813{"type": "publish", "data": null, "requestId": 3.5}'
    + b'\x818{"type": "publish", "data": null, "requestId": "\\u00e9"}'
    + b"\x8a\x00"
    + b'\x81<{"type": "unsubscribed", "requestId": 3.5, "reason": "over"}'
    + b'\x81:{"type": "publish", "data": "last", "requestId": "\\u00e9"}'
    + b"\x88\x19\x03\xf4the gateway is stopping",
}


@pytest.mark.parametrize("dialect", ["2", "3"])
@pytest.mark.parametrize("history", [{}, {"history_seconds": 0}, {"history_seconds": 1, "history_bytes": 600}], ids=str)
@pytest.mark.parametrize("sinces", [(), ("null",), ("first",), ("nonsense",), ("null", "first", "nonsense")], ids=str)
async def test_a_client_without_since_gets_the_bytes_it_always_got(
    dialect: Any, history: dict[str, Any], sinces: Sequence[str], autojump_clock: MockClock
) -> None:
    policies = [RoomPolicy(match=NEWS, policy="conflate")]
    settings = quiet(dialect=dialect, room_policy=policies, **history)
    async with open_gateway(settings, backend=FakeBackend([CAR, RIDE, NEWS])) as running:
        companions = Companions(running, sinces)
        assert await converse(running, companions) == GOLDEN[dialect]
    told = [reply.get("recovered") for reply in companions.replies]
    assert told.count(True) > 5 or "first" not in sinces or history, "they did get what they missed"
