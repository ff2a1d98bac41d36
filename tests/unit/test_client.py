"""The client of the commands and of tests: what it answers, and how it ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, Pong, Request, TextMessage

from tests.unit.conftest import CAR, RIDE, quiet
from trio_templar import Close
from trio_templar.client import Closed, Rejected, WebsocketClient
from trio_templar.testing import FakeBackend, open_gateway


class Scripted:
    """A server that says what a test has it say, all of it in one write, and remembers what it is told."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.heard: list[Event] = []
        self._protocol = WSConnection(ConnectionType.SERVER)

    async def say(self, *events: Event) -> None:
        await self.stream.send_all(b"".join(map(self._protocol.send, events)))

    async def hear(self) -> None:
        """Take what comes until there is no more."""
        with suppress(trio.ClosedResourceError):
            while data := await self.stream.receive_some():
                self._protocol.receive_data(bytes(data))
                self.heard += self._protocol.events()


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[Scripted, WebsocketClient]]:
    """A server past the upgrade that goes on hearing, and its client; what waits for more than 100 s has failed."""
    ours, theirs = trio.testing.memory_stream_pair()
    server, client = Scripted(theirs), WebsocketClient(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.open)
        server._protocol.receive_data(bytes(await theirs.receive_some()))
        assert isinstance(next(server._protocol.events()), Request)
        await server.say(AcceptConnection())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.hear)
        with trio.fail_after(100):  # noqa: ASYNC100  # the test waits
            yield server, client
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_ping_and_the_close_in_one_read_are_both_answered(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        await server.say(Ping(b"there?"), CloseConnection(1012, "stopping"))
        with pytest.raises(Closed) as caught:
            await client.receive_text()
        assert caught.value.close == Close(1012, "stopping")
        await client.aclose()
    assert server.heard == [Pong(b"there?"), CloseConnection(1012, "stopping")]


async def test_a_ping_that_comes_while_it_closes_is_not_answered(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        await server.say(Ping(b"there?"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose, 1001)
            await trio.testing.wait_all_tasks_blocked()
            await server.say(CloseConnection(1001))
    assert server.heard == [CloseConnection(1001, "")]


async def test_a_websocket_that_is_closed_can_be_closed(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        await server.say(CloseConnection(1013))
        with pytest.raises(Closed):
            await client.receive_text()
        await client.aclose()
        await client.aclose()
    assert server.heard == [CloseConnection(1013, "")]


async def test_a_goodbye_that_is_cancelled_closes_the_stream(autojump_clock: MockClock) -> None:
    async with scripted() as (_, client):
        with trio.move_on_after(1) as scope:
            await client.aclose()
        assert scope.cancelled_caught
        with pytest.raises(trio.ClosedResourceError):
            await client.stream.send_all(b"x")


async def test_a_goodbye_to_one_who_has_left_is_none(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        await server.stream.aclose()
        await client.aclose()


async def test_a_ping_that_nobody_waits_for_does_not_hide_the_close(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        await server.say(Ping(), CloseConnection(1012))
        await server.stream.aclose()
        with pytest.raises(Closed) as caught:
            await client.receive_text()
        assert caught.value.close.code == 1012


async def test_what_is_no_websocket_frame_is_told_so(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        await server.stream.send_all(b"\x83\x00")
        with pytest.raises(Closed) as caught:
            await client.receive_text()
        assert caught.value.close.code == 1002
        await client.aclose()
    (heard,) = server.heard
    assert isinstance(heard, CloseConnection)
    assert heard.code == 1002


async def test_a_header_can_be_given_twice_and_a_rejection_be_in_any_encoding(autojump_clock: MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    server, client = Scripted(theirs), WebsocketClient(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, b"HTTP/1.1 502 x\r\nX-Why: f\xfcr\r\nContent-Length: 7\r\n\r\nf\xfcr uns")
        with pytest.raises(Rejected) as caught:
            await client.open(headers=[("X-A", "1"), ("X-A", "2")])
        await ours.aclose()
        await server.hear()
    assert (caught.value.status, caught.value.headers["x-why"], caught.value.body) == (502, "f\xfcr", "f\ufffdr uns")
    (request,) = server.heard
    assert isinstance(request, Request)
    assert request.extra_headers[-2:] == [(b"x-a", b"1"), (b"x-a", b"2")]


def said(message: Any) -> TextMessage:
    return TextMessage(json.dumps(message))


def publication(request_id: Any, at: str) -> TextMessage:
    return said({"requestId": request_id, "at": at, "type": "publish", "data": {"at": "no position"}})


async def test_positions_are_those_of_the_last_message_that_was_received(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        assert client.position(1) is None
        await server.say(publication("1", "e.1"), publication(1, "e.2"), said({"requestId": 1, "type": "publish"}))
        await server.say(said({"type": "gap", "requestId": 1, "lost": None, "at": "e.3"}), TextMessage("pong"))
        await server.say(said({"requestId": 1, "code": "success", "at": "e.4", "recovered": True}))
        positions = []
        for _ in range(5):
            await client.receive()
            positions.append((client.position(1), client.position("1")))
    assert positions == [(None, "e.1"), ("e.2", "e.1"), ("e.2", "e.1"), ("e.3", "e.1"), ("e.3", "e.1")]


async def test_what_came_before_a_reply_counts_once_it_is_received(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        await server.say(publication(1, "e.1"), said({"requestId": 2, "code": "success", "at": "e.5"}))
        assert await client.subscribe(2, CAR, since=None) == {"requestId": 2, "code": "success", "at": "e.5"}
        assert client.positions == {"2": "e.5"}
        await client.receive()
        assert client.positions == {"1": "e.1", "2": "e.5"}


async def test_a_position_for_all_is_none_of_those_that_have_no_reply_yet(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        client.positions = {"1": "e.1", "2": "e.1"}  # those of the connection before
        await server.say(said({"requestId": 1, "code": "success", "at": "e.1", "recovered": True}))
        await server.say(said({"type": "position", "at": "e.9"}))
        await client.subscribe(1, CAR, since=client.position(1))
        await client.receive()
        assert client.positions == {"1": "e.9", "2": "e.1"}


@pytest.mark.parametrize("ended_by", ["gateway", "client"])
async def test_a_position_for_all_is_none_of_those_that_have_ended(ended_by: str, autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        await server.say(said({"requestId": 1, "code": "success", "at": "e.1"}))
        await client.subscribe(1, CAR, since=None)
        if ended_by == "gateway":
            await server.say(said({"type": "unsubscribed", "requestId": 1, "reason": "sold"}))
            await client.receive()
        else:
            await server.say(said({"requestId": 1, "code": "success"}))
            await client.unsubscribe(1)
        await server.say(said({"type": "position", "at": "e.9"}))
        await client.receive()
        assert client.position(1) == "e.1"


async def test_a_position_that_was_asked_for_stays_until_there_is_a_reply(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        await server.say(CloseConnection(1012))
        with pytest.raises(Closed):
            await client.subscribe(1, CAR, since="e.1")
        assert client.position(1) == "e.1"


@pytest.mark.parametrize("reply", [{"requestId": 1, "code": "success"}, {"code": "success"}])
async def test_an_older_gateway_recovers_nothing(reply: dict[str, Any], autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        await server.say(said(reply), said(reply))
        assert await client.subscribe(1, CAR, since="e.1") == {**reply, "recovered": False}
        assert await client.subscribe(2, CAR, since=None) == reply
    asked = [json.loads(event.data) for event in server.heard if isinstance(event, TextMessage)]
    assert asked == [
        {"type": "subscribe", "requestId": 1, "room": CAR, "since": "e.1"},
        {"type": "subscribe", "requestId": 2, "room": CAR, "since": None},
    ]


@pytest.mark.parametrize("dialect", ["2", "3"])
async def test_who_comes_back_gets_what_it_missed_once(dialect: str, autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(dialect=dialect), backend=FakeBackend([CAR, RIDE])) as running:
        before, rooms = await running.connect(), {1: CAR, "b": RIDE}
        await before.receive()
        for request_id, room in rooms.items():
            assert "recovered" not in await before.subscribe(request_id, room, since=None)
        await running.gateway.publish([CAR, RIDE], "heard")
        assert [(await before.receive())["data"] for _ in range(2)] == ["heard", "heard"]
        await before.aclose()

        for number in range(3):
            await running.gateway.publish([CAR, RIDE], number)
        client = await running.connect()
        await client.receive()
        client.positions = before.positions
        for request_id, room in rooms.items():
            assert (await client.subscribe(request_id, room, since=client.position(request_id)))["recovered"] is True
        await running.gateway.publish([RIDE, CAR], 3)
        heard: dict[Any, list[Any]] = {1: [], "b": []}
        for _ in range(8):
            message = await client.receive()
            heard[message["requestId"]].append(message["data"])
        assert heard == {1: [0, 1, 2, 3], "b": [0, 1, 2, 3]}


async def test_what_is_not_asked_for_is_not_there(autojump_clock: MockClock) -> None:
    async with open_gateway(backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        await running.gateway.publish([CAR], 1)
        assert await client.receive() == {"requestId": 1, "type": "publish", "data": 1}
        assert client.positions == {}
