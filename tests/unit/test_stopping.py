"""A gateway that stops: clients first, publishers after them, and nothing is taken that nobody gets any more."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import CAR, FakeReceiver, Steps, parts, quiet, settled
from trio_templar import Busy, Close, Gateway, Settings, serve
from trio_templar.clients.drain import TURN_CLOSES
from trio_templar.core.rooms import room_key
from trio_templar.testing import Closed, FakeBackend, MemoryGateway, WebsocketClient, open_gateway

LINE = b'{"rooms": [{"target": "car"}], "data": 1}\n'


async def end_of(client: WebsocketClient) -> tuple[list[Any], Close]:
    """What is published to `client` until its close, and that."""
    heard = []
    try:
        while True:
            heard.append((await client.receive())["data"])
    except Closed as closed:
        return heard, closed.close


async def end_of_bytes(stream: trio.abc.ReceiveStream) -> None:
    while await stream.receive_some():
        pass


def crowd(running: MemoryGateway) -> list[FakeReceiver]:
    """Put so many into CAR that its publications go through a channel."""
    receivers = [FakeReceiver() for _ in range(300)]
    for receiver in receivers:
        parts(running).delivery.hub.subscribe(room_key(CAR), receiver, b"1")
    return receivers


async def streaming_publisher(running: MemoryGateway) -> trio.SocketStream:
    """A publisher in the middle of an NDJSON stream, whose first line is published."""
    assert running.gateway.trigger_url is not None
    host, port = running.gateway.trigger_url.removeprefix("http://").removesuffix("/trigger/").split(":")
    publisher = await trio.open_tcp_stream(host, int(port))
    await publisher.send_all(
        b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(LINE), LINE)
    )
    return publisher


async def test_clients_are_closed_before_a_publisher_has_ended_its_stream() -> None:
    settings = quiet(trigger_bind="127.0.0.1:0", drain_seconds=60)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        async with await streaming_publisher(running):
            assert (await client.receive())["data"] == 1
            running.gateway.stop(within=2)  # a publisher is waited for longer than that
            assert await end_of(client) == ([], Close(1012, "the gateway is stopping"))
            await client.stream.aclose()
            assert not running.served.is_set()
        await running.served.wait()


@pytest.mark.parametrize("at_start", [60, 0.001], ids=["the settings of the start", "those of a reload"])
async def test_a_publisher_in_the_middle_of_a_stream_is_told_what_was_published(at_start: float) -> None:
    settings = quiet(trigger_bind="127.0.0.1:0", drain_seconds=60)
    async with open_gateway(replace(settings, drain_seconds=at_start), backend=FakeBackend([CAR])) as running:
        running.gateway.reload(settings)
        client = await running.subscriber(1, CAR)
        async with await streaming_publisher(running) as publisher:
            assert (await client.receive())["data"] == 1
            running.gateway.stop()
            await end_of(client)
            await client.stream.aclose()
            await publisher.send_all(b"%x\r\n%s\r\n0\r\n\r\n" % (len(LINE), LINE))
            answer = bytes(await publisher.receive_some())
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b"line 2: the gateway is stopping; published 1")


async def test_what_a_room_had_taken_is_heard_before_the_close(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        crowd(running)
        for number in range(3):
            running.gateway.publish_nowait([CAR], number)
        running.gateway.stop()
        assert await end_of(client) == ([0, 1, 2], Close(1012, "the gateway is stopping"))
        await client.stream.aclose()


async def test_a_stop_lets_others_have_their_turn_while_it_closes_many(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        clients = [await running.connect() for _ in range(3 * TURN_CLOSES)]
        connections = list(parts(running).clients.connections)
        with Steps(lambda: sum(not connection.outbox.closing.open for connection in connections)) as closed:
            running.gateway.stop()
            await settled()
        assert (sum(closed), max(closed)) == (3 * TURN_CLOSES, TURN_CLOSES)
        for client in clients:
            await client.stream.aclose()
        await running.served.wait()


# Publishing across a stop


@pytest.fixture(params=["into a channel", "at once"])
def room_is_large(request: pytest.FixtureRequest) -> bool:
    return str(request.param) == "into a channel"


async def test_a_publish_that_a_stop_overtakes_is_busy(room_is_large: bool, autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        receivers = crowd(running) if room_is_large else []

        def rooms() -> Iterator[dict[str, str]]:
            yield CAR
            running.gateway.stop()  # after the first look at whether it stops, and before the first wait

        with pytest.raises(Busy, match="stopping"):
            await running.gateway.publish(rooms(), 1)
        assert all(receiver.data == [] for receiver in receivers)
        assert running.gateway.statistics().publications == 0


async def test_a_publish_that_waits_for_room_is_busy_when_the_gateway_stops(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(memory_bytes=10_000, trigger_wait_seconds=5), backend=FakeBackend([CAR])) as running:
        crowd(running)
        parts(running).delivery.budget.take(5000)

        async def publish() -> None:
            with pytest.raises(Busy, match="stopping"):
                await running.gateway.publish([CAR], 1)
            assert trio.current_time() == 2

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            await trio.sleep(2)
            running.gateway.stop()
        parts(running).delivery.budget.give(5000)


async def test_a_gateway_that_was_cancelled_publishes_nothing_more(
    room_is_large: bool, autojump_clock: MockClock
) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        if room_is_large:
            crowd(running)
        gateway = running.gateway
        await settled()
    with pytest.raises(Busy, match="stopping"):
        await gateway.publish([CAR], 1)
    with pytest.raises(Busy, match="stopping"):
        gateway.publish_nowait([CAR], 1)


async def test_a_publish_under_way_when_the_gateway_is_cancelled_is_busy(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with open_gateway(quiet(memory_bytes=10_000), backend=FakeBackend([CAR])) as running:
            crowd(running)
            parts(running).delivery.budget.take(5000)

            async def publish() -> None:
                with pytest.raises(Busy, match="stopping"):
                    await running.gateway.publish([CAR], 1)
                assert trio.current_time() == 2

            nursery.start_soon(publish)
            await trio.sleep(2)


@pytest.mark.parametrize("how", ["cancel", "stop"])
async def test_a_client_that_does_not_read_is_reset_when_the_gateway_ends_without_waiting(how: str) -> None:
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[Gateway]) -> None:
            with scope:
                settings = Settings(bind=("127.0.0.1:0",), trigger_bind="")
                await serve(settings, bootstrap=FakeBackend([CAR]), task_status=task_status)
            ended.set()

        ended = trio.Event()
        gateway = await nursery.start(run)
        host, _, port = gateway.websocket_urls[0].split("/")[2].rpartition(":")
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect((host, int(port)))
        client = WebsocketClient(trio.SocketStream(sock))
        await client.open("/ws/")
        await client.receive()
        await client.subscribe(1, CAR)
        while not gateway.statistics().slow_connections:
            await gateway.publish([CAR], "x" * 200_000)
        scope.cancel() if how == "cancel" else gateway.stop(0.05)
        with trio.fail_after(60):
            await ended.wait()
            with pytest.raises(trio.BrokenResourceError):  # what the kernel held for it is gone
                await end_of_bytes(client.stream)
        await trio.aclose_forcefully(client.stream)
