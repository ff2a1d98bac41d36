"""The gateway in another program: started, published to, stopped to the digit, cancelled, and never met by another."""

from __future__ import annotations

import errno
import re
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

import trio_templar
from tests.unit.conftest import CAR, RIDE, FakeReceiver, closing, parts, quiet, settled
from tests.unit.test_supervisor import reading
from trio_templar import Busy, Close, Gateway, Settings, SettingsError, TooLarge, TriggerError
from trio_templar.core.policies import RoomPolicy
from trio_templar.core.rooms import room_key
from trio_templar.testing import (
    Closed,
    FakeBackend,
    MemoryGateway,
    MemoryListener,
    Rejected,
    WebsocketClient,
    open_gateway,
)


async def stuck_subscriber(running: MemoryGateway) -> WebsocketClient:
    """A client that subscribes and then never reads again."""
    client = await running.connect(make_pair=lockstep_stream_pair)
    await client.receive()
    await client.subscribe(1, CAR)
    return client


async def test_it_starts_as_the_readme_says() -> None:
    async with trio.open_nursery() as nursery:
        settings = Settings(bind=("127.0.0.1:0",), trigger_bind="127.0.0.1:0")
        serve = partial(trio_templar.serve, settings, bootstrap=FakeBackend([CAR]))
        gateway: Gateway = await nursery.start(serve)
        (url,) = gateway.websocket_urls
        assert url.startswith("ws://127.0.0.1:")
        host, _, port = url.removeprefix("ws://").removesuffix("/ws/").partition(":")
        client = WebsocketClient(await trio.open_tcp_stream(host, int(port)))
        await client.open()
        await client.receive()
        await client.subscribe(1, CAR)
        assert gateway.trigger_url is not None
        async with httpx.AsyncClient() as publisher:
            answer = await publisher.post(gateway.trigger_url, json={"rooms": [CAR], "data": 1})
        assert answer.text == "publish success"
        assert (await client.receive())["data"] == 1
        gateway.stop()
        with pytest.raises(Closed, match="1012"):
            await client.receive()
        await client.stream.aclose()


async def test_it_listens_on_a_unix_socket_too(tmp_path: Any) -> None:
    path = str(tmp_path / "ws.sock")
    async with open_gateway(quiet(bind=(f"unix:{path}",))) as running:
        assert running.gateway.websocket_urls == (f"unix:{path}",)
        client = WebsocketClient(await trio.open_unix_socket(path))
        await client.open()
        assert await client.receive() == {"allowed_rooms": []}
        await client.stream.aclose()


@pytest.mark.parametrize("name", ["bind", "trigger_bind"])
async def test_an_address_in_use_is_a_settings_error_that_names_it(name: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    settings = quiet(**{name: (address,) if name == "bind" else address})
    with pytest.raises(SettingsError, match=address):
        await trio_templar.serve(settings, bootstrap=FakeBackend())
    await listener.aclose()


async def test_without_an_api_it_refuses_to_start() -> None:
    with pytest.raises(SettingsError, match="api_url"):
        await trio_templar.serve(quiet())


async def test_two_gateways_in_one_program_do_not_meet(autojump_clock: MockClock) -> None:
    async with (
        open_gateway(quiet(), backend=FakeBackend([CAR])) as one,
        open_gateway(quiet(dialect="3"), backend=FakeBackend([CAR])) as other,
    ):
        client = await one.subscriber(1, CAR)
        stranger = await other.subscriber(1, CAR)
        await other.gateway.publish([CAR], "other")
        await one.gateway.publish([CAR], "one")
        assert (await client.receive())["data"] == "one"
        assert (await stranger.receive())["data"] == "other"
        one.gateway.stop()
        await client.stream.aclose()
        await one.served.wait()
        assert other.gateway.statistics().connections == 1


async def test_statistics_are_the_totals_of_now(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR, RIDE])) as running:
        client = await running.subscriber(1, CAR)
        await client.subscribe(2, RIDE)
        await running.subscriber(1, CAR)
        await running.gateway.publish([CAR, RIDE, {"nobody": 1}], 1)
        statistics = running.gateway.statistics()
        assert (statistics.connections, statistics.rooms, statistics.subscriptions) == (2, 2, 3)
        assert (statistics.triggers, statistics.publications, statistics.deliveries) == (1, 2, 3)


@pytest.mark.parametrize("data", [{"a": [1, None, "é"]}, "text", 1.5, None, True, msgspec.Raw(b'{"x":1.50}')], ids=repr)
async def test_anything_that_is_json_can_be_published(data: Any, autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        await running.gateway.publish([CAR], data)
        expected = {"x": 1.5} if isinstance(data, msgspec.Raw) else data
        assert (await client.receive())["data"] == expected


@pytest.mark.parametrize(
    "data",
    [
        object(),
        "\ud800",
        {1, object()},
        b"\xff".decode("latin-1") * 10**6,
        msgspec.Raw(b'"\xff"'),
        msgspec.Raw(b"{"),
    ],
    ids=["object", "surrogate", "set", "large", "raw, not UTF-8", "raw, not JSON"],
)
async def test_anything_else_is_a_trigger_error(data: Any, autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(outbox_bytes=1000), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        with pytest.raises(TriggerError):
            await running.gateway.publish([CAR], data)
        with pytest.raises(TriggerError, match="rooms"):
            await running.gateway.publish([{"a": object()}], 1)
        with pytest.raises(TriggerError, match='rooms: not a JSON object: "target"'):
            await running.gateway.publish(CAR, 1)  # type: ignore[arg-type]  # one room in place of a list
        await running.gateway.publish([CAR], "next")
        assert (await client.receive())["data"] == "next"


async def test_data_over_half_an_outbox_is_too_large(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(outbox_bytes=1000)) as running:
        await running.gateway.publish([CAR], "x" * 498)
        with pytest.raises(TooLarge):
            await running.gateway.publish([CAR], "x" * 499)


async def test_3_1s_status_is_shown_where_the_settings_allow_it(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(dialect="3", allow_status=True), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        await client.send({"type": "status"})
        status = await client.receive()
        assert (status["open_connections"], status["num_rooms"]) == (1, 1)
        assert list(status) == [
            "open_connections",
            "num_rooms",
            "online_since",
            "rabbitmq_messages_received",
            "ws_messages_received",
            "ws_messages_send",
            "ws_messages_send_error",
            "ws_messages_send_queued",
        ]


@pytest.mark.parametrize("settings", [{"dialect": "3"}, {"dialect": "2", "allow_status": True}], ids=repr)
async def test_nobody_else_is_shown_a_status(settings: dict[str, Any], autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(**settings)) as running:
        client = await running.connect()
        await client.receive()
        await client.send({"type": "status"})
        assert (await client.receive())["message"] == "message-type-not-allowed"


# Stop


async def test_stopping_sends_what_waits_and_says_why(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        for number in range(3):
            await running.gateway.publish([CAR], number)
        running.gateway.stop()
        assert [(await client.receive())["data"] for _ in range(3)] == [0, 1, 2]
        ended: list[tuple[float, Close]] = []
        async with reading(client, ended):
            await settled()
        assert ended == [(0, Close(1012, "the gateway is stopping"))]
        await client.stream.aclose()
        await running.served.wait()
        assert trio.current_time() == 0


async def test_a_gateway_without_clients_stops_at_once(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        running.gateway.stop()
        await running.served.wait()
        assert trio.current_time() == 0


async def test_nobody_is_let_in_and_nothing_is_published_while_it_stops(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        await stuck_subscriber(running)
        running.gateway.stop()
        with pytest.raises(Busy, match="stopping"):
            await running.gateway.publish([CAR], 1)
        await settled()
        with pytest.raises((Rejected, Closed, trio.ClosedResourceError, trio.BrokenResourceError)):
            await running.connect()


async def test_a_stuck_client_cannot_hold_up_the_drain(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(goodbye_seconds=60, drain_seconds=5), backend=FakeBackend([CAR])) as running:
        await stuck_subscriber(running)
        await running.gateway.publish([CAR], "in flight")
        await settled()
        await trio.sleep(1)
        running.gateway.stop()
        await running.served.wait()
        assert trio.current_time() == 1 + 5


async def test_a_stuck_client_gets_its_goodbye_seconds_and_no_more(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(goodbye_seconds=2, drain_seconds=10), backend=FakeBackend([CAR])) as running:
        await stuck_subscriber(running)
        await running.gateway.publish([CAR], "in flight")
        await settled()
        running.gateway.stop()
        await running.served.wait()
        assert trio.current_time() == 2


async def test_stopping_again_may_shorten_the_drain_and_never_lengthens_it(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(goodbye_seconds=60, drain_seconds=50), backend=FakeBackend([CAR])) as running:
        await stuck_subscriber(running)
        await running.gateway.publish([CAR], 1)
        running.gateway.stop()
        await trio.sleep(1)
        running.gateway.stop(within=1)
        running.gateway.stop()
        running.gateway.stop(within=100)
        await running.served.wait()
        assert trio.current_time() == 2


async def test_cancelling_ends_it_now(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        await stuck_subscriber(running)
        await running.gateway.publish([CAR], 1)
    assert trio.current_time() == 0
    assert await closing(client) == (1006, "")
    assert running.gateway.statistics().connections == 0
    assert running.gateway.statistics().waiting_bytes == 0


async def test_listeners_are_closed_at_the_end(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        pass
    with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
        running.listener.connect()


# Accepting


class ShortOfDescriptors(MemoryListener):
    """Fails the first accepts as a machine without file descriptors does."""

    failures = 25

    async def accept(self) -> trio.abc.Stream:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return await super().accept()


async def test_out_of_descriptors_it_pauses_says_so_once_and_goes_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    listener = ShortOfDescriptors()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio_templar.serve, quiet(), bootstrap=FakeBackend(), listeners=[listener]))
        client = WebsocketClient(listener.connect())
        await client.open()
        assert trio.current_time() > 0
        nursery.cancel_scope.cancel()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Too many open files" in caplog.text


async def test_a_storm_of_clients_is_let_in_and_gone_again(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        clients: list[WebsocketClient] = []

        async def come() -> None:
            clients.append(await running.subscriber(1, CAR))

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(come)
        await running.gateway.publish([CAR], 1)
        for client in clients:
            assert (await client.receive())["data"] == 1
            await client.stream.aclose()
        await settled()
        statistics = running.gateway.statistics()
        assert (statistics.connections, statistics.rooms, statistics.waiting_bytes) == (0, 0, 0)


# Backpressure


async def test_publish_nowait_says_which_room_is_full_and_publishes_nothing(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(room_publications=2), backend=FakeBackend([CAR, RIDE])) as running:
        client = await running.subscriber(1, RIDE)
        crowd(running)
        for number in range(2):
            running.gateway.publish_nowait([CAR], number)
        with pytest.raises(trio.WouldBlock, match=re.escape('the room {"target":"car"} is full')):
            running.gateway.publish_nowait([CAR, RIDE], 3)
        await running.gateway.publish([CAR, RIDE], 4)
        assert (await client.receive())["data"] == 4


async def test_over_half_of_the_memory_publishers_wait_until_it_is_less(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(memory_bytes=10_000, trigger_wait_seconds=5), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        parts(running).delivery.budget.take(5001)
        with pytest.raises(trio.WouldBlock, match="memory_bytes"):
            running.gateway.publish_nowait([CAR], 1)
        with pytest.raises(Busy, match="memory_bytes"):
            await running.gateway.publish([CAR], 1)
        assert trio.current_time() == 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.gateway.publish, [CAR], 2)
            await trio.sleep(2)
            parts(running).delivery.budget.give(2000)
        assert trio.current_time() == 7
        assert (await client.receive())["data"] == 2


async def test_policies_that_are_applied_later_hold_for_rooms_that_are_there(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        await running.subscriber(1, CAR)
        [room] = parts(running).delivery.hub.rooms.values()
        kinds = [room.policy.kind]
        parts(running).delivery.hub.apply(quiet(room_policy=[RoomPolicy(policy="conflate")]).policies)
        assert [*kinds, room.policy.kind] == ["disconnect", "conflate"]


def crowd(running: MemoryGateway) -> None:
    """Put so many into CAR that its publications go through a channel."""
    for _ in range(300):
        parts(running).delivery.hub.subscribe(room_key(CAR), FakeReceiver(), b"1")
