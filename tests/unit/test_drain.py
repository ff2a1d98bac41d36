"""A drain: who is sent away when, to the digit of virtual time, and that nobody misses anything before."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from tests.unit.conftest import CAR, RIDE, frames, parts, quiet, settled
from trio_templar import Client, Hooks
from trio_templar.clients.connection import Connection
from trio_templar.clients.control import Control
from trio_templar.clients.drain import PASS_LOOK_SECONDS, shuffle
from trio_templar.core.frames import Batch, Publication
from trio_templar.core.hub import Hub
from trio_templar.core.rooms import room_key
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.fanout import DELIVERY_SECONDS, EXPENSIVE_SECONDS, RoomChannel
from trio_templar.errors import CROWDED
from trio_templar.http.app import HttpApi
from trio_templar.http.authorization import Access, Authorization
from trio_templar.http.control import control_routes
from trio_templar.testing import Closed, FakeBackend, MemoryGateway, Rejected, WebsocketClient, open_gateway


def latest_first(order: list[Connection]) -> None:
    """A shuffle that a test can foretell; users are numbered as they come."""
    order.sort(key=lambda connection: int(str(connection.user_id)), reverse=True)


class Crowd:
    """Clients that read all the time; of each: what it heard, and when and how it ended."""

    def __init__(self) -> None:
        self.heard: list[list[Any]] = []
        self.ended: dict[int, tuple[float, int]] = {}

    async def read(self, client: WebsocketClient) -> None:
        number = len(self.heard)
        heard: list[Any] = []
        self.heard.append(heard)
        try:
            while True:
                heard.append((await client.receive())["data"])
        except Closed as closed:
            self.ended[number] = trio.current_time(), closed.close.code
        await client.stream.aclose()


@asynccontextmanager
async def crowd(running: MemoryGateway, size: int) -> AsyncIterator[Crowd]:
    parts(running).clients.departure.shuffle = latest_first
    found = Crowd()
    async with trio.open_nursery() as nursery:
        for number in range(size):
            running.backend.answer = {"user": {"id": number}}
            nursery.start_soon(found.read, await running.subscriber(1, CAR))
            await settled()
        yield found
        nursery.cancel_scope.cancel()


async def test_clients_are_sent_away_evenly_over_three_quarters_of_the_time_in_the_order_of_the_shuffle(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_gateway(quiet(drain_seconds=16), backend=FakeBackend([CAR])) as running,
        crowd(running, 4) as clients,
    ):
        running.gateway.drain()
        assert running.gateway.draining
        await running.served.wait()
        assert trio.current_time() == 9  # when the last has left: nothing is waited for
        assert clients.ended == {3: (0, 1012), 2: (3, 1012), 1: (6, 1012), 0: (9, 1012)}


async def test_the_order_is_another_one_each_time(autojump_clock: MockClock) -> None:
    orders = set()
    for _ in range(2):
        async with (
            open_gateway(quiet(drain_seconds=16), backend=FakeBackend([CAR])) as running,
            crowd(running, 50) as clients,
        ):
            parts(running).clients.departure.shuffle = shuffle
            running.gateway.drain()
            await running.served.wait()
            orders.add(tuple(clients.ended))
    assert len(orders) == 2


async def test_a_gateway_without_clients_drains_at_once(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        assert not running.gateway.draining
        running.gateway.drain()
        await running.served.wait()
        assert trio.current_time() == 0


async def test_who_stays_hears_everything_until_its_close_frame(autojump_clock: MockClock) -> None:
    async with (
        open_gateway(quiet(drain_seconds=16), backend=FakeBackend([CAR])) as running,
        crowd(running, 4) as clients,
    ):
        running.gateway.drain()
        await trio.sleep(0.5)
        for number in range(9):
            await running.gateway.publish([CAR], number)
            await trio.sleep(1)
        await running.served.wait()
    assert clients.heard == [list(range(9)), list(range(6)), list(range(3)), []]


async def test_what_was_accepted_before_a_close_is_heard_before_it(autojump_clock: MockClock) -> None:
    size = int(EXPENSIVE_SECONDS / DELIVERY_SECONDS) + 1  # a pass over so many waits for more triggers first
    backend = FakeBackend([CAR])
    async with open_gateway(quiet(drain_seconds=16), backend=backend) as running, crowd(running, size) as clients:
        for number in range(3):
            await running.gateway.publish([CAR], number)
        running.gateway.drain()
        await running.served.wait()
    assert clients.heard == [[0, 1, 2]] * size
    first = min(seconds for seconds, _ in clients.ended.values())
    assert 0 < first <= PASS_LOOK_SECONDS


async def test_a_room_that_is_always_full_takes_no_close_frame_from_a_short_drain(autojump_clock: MockClock) -> None:
    backend = FakeBackend([CAR])
    async with open_gateway(quiet(drain_seconds=0.8), backend=backend) as running, crowd(running, 2) as clients:
        channel = parts(running).delivery.hub.rooms[room_key(CAR)].channel = RoomChannel(0)
        channel.put(Batch([Publication(b"", b"")]), 0)  # and nothing takes it
        running.gateway.drain()
        await running.served.wait()
    assert {number: (round(seconds, 6), code) for number, (seconds, code) in clients.ended.items()} == {
        0: (0.4, 1012),
        1: (0.1, 1012),
    }


async def test_who_comes_during_a_drain_gets_503_once_it_has_asked(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with (
        open_gateway(quiet(drain_seconds=16), backend=FakeBackend([CAR])) as running,
        crowd(running, 2) as clients,
    ):
        running.gateway.drain()
        await trio.sleep(1)
        with pytest.raises(Rejected) as caught:
            await running.connect()
        assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "1")
        assert trio.current_time() == 1
        assert clients.ended.keys() == {1}
        await running.served.wait()
        assert clients.ended.keys() == {0, 1}
    refused = [record for record in caplog.records if record.getMessage() == "refused"]
    assert [record.levelname for record in refused] == ["INFO"]  # nothing that an operator could act on
    (line,) = [record for record in caplog.records if record.getMessage() == "drain"]
    assert line.fields == {"connections": 2, "seconds": 16}  # type: ignore[attr-defined]


async def test_who_says_nothing_while_it_drains_is_answered_when_it_ends(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(drain_seconds=16, handshake_seconds=60)) as running:
        client = await running.connect()
        stayed = await running.connect()
        running.gateway.drain()
        await trio.sleep(1)
        silent = running.listener.connect()
        assert (await silent.receive_some()).startswith(b"HTTP/1.1 503 ")
        assert trio.current_time() == 6  # the last close
        for stream in (client.stream, stayed.stream, silent):
            await stream.aclose()
        await running.served.wait()


async def test_when_everybody_has_left_it_ends(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(drain_seconds=1000)) as running:
        clients = [await running.connect() for _ in range(4)]
        running.gateway.drain()
        await trio.sleep(10)
        for client in clients:
            await client.stream.aclose()
        await running.served.wait()
        assert trio.current_time() == 10.25  # it looks four times a second


async def test_what_an_outbox_holds_is_sent_before_the_close(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(drain_seconds=16), backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        for number in range(5):
            await running.gateway.publish([CAR], number)
        running.gateway.drain()
        await trio.sleep(1)
        assert [(await client.receive())["data"] for _ in range(5)] == list(range(5))
        with pytest.raises(Closed, match="1012 the gateway is stopping"):
            await client.receive()
        await client.stream.aclose()
        await running.served.wait()


async def test_who_is_slow_has_the_three_quarters_for_what_waits(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(drain_seconds=16, goodbye_seconds=2), backend=FakeBackend([CAR])) as running:
        slow = await running.connect(make_pair=lockstep_stream_pair)
        await slow.receive()
        await slow.subscribe(1, CAR)
        stuck = await running.connect(make_pair=lockstep_stream_pair)
        await stuck.receive()
        await stuck.subscribe(1, CAR)
        for number in range(3):
            await running.gateway.publish([CAR], number)
        running.gateway.drain()
        await trio.sleep(11)
        assert [(await slow.receive())["data"] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(Closed, match="1012"):
            await slow.receive()
        await slow.stream.aclose()
        await running.served.wait()
        assert trio.current_time() == 12


async def test_who_is_sent_away_last_still_has_its_goodbye_seconds(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(drain_seconds=16, goodbye_seconds=5), backend=FakeBackend([CAR])) as running:
        parts(running).clients.departure.shuffle = lambda order: order.sort(
            key=lambda connection: connection.outbox.waiting_bytes
        )
        for _ in range(3):
            await (await running.connect()).receive()
        stuck = await running.connect(make_pair=lockstep_stream_pair)
        await stuck.receive()
        await stuck.subscribe(1, CAR)
        await running.gateway.publish([CAR], "waits")
        running.gateway.drain()  # it is the last of four: sent away after 9 of 12 seconds
        await running.served.wait()
        assert trio.current_time() == 9 + 5


async def with_positions(client: WebsocketClient, *request_ids: int) -> WebsocketClient:
    """Return `client` once it is subscribed with positions."""
    await client.receive()
    for request_id in request_ids:
        assert "at" in await client.subscribe(request_id, CAR, since=None)
    return client


async def last_words(client: WebsocketClient) -> list[Any]:
    """All that a client hears until it is closed with 1012."""
    heard = []

    async def hear() -> None:
        while True:
            heard.append(await client.receive())

    with pytest.raises(Closed, match="1012 the gateway is stopping"):
        await hear()
    return heard


async def test_a_client_with_positions_hears_where_it_stands_right_before_its_close(
    autojump_clock: MockClock,
) -> None:
    async with open_gateway(quiet(drain_seconds=16), backend=FakeBackend([CAR, RIDE])) as running:
        knows = await with_positions(await running.connect(), 1, 2)
        await knows.subscribe(3, CAR)
        plain = await running.subscriber(1, CAR)
        await running.gateway.publish([RIDE], "of no room of theirs")
        await running.gateway.publish([CAR], "the last")
        running.gateway.drain()
        heard = await last_words(knows)
        assert [(message.get("requestId"), message["type"]) for message in heard] == [
            *[(number, "publish") for number in (1, 2, 3)],
            (None, "position"),
        ]
        assert list(heard[-1]) == ["type", "at"]
        assert heard[0]["at"] == heard[-1]["at"] == knows.position(1) == knows.position(2)
        assert knows.position(3) is None, "it did not ask"
        assert [message["type"] for message in await last_words(plain)] == ["publish"]
        await running.served.wait()


async def test_where_a_client_stands_comes_behind_what_waits_for_it(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(drain_seconds=16), backend=FakeBackend([CAR])) as running:
        slow = await with_positions(await running.connect(make_pair=lockstep_stream_pair), 1)
        for number in range(3):
            await running.gateway.publish([CAR], number)
        running.gateway.drain()
        await trio.sleep(11)
        *heard, position = await last_words(slow)
        assert [message["data"] for message in heard] == [0, 1, 2]
        assert position == {"type": "position", "at": heard[-1]["at"]}
        await slow.stream.aclose()
        await running.served.wait()


async def test_a_client_that_loses_publications_in_a_drain_is_told_no_position(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(drain_seconds=16), backend=FakeBackend([CAR])) as running:
        stuck = await with_positions(await running.connect(make_pair=lockstep_stream_pair), 1)
        for number in range(9):
            await running.gateway.publish([CAR], [number, "x" * 10_000])
        (connection,) = parts(running).clients.connections
        running.gateway.drain()
        await settled()
        assert connection.outbox.cut(CROWDED), "memory is short, and it loses all but what is under way"
        heard = await last_words(stuck)
        assert [message["data"][0] for message in heard] == list(range(len(heard)))
        assert 0 < len(heard) < 9
        assert stuck.position(1) == heard[-1]["at"]
        await stuck.stream.aclose()
        await running.served.wait()


async def test_the_last_quarter_is_for_goodbyes_and_hooks(autojump_clock: MockClock) -> None:
    done: list[float] = []

    async def disconnected(client: Client) -> None:
        await trio.sleep(3)
        done.append(trio.current_time())

    hooks = Hooks(disconnect=disconnected)
    backend = FakeBackend([CAR])
    async with open_gateway(quiet(drain_seconds=16), backend=backend, hooks=hooks) as running, crowd(running, 4):
        running.gateway.drain()
        await running.served.wait()
    assert done == [3, 6, 9, 12]


async def test_who_does_not_read_its_goodbye_cannot_make_it_longer(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(drain_seconds=16, goodbye_seconds=60), backend=FakeBackend([CAR])) as running:
        for _ in range(2):
            client = await running.connect(make_pair=lockstep_stream_pair)
            await client.receive()
            await client.subscribe(1, CAR)
        await running.gateway.publish([CAR], "stuck")
        running.gateway.drain()
        await running.served.wait()
        assert trio.current_time() == 16


async def test_a_second_drain_changes_nothing_and_a_stop_cuts_it_short(autojump_clock: MockClock) -> None:
    async with (
        open_gateway(quiet(drain_seconds=16), backend=FakeBackend([CAR])) as running,
        crowd(running, 4) as clients,
    ):
        running.gateway.drain()
        await trio.sleep(2)
        running.gateway.drain()
        await trio.sleep(2)
        running.gateway.stop(within=1)
        await running.served.wait()
        assert trio.current_time() == 4
        assert clients.ended == {3: (0, 1012), 2: (3, 1012), 1: (4, 1012), 0: (4, 1012)}


async def test_each_client_gets_one_close_frame(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(drain_seconds=16)) as running:
        client = await running.connect()
        await client.receive()
        running.gateway.drain()
        received = b""
        while data := await client.stream.receive_some():
            received += bytes(data)
        await client.stream.aclose()
        assert [first for first, _ in frames(received)] == [0x88]
        await running.served.wait()


# POST /drain/


@asynccontextmanager
async def drain_api(drained: list[str], token: str = "") -> AsyncIterator[httpx.AsyncClient]:
    app = HttpApi(Authorization(Access(token.encode())), max_bytes=1000, body_seconds=10, budget=Budget(10**7))
    app.routes |= control_routes(Control(Hub(), []), lambda: drained.append("drained"))
    transport: Any = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as caller:
        yield caller


@pytest.mark.parametrize("path", ["/drain/", "/drain"])
@pytest.mark.parametrize("body", [b"", b"{}", b" {}\n"])
async def test_posting_to_drain_drains_and_says_so(path: str, body: bytes) -> None:
    drained: list[str] = []
    async with drain_api(drained) as caller:
        answer = await caller.post(path, content=body)
        assert (answer.status_code, json.loads(answer.text)) == (200, {"draining": True})
        assert answer.headers["content-type"] == "application/json"
    assert drained == ["drained"]


@pytest.mark.parametrize(
    ("method", "body", "token", "status"),
    [
        ("POST", b'{"seconds": 5}', "", 400),
        ("POST", b"now", "", 400),
        ("GET", b"", "", 405),
        ("POST", b"", "secret", 401),
    ],
)
async def test_anything_else_drains_nothing(method: str, body: bytes, token: str, status: int) -> None:
    drained: list[str] = []
    async with drain_api(drained, token) as caller:
        answer = await caller.request(method, "/drain/", content=body)
        assert answer.status_code == status
        assert status != 400 or answer.text == "a drain takes no options; send no body, or {}"
    assert drained == []
