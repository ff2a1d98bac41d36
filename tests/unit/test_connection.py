"""A connection: what a client hears, and how it ends, on memory streams and on real sockets."""

from __future__ import annotations

import json
import logging
import os
import tracemalloc
from typing import Any, Literal

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, lockstep_stream_pair
from wsproto import WSConnection
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from tests.unit.conftest import CAR, RIDE, FakeReceiver, closing, frames, operator, parts, quiet, settled
from tests.unit.test_dialects import any_message
from trio_templar import Settings
from trio_templar.core.frames import Batch
from trio_templar.core.policies import RoomPolicy
from trio_templar.core.rooms import room_key
from trio_templar.errors import Close
from trio_templar.net.wire import StreamWire
from trio_templar.testing import Closed, FakeBackend, MemoryGateway, WebsocketClient, open_gateway

EVERYTHING = [{}, {"target": "*"}]


async def stream_of(running: MemoryGateway) -> tuple[trio.abc.Stream, WSConnection]:
    """An open websocket without a client around it, past its welcome."""
    client = await running.connect()
    await client.receive()
    return client.stream, client._protocol


def fields(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [getattr(record, "fields", {}) for record in caplog.records if record.getMessage() == event]


# What a client hears


async def test_a_subscriber_hears_what_is_published(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber("a", CAR)
        await running.gateway.publish([CAR, RIDE, CAR], {"id": 1})
        expected = '{"requestId": "a", "type": "publish", "data": {"id":1}}'
        assert [await client.receive_text() for _ in range(2)] == [expected] * 2


async def test_a_client_of_dialect_3_hears_its_own_order_of_keys(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(dialect="3"), backend=FakeBackend([CAR])) as running:
        client = await running.connect()
        assert await client.receive_text() == json.dumps({"is_authorized": True, "allowed_rooms": [CAR]})
        assert await client.subscribe(1, CAR) == {"code": "success"}
        await running.gateway.publish([CAR], None)
        assert await client.receive_text() == '{"type": "publish", "data": null, "requestId": 1}'


async def test_nothing_is_heard_after_an_unsubscribe_was_answered(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        for number in range(100):
            await running.gateway.publish([CAR], number)
        await client.send({"type": "unsubscribe", "requestId": 1})
        await settled()
        await running.gateway.publish([CAR], "never")
        heard: list[Any] = []
        while heard[-1:] != [{"requestId": 1, "code": "success"}]:
            heard.append(await client.receive())
        await client.send("ping")
        assert await client.receive() == "pong"
        assert running.gateway.statistics().rooms == 0


async def test_messages_of_a_client_are_answered_in_order(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        client = await running.connect()
        for number in range(20):
            await client.send({"type": "unsubscribe", "requestId": number})
        await client.receive()
        assert [(await client.receive())["requestId"] for _ in range(20)] == list(range(20))


async def test_a_ping_of_the_protocol_is_answered_with_its_payload(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        stream, protocol = await stream_of(running)
        await stream.send_all(protocol.send(Ping(b"are you there?")))
        await settled()
        assert frames(bytes(await stream.receive_some())) == [(0x8A, b"are you there?")]


def is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


@settings(max_examples=25)
@given(st.lists(any_message, min_size=1, max_size=5), st.lists(st.integers(1, 50), max_size=20))
async def test_messages_cut_anyhow_get_one_answer_each(messages: list[str | bytes], cuts: list[int]) -> None:
    sendable = [each for each in messages if isinstance(each, bytes) or is_unicode(each)]
    async with open_gateway(quiet(), backend=FakeBackend(EVERYTHING)) as running:
        stream, protocol = await stream_of(running)
        data = b"".join(
            protocol.send(BytesMessage(each) if isinstance(each, bytes) else TextMessage(each)) for each in sendable
        )
        for cut in cuts:
            await stream.send_all(data[:cut])
            await settled()
            data = data[cut:]
        await stream.send_all(data)
        await settled()
        received = b""
        while len(frames(received)) < len(sendable):
            received += bytes(await stream.receive_some())
        for first, payload in frames(received):
            assert first == 0x81
            assert payload == b"pong" or json.loads(payload)["code"] in ("error", "success")
        assert running.gateway.statistics().connections == 1


async def test_a_message_in_fragments_is_one_message(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        stream, protocol = await stream_of(running)
        for part, end in (("pi", False), ("", False), ("ng", True)):
            await stream.send_all(protocol.send(TextMessage(part, message_finished=end)))
        await settled()
        assert frames(bytes(await stream.receive_some())) == [(0x81, b"pong")]


# How it ends


async def test_a_client_that_says_goodbye_gets_its_code_back(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        await client.stream.send_all(client._protocol.send(CloseConnection(4321, "enough")))
        assert await closing(client) == (4321, "enough")
        await client.stream.aclose()
        await settled()
        statistics = running.gateway.statistics()
        assert (statistics.connections, statistics.rooms, statistics.subscriptions) == (0, 0, 0)
    (line,) = fields(caplog, "close")
    assert (line["code"], line["why"]) == (4321, "enough")


async def test_a_client_that_is_gone_is_forgotten_at_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        await client.stream.aclose()
        await settled()
        assert (running.gateway.statistics().connections, running.gateway.statistics().rooms) == (0, 0)
        await running.gateway.publish([CAR], 1)
    assert [line["code"] for line in fields(caplog, "close")] == [1006]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x04ping", 1002),
        (b"\xc1\x84\0\0\0\0ping", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (b"\x89\xfe\x00\x7e\0\0\0\0", 1002),
        (b"\x80\x80\0\0\0\0", 1002),
        (b"\x88\x81\0\0\0\0x", 1002),
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),
        (b"\x81\x81\0\0\0\0\xff", 1007),
    ],
    ids=repr,
)
async def test_who_breaks_the_protocol_is_told_so(data: bytes, code: int, autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        client = await running.connect()
        await client.stream.send_all(data)
        assert (await closing(client))[0] == code
        await client.stream.aclose()
        await settled()
        assert running.gateway.statistics().connections == 0


@pytest.mark.parametrize("message", ["x" * 1001, b"x" * 1001, "é" * 501, "x" * 100_000])
async def test_a_message_over_its_bytes_is_a_1009(message: str | bytes, autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_message_bytes=1000)) as running:
        client = await running.connect()
        await client.send(message)
        assert (await closing(client))[0] == 1009


async def test_a_client_that_said_goodbye_has_left_its_rooms_at_once(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(goodbye_seconds=2), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        await client.stream.send_all(b"\x88\x80\0\0\0\0")  # and keeps its end of the stream open
        await settled()
        assert running.gateway.statistics().connections == 1
        assert running.gateway.statistics().rooms == 0


async def test_a_message_of_endless_empty_fragments_is_a_1009(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_message_bytes=64)) as running:
        client = await running.connect()
        await client.receive()
        first, more = b"\x01\x80\0\0\0\0", b"\x00\x80\0\0\0\0"
        await client.stream.send_all(first + 1000 * more)
        assert (await closing(client))[0] == 1009


EMPTY_FRAGMENT = b"\x00\x80\0\0\0\0"
PROTOCOL_PING = b"\x89\x80\0\0\0\0"


async def test_empty_fragments_with_pings_in_between_are_a_1009(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_message_bytes=64)) as running:
        client = await running.connect()
        await client.receive()
        await client.stream.send_all(b"\x01\x80\0\0\0\0")
        for _ in range(20):
            await client.stream.send_all(10 * EMPTY_FRAGMENT + PROTOCOL_PING)
            await trio.sleep(0.1)
        with trio.fail_after(1):
            assert (await closing(client))[0] == 1009


@pytest.mark.parametrize("frame", [PROTOCOL_PING, b"\x8a\x80\0\0\0\0"], ids=["pings", "pongs"])
async def test_a_flood_of_pings_of_the_protocol_is_a_1008(frame: bytes, autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(messages_per_second=2, messages_burst=3)) as running:
        client = await running.connect()
        await client.receive()
        await client.stream.send_all(4 * frame)
        with trio.fail_after(1):
            assert await closing(client) == (1008, "too many messages")


async def test_pings_of_the_protocol_and_messages_are_counted_each_by_themselves(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(messages_per_second=2, messages_burst=3)) as running:
        client = await running.connect()
        await client.receive()
        await client.stream.send_all(3 * PROTOCOL_PING)
        for _ in range(3):
            await client.send("ping")
            assert await client.receive() == "pong"


async def test_a_message_may_come_in_as_many_fragments_as_it_may_have_bytes(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_message_bytes=1000)) as running:
        stream, protocol = await stream_of(running)
        for number in range(1, 1001):
            await stream.send_all(protocol.send(TextMessage("x", message_finished=number == 1000)))
            if number % 10 == 0:
                await stream.send_all(PROTOCOL_PING)
        await settled()
        received = frames(bytes(await stream.receive_some()))
        assert sorted(first for first, _ in received) == [0x81] + [0x8A] * 100


async def test_what_is_held_of_a_message_in_fragments_is_its_bytes(autojump_clock: MockClock) -> None:
    tracemalloc.start()
    try:
        async with open_gateway(quiet(max_message_bytes=100_000)) as running:
            stream, _ = await stream_of(running)
            before = tracemalloc.get_traced_memory()[0]
            await stream.send_all(b"\x01\x82\0\0\0\0\xc4\x81")
            for _ in range(40):
                await stream.send_all(b"\x00\x82\0\0\0\0\xc4\x81" * 1000)  # a letter that takes 76 bytes alone
                await settled()
            assert tracemalloc.get_traced_memory()[0] - before < 1_000_000
    finally:
        tracemalloc.stop()


async def test_pings_of_the_protocol_without_a_message_are_welcome_for_ever(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_message_bytes=64)) as running:
        client = await running.connect()
        await client.receive()
        for _ in range(1000):
            await client.stream.send_all(b"\x89\x80\0\0\0\0")
        await client.send("ping")
        assert await client.receive() == "pong"


async def test_a_message_may_have_just_the_bytes_allowed(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_message_bytes=1000)) as running:
        client = await running.connect()
        await client.receive()
        for message in ("x" * 1000, b"x" * 1000, "é" * 500):
            await client.send(message)
            assert (await client.receive())["message"] == "non-json-message"


async def test_a_message_without_end_is_not_kept(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_message_bytes=1000)) as running:
        stream, protocol = await stream_of(running)
        for _ in range(10):
            await stream.send_all(protocol.send(TextMessage("x" * 400, message_finished=False)))
        await settled()
        assert b"\x88" in bytes(await stream.receive_some())


async def test_after_the_close_frame_nothing_follows(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        stream, protocol = await stream_of(running)
        subscribe = json.dumps({"type": "subscribe", "requestId": 1, "room": CAR})
        both = protocol.send(TextMessage(subscribe)) + protocol.send(TextMessage("ping"))
        await stream.send_all(both + protocol.send(Ping()) + protocol.send(CloseConnection(1000)))
        await running.gateway.publish([CAR], 1)
        received = b""
        while data := await stream.receive_some():
            received += bytes(data)
        opcodes = [first & 15 for first, _ in frames(received)]
        assert opcodes.count(8) == 1
        assert opcodes[-1] == 8


async def test_a_client_that_does_not_end_after_the_close_is_left_after_a_while(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(goodbye_seconds=2)) as running:
        client = await running.connect()
        await client.stream.send_all(client._protocol.send(CloseConnection(1000)))
        await closing(client)
        await trio.sleep(1.9)
        assert running.gateway.statistics().connections == 1
        await trio.sleep(0.2)
        assert running.gateway.statistics().connections == 0
        assert await client.stream.receive_some() == b""


async def test_a_client_that_does_not_read_its_close_is_left_after_a_while(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(goodbye_seconds=2), backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        await running.gateway.publish([CAR], 1)
        await settled()
        await client.stream.send_all(client._protocol.send(CloseConnection(1000)))
        await trio.sleep(1.9)
        assert running.gateway.statistics().connections == 1
        await trio.sleep(0.2)
        assert running.gateway.statistics().connections == 0


async def test_a_crash_of_ours_harms_one_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        healthy = await running.subscriber(1, CAR)
        victim = await running.subscriber(1, CAR)

        def crash(_: object) -> str:
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr("trio_templar.core.session.parse", crash)
        await victim.send("ping")
        await settled()
        monkeypatch.undo()
        await healthy.send("ping")
        assert await healthy.receive() == "pong"
        assert running.gateway.statistics().connections == 1
    assert [line["code"] for line in fields(caplog, "close")][:1] == [1011]
    assert sum(record.exc_info is not None for record in caplog.records) == 1


@pytest.mark.parametrize("crowd", [0, 300], ids=["at once", "through a channel"])
async def test_a_crash_of_ours_in_a_delivery_harms_one_connection(
    crowd: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running, operator(running.gateway) as publisher:
        before = await running.subscriber(1, CAR)
        victim = await running.subscriber("victim", CAR)
        after = await running.subscriber(2, CAR)
        delivery = parts(running).delivery
        receivers = [FakeReceiver() for _ in range(crowd)]
        for receiver in receivers:
            delivery.hub.subscribe(room_key(CAR), receiver, b"3")
        render = Batch.render

        def crash(batch: Batch, request_id: bytes, epoch: bytes) -> bytes:
            if request_id == b'"victim"':
                raise RuntimeError("a fault of ours")
            return render(batch, request_id, epoch)

        monkeypatch.setattr(Batch, "render", crash)
        body = {"rooms": [CAR], "data": 1}
        answer = await publisher.post("/trigger/", json=body, headers={"Accept": "application/json"})
        assert [(await client.receive())["data"] for client in (before, after)] == [1, 1]
        assert [receiver.data for receiver in receivers] == [[1]] * crowd
        with pytest.raises(Closed):
            await victim.receive_text()
        [counts] = answer.json()["rooms"]
        assert {name: counts[name] for name in ("subscriptions", "written", "queued", "dropped")} == {
            "subscriptions": crowd + 3,
            "written": crowd,  # a memory stream takes a frame in a task that waits
            "queued": 2,
            "dropped": 1,
        }
        await running.gateway.publish([CAR], 2)
        assert [(await client.receive())["data"] for client in (before, after)] == [2, 2]
        await settled()
        assert running.gateway.statistics().connections == 2
        assert (delivery.budget.used_bytes, delivery.backlogs.bytes) == (0, 0)
    assert [line["code"] for line in fields(caplog, "close")][:1] == [1011]
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["a connection crashed"]


async def test_a_crash_of_ours_while_the_gateway_is_cancelled_is_a_crash(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    writable = StreamWire.writable

    async def crash(wire: StreamWire) -> None:
        try:
            await writable(wire)
        except trio.Cancelled:
            raise RuntimeError("a fault of ours") from None  # noqa: ASYNC104  # as a fault would

    monkeypatch.setattr(StreamWire, "writable", crash)
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        await running.gateway.publish([CAR], 1)  # and it never reads this
        await settled()
    assert [line["code"] for line in fields(caplog, "close")] == [1011]
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["a connection crashed"]


# Who says too much, and who is too slow


async def test_a_client_that_says_too_much_is_a_1008_and_nothing_more_of_it_is_done(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    settings = quiet(messages_per_second=2, messages_burst=3)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        client = await running.connect()
        await client.receive()
        for number in range(6):
            await client.send({"type": "subscribe", "requestId": number, "room": CAR})
        assert [(await client.receive())["requestId"] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(Closed) as closed:
            await client.receive()
        assert closed.value.close == Close(1008, "too many messages")
        assert running.gateway.statistics().subscriptions <= 3
        await settled()
    [line] = fields(caplog, "close")
    assert (line["code"], line["why"]) == (1008, "too many messages")


async def test_a_client_that_speaks_steadily_stays(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(messages_per_second=2, messages_burst=3)) as running:
        client = await running.connect()
        await client.receive()
        for _ in range(50):
            await trio.sleep(0.5)
            await client.send("ping")
            assert await client.receive() == "pong"


async def test_a_slow_client_is_named_in_one_line_the_moment_it_is_closed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend([CAR, RIDE])
    backend.answer = {"user": {"id": 17}}
    settings = quiet(slow_seconds=15, goodbye_seconds=2, room_policy=[RoomPolicy(match=CAR, policy="drop_oldest")])
    async with open_gateway(settings, backend=backend) as running:
        client = await running.connect({"User-Agent": "phone 1.0"}, make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        await client.subscribe(2, RIDE)
        await trio.sleep(5.5)
        for number in range(3):
            await running.gateway.publish([CAR, RIDE], number)
        [slow] = running.gateway.statistics().slowest
        assert (slow.user_id, slow.agent, slow.oldest_seconds) == (17, "phone 1.0", 0)
        await trio.sleep_until(21.1)
    [line] = fields(caplog, "slow")
    [record] = [record for record in caplog.records if record.getMessage() == "slow"]
    assert record.levelno == logging.WARNING
    assert line == {
        "id": slow.id,
        "user": "17",
        "agent": "phone 1.0",
        "why": "too slow: no progress",
        "waiting_bytes": slow.waiting_bytes,
        "waiting_frames": 5,
        "peak_bytes": slow.waiting_bytes,
        "oldest_seconds": 15.5,
        "policy": "disconnect+drop_oldest",
        "rooms": '{"target":"car"} {"target":"ride"}',
        "subscriptions": 2,
    }


async def test_a_slow_client_that_takes_its_goodbye_is_named_once_all_the_same(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(quiet(slow_seconds=15), backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        await settled()
        await running.gateway.publish([CAR], 0)
        await trio.sleep(16.5)
        assert (await client.receive())["data"] == 0
        with pytest.raises(Closed) as closed:
            await client.receive()
        assert closed.value.close.code == 1013
        await settled()
    assert len(fields(caplog, "slow")) == 1


async def test_a_client_that_falls_behind_is_told_what_it_missed_and_stays(autojump_clock: MockClock) -> None:
    settings = quiet(room_policy=[RoomPolicy(match=CAR, policy="conflate")])
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(5):
            running.gateway.publish_nowait([CAR], number)
        heard = [await client.receive() for _ in range(3)]
        assert [each.get("data", each.get("lost")) for each in heard] == [0, 3, 4]
        await running.gateway.publish([CAR], 5)
        assert (await client.receive())["data"] == 5


@pytest.mark.parametrize("policy", ["drop_oldest", "conflate"])
@pytest.mark.parametrize("burst", [1, 30])
async def test_a_client_that_may_lose_publications_keeps_its_connection_with_a_small_outbox(
    policy: Literal["drop_oldest", "conflate"], burst: int, autojump_clock: MockClock
) -> None:
    rule = RoomPolicy(match=CAR, policy=policy, key="id" if policy == "conflate" else None)
    async with open_gateway(quiet(outbox_bytes=32_768, room_policy=[rule]), backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        await settled()
        for number in range(0, 300, burst):
            some = [{"id": number + place, "text": "x" * 1000} for place in range(burst)]
            for data in some:
                running.gateway.publish_nowait([CAR], data)
            if number % 60 == 0:
                await client.receive()
        newest = 0
        while newest < 299:
            newest = (await client.receive()).get("data", {"id": newest})["id"]
        assert running.gateway.statistics().connections == 1


async def test_what_is_delivered_at_once_needs_no_memory(autojump_clock: MockClock) -> None:
    rooms = [{"target": "car", "car": number} for number in range(8)]
    async with open_gateway(quiet(memory_bytes=2_000_000), backend=FakeBackend(rooms)) as running:
        clients = [await running.subscriber(1, room) for room in rooms]
        budget = parts(running).delivery.budget
        budget.take(budget.soft_bytes)  # nothing more may wait
        await settled()
        running.gateway.publish_nowait(rooms, "x" * 100_000)
        for client in clients:
            assert (await client.receive())["data"] == "x" * 100_000


async def test_what_waits_for_many_rooms_is_counted_once(autojump_clock: MockClock) -> None:
    rooms = [{"target": "car", "car": number} for number in range(50)]  # with the data of each: over half of the memory
    async with open_gateway(quiet(memory_bytes=7_000_000), backend=FakeBackend(rooms)) as running:
        clients = [await running.subscriber(1, room) for room in rooms]
        await settled()
        running.gateway.publish_nowait(rooms, "x" * 100_000)
        for client in clients:
            assert (await client.receive())["data"] == "x" * 100_000
        await settled()
        assert parts(running).delivery.budget.used_bytes == 0


# The log


async def test_the_log_has_one_line_at_open_and_one_at_close(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    backend = FakeBackend([CAR])
    backend.answer = {"user": {"id": 42}}
    async with open_gateway(quiet(), backend=backend) as running:
        client = await running.connect({"Cookie": "sessionid=s3cret"}, target="/ws/?token=s3cret")
        welcome = await client.receive_text()
        reply = await client.subscribe(1, CAR)
        await running.gateway.publish([CAR], "s3cret")
        frame = await client.receive_text()
        await trio.sleep(12.5)
        await client.aclose()
        await settled()
    opened, closed = caplog.records
    assert (opened.getMessage(), closed.getMessage()) == ("open", "close")
    (at_open,), (at_close,) = fields(caplog, "open"), fields(caplog, "close")
    assert at_open["id"] == at_close["id"]
    assert (at_open["user"], at_close["user"]) == ("42", "42")
    assert (at_close["code"], at_close["seconds"], at_close["frames"]) == (1000, 12.5, 1)
    said = sum(2 + len(text) for text in (welcome, json.dumps(reply), frame))
    assert at_close["bytes"] >= said + 4
    assert "s3cret" not in caplog.text
    assert "s3cret" not in repr([vars(record) for record in caplog.records])


async def test_a_message_over_a_bound_is_a_line_that_names_it_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(quiet(max_subscriptions=1), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        for request_id in (2, 3):
            assert (await client.subscribe(request_id, CAR))["message"] == "too-many-subscriptions"
    assert [line["bound"] for line in fields(caplog, "over a bound")] == ["max_subscriptions"]


# On real sockets: the direct write


async def test_a_message_that_is_answered_with_an_error_is_a_line_with_the_room_three_times_at_most(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway(quiet(max_room_bytes=1000), backend=FakeBackend([CAR])) as running:
        running.backend.answer = {"user": {"id": 7}}
        client = await running.connect()
        await client.receive()
        assert (await client.subscribe(1, {"long": "x" * 500}))["message"] == "room-not-found"
        assert (await client.unsubscribe(9))["message"] == "not-subscribed"
        for _ in range(8):
            await client.subscribe(1, RIDE)
        assert running.gateway.statistics().client_errors == {"room-not-found": 9, "not-subscribed": 1}
    lines = fields(caplog, "message refused")
    assert [(line["why"], line.get("room")) for line in lines] == [
        ("room-not-found", '{"long":"' + "x" * 190 + "…"),
        ("not-subscribed", None),
        ("room-not-found", '{"target":"ride"}'),
    ]
    assert {(line["user"], line["id"]) for line in lines} == {("7", fields(caplog, "open")[0]["id"])}


async def dial(url: str, receive_buffer: int = 0) -> trio.SocketStream:
    host, port = url.removeprefix("ws://").partition("/")[0].split(":")
    sock = trio.socket.socket()
    if receive_buffer:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
    await sock.connect((host, int(port)))
    return trio.SocketStream(sock)


def on_tcp(**changes: Any) -> Settings:
    return quiet(bind=("127.0.0.1:0",), **changes)


async def subscriber(running: MemoryGateway, receive_buffer: int = 0) -> WebsocketClient:
    client = WebsocketClient(await dial(running.gateway.websocket_urls[0], receive_buffer))
    await client.open()
    await client.receive()
    assert (await client.subscribe(1, CAR))["code"] == "success"
    return client


async def test_a_publication_is_written_before_publish_returns() -> None:
    async with open_gateway(on_tcp(), backend=FakeBackend([CAR])) as running:
        client = await subscriber(running)
        assert isinstance(client.stream, trio.SocketStream)
        await running.gateway.publish([CAR], 1)
        frame = os.read(client.stream.socket.fileno(), 1000)
        assert frames(frame) == [(0x81, b'{"requestId": 1, "type": "publish", "data": 1}')]
        await client.stream.aclose()


async def test_a_client_that_reads_slowly_gets_everything_in_order() -> None:
    async with open_gateway(on_tcp(), backend=FakeBackend([CAR])) as running:
        client = await subscriber(running, receive_buffer=4096)
        size = 5000
        for number in range(100):
            await running.gateway.publish([CAR], [number, "x" * size])
        assert running.gateway.statistics().slow_connections == 1
        heard = [(await client.receive())["data"] for _ in range(100)]
        assert [number for number, _ in heard] == list(range(100))
        assert running.gateway.statistics().waiting_bytes == 0
        assert running.gateway.statistics().slow_connections == 0
        await client.stream.aclose()


async def test_a_client_that_does_not_read_is_cut_and_the_others_hear_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    settings = on_tcp(outbox_bytes=100_000, goodbye_seconds=0.001)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        stuck = await subscriber(running, receive_buffer=4096)
        healthy = await subscriber(running)
        with trio.fail_after(10):
            for number in range(200):
                await running.gateway.publish([CAR], [number, "x" * 10_000])
                assert (await healthy.receive())["data"][0] == number
            while running.gateway.statistics().connections > 1:
                await trio.lowlevel.checkpoint()
        assert running.gateway.statistics().waiting_bytes == 0
        await stuck.stream.aclose()
        await healthy.stream.aclose()
    cut = fields(caplog, "close")[0]
    assert (cut["code"], cut["why"]) == (1013, "too slow: too many bytes wait")
    assert cut["peer"].startswith("127.0.0.1:")


async def test_a_client_that_resets_is_gone_and_nothing_else() -> None:
    async with open_gateway(on_tcp(), backend=FakeBackend([CAR])) as running:
        healthy = await subscriber(running)
        rude = await subscriber(running)
        assert isinstance(rude.stream, trio.SocketStream)
        rude.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await rude.stream.aclose()
        with trio.fail_after(5):
            for number in range(3):
                await running.gateway.publish([CAR], number)
                assert (await healthy.receive())["data"] == number
            while running.gateway.statistics().connections > 1:
                await trio.lowlevel.checkpoint()
        await healthy.stream.aclose()


async def test_the_last_words_arrive_although_the_client_was_still_talking() -> None:
    async with open_gateway(on_tcp(max_message_bytes=1000)) as running:
        client = WebsocketClient(await dial(running.gateway.websocket_urls[0]))
        await client.open()
        await client.receive()
        await client.send("x" * 200_000)
        with trio.fail_after(5):
            assert (await closing(client))[0] == 1009
        await client.stream.aclose()


async def test_a_client_that_did_not_read_is_reset_at_the_end() -> None:
    async with open_gateway(on_tcp(goodbye_seconds=0.001), backend=FakeBackend([CAR])) as running:
        client = await subscriber(running, receive_buffer=4096)
        for number in range(100):
            await running.gateway.publish([CAR], [number, "x" * 5000])
        running.gateway.stop()
        with trio.fail_after(5):
            await running.served.wait()
            reset = False
            try:
                while await client.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                reset = True
        assert reset, "what it did not read is not kept for it"
        await client.stream.aclose()
