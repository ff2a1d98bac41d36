"""Disconnect and unsubscribe: exactly those who were meant, and they are told."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import CAR, RIDE, closing, operator, parts, settled
from tests.unit.test_gateway import stuck_subscriber
from tests.unit.test_views import named, open_gateway_with_rooms
from trio_templar import NotFound, RequestError
from trio_templar.clients.selection import Selection
from trio_templar.testing import MemoryGateway


async def post(running: MemoryGateway, path: str, body: Any) -> Any:
    async with operator(running.gateway) as caller:
        answer = await caller.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_connection_of_an_id_is_closed_with_the_words_of_the_operator(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        other = await named(running, "grace")
        (kept,) = parts(running).clients.connections
        client = await named(running, "ada", CAR)
        (meant,) = parts(running).clients.connections - {kept}
        body = {"connection": meant.id, "code": 4321, "reason": "off you go"}
        assert await post(running, "/disconnect/", body) == {"disconnected": 1}
        assert await closing(client) == (4321, "off you go")
        await client.stream.aclose()
        await settled()
        assert parts(running).clients.connections == {kept}
        await other.send("ping")
        assert await other.receive() == "pong"


@pytest.mark.parametrize(
    ("body", "gone"),
    [
        ({"user": "ada"}, ["ada", "ada"]),
        ({"user": 7}, [7]),
        ({"user": "7"}, [7]),
        ({"user": 7.0}, []),
        ({"user": "nobody"}, []),
        ({"user": ""}, []),
        ({"room": RIDE}, ["ada", 7]),
        ({"room": {"nobody": 1}}, []),
        ({"peer": "10.9.8.7"}, []),
    ],
    ids=repr,
)
async def test_only_those_who_fit_are_closed(body: Any, gone: list[Any], autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        clients = [(user, await named(running, user, room)) for user, room in (("ada", CAR), ("ada", RIDE), (7, RIDE))]
        before = {connection.id for connection in parts(running).clients.connections}
        assert await post(running, "/disconnect", body) == {"disconnected": len(gone)}
        left = [connection for connection in parts(running).clients.connections if connection.outbox.closed is None]
        assert len(before) - len(left) == len(gone)
        assert sorted(str(c.user_id) for c in left) == sorted(
            str(user) for user in _without([user for user, _ in clients], gone)
        )


def _without(users: list[Any], gone: list[Any]) -> list[Any]:
    left = list(users)
    for user in gone:
        left.remove(user)
    return left


async def test_what_waits_goes_before_the_close_and_who_does_not_read_is_not_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with open_gateway_with_rooms() as running:
        await stuck_subscriber(running)
        for _ in range(3):
            await running.gateway.publish([CAR], "x")
        assert await post(running, "/disconnect/", {"room": CAR}) == {"disconnected": 1}
        assert await post(running, "/disconnect/", {"room": CAR}) == {"disconnected": 0}
        await settled()
        await trio.sleep(5)  # two goodbye_seconds
        assert parts(running).clients.connections == set()


async def test_hundreds_are_closed_a_few_at_a_time(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        clients = [await named(running, number, CAR) for number in range(250)]
        assert await post(running, "/disconnect/", {"room": CAR}) == {"disconnected": 250}
        assert {await closing(client) for client in clients} == {(4000, "")}


async def test_an_unsubscribe_ends_the_room_for_everybody_and_tells_them(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        ada, grace = await named(running, "ada", CAR, RIDE, CAR), await named(running, "grace", CAR)
        assert await post(running, "/unsubscribe/", {"room": CAR, "reason": 'sold "it"'}) == {"unsubscribed": 3}
        await running.gateway.publish([CAR], "never")
        await running.gateway.publish([RIDE], "still")
        told = {"type": "unsubscribed", "reason": 'sold "it"'}
        assert [await ada.receive() for _ in range(3)] == [
            {**told, "requestId": 0},
            {**told, "requestId": 2},
            {"requestId": 1, "type": "publish", "data": "still"},
        ]
        assert await grace.receive() == {**told, "requestId": 0}
        assert running.gateway.statistics().subscriptions == 1


async def test_a_request_id_that_was_ended_is_free_again(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        client = await named(running, "ada", CAR)
        await post(running, "/unsubscribe/", {"room": CAR})
        await client.receive()
        assert (await client.unsubscribe(0))["message"] == "not-subscribed"
        assert (await client.subscribe(0, RIDE))["code"] == "success"


async def test_an_unsubscribe_can_be_for_some(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await named(running, "ada", CAR)
        await named(running, "grace", CAR, RIDE)
        assert await post(running, "/unsubscribe/", {"room": CAR, "user": "grace"}) == {"unsubscribed": 1}
        assert await post(running, "/unsubscribe/", {"room": CAR, "peer": "1.2.3.4"}) == {"unsubscribed": 0}
        assert {(c.user_id, c.session.room_keys()[0]) for c in parts(running).clients.connections if c.session} == {
            ("ada", b'{"target":"car"}'),
            ("grace", b'{"target":"ride"}'),
        }


async def test_nothing_of_a_room_comes_after_its_unsubscribe_was_told(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        client = await stuck_subscriber(running)
        for number in range(10):
            await running.gateway.publish([CAR], number)
        await post(running, "/unsubscribe/", {"room": CAR, "reason": "sold"})
        heard: list[Any] = []
        while not heard or heard[-1].get("type") != "unsubscribed":
            heard.append(await client.receive())
        await client.send("ping")
        assert await client.receive() == "pong"
        assert len(heard) < 10


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/disconnect/", {}, 400, "give one of connection, user, room and peer"),
        ("/disconnect/", {"user": 1, "peer": "1.2.3.4"}, 400, "give one of"),
        ("/disconnect/", {"usr": 1}, 400, "there is no such name: `usr`"),
        ("/disconnect/", {"user": []}, 400, "user: expected"),
        ("/disconnect/", {"user": None}, 400, "user: expected"),
        ("/disconnect/", {"peer": 1}, 400, "peer: expected a text"),
        ("/disconnect/", {"room": "car"}, 400, "room: expected an object"),
        ("/disconnect/", {"user": 1, "code": 1000}, 400, "code: expected a whole number >= 4000"),
        ("/disconnect/", {"user": 1, "code": 5000}, 400, "code: expected a whole number <= 4999"),
        ("/disconnect/", {"user": 1, "reason": "é" * 62}, 400, "reason: over 123 bytes"),
        ("/disconnect/", {"connection": "nobody"}, 404, "there is none with the id 'nobody'"),
        ("/disconnect/", {"connection": ""}, 404, "there is none with the id ''"),
        ("/disconnect/", [], 400, "expected an object"),
        ("/unsubscribe/", {}, 400, "missing: `room`"),
        ("/unsubscribe/", {"user": 1}, 400, "missing: `room`"),
        ("/unsubscribe/", {"room": CAR, "user": 1, "peer": "1"}, 400, "at most one of"),
        ("/unsubscribe/", {"room": CAR, "code": 4000}, 400, "there is no such name: `code`"),
        ("/unsubscribe/", {"room": CAR, "reason": "é" * 62}, 400, "reason: over 123 bytes"),
        ("/unsubscribe/", {"room": CAR, "connection": "x"}, 404, "there is none with the id 'x'"),
    ],
    ids=repr,
)
async def test_a_wrong_request_harms_nobody_and_says_what_is_wrong(
    path: str, body: Any, status: int, words: str, autojump_clock: MockClock
) -> None:
    async with open_gateway_with_rooms() as running, operator(running.gateway) as caller:
        await named(running, 1, CAR)
        answer = await caller.post(path, json=body)
        assert (answer.status_code, words in answer.text) == (status, True), answer.text
        (connection,) = parts(running).clients.connections
        assert connection.outbox.closed is None
        assert running.gateway.statistics().subscriptions == 1


@pytest.mark.parametrize("body", [b"", b"{", b'{"user": "\xff"}', b"[" * 5000, b'{"user": "\\ud800"}'], ids=repr)
async def test_what_is_no_json_is_said_to_be_none(body: bytes, autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running, operator(running.gateway) as caller:
        answer = await caller.post("/disconnect/", content=body)
    assert answer.status_code == 400
    assert answer.text.startswith(("not JSON", "expected"))


async def test_an_embedding_program_can_do_the_same(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        client = await named(running, "ada", CAR, RIDE)
        assert await running.gateway.unsubscribe(Selection(room=b'{"target":"car"}'), reason="sold") == 1
        assert await running.gateway.disconnect(Selection(user="ada"), code=4001, reason="bye") == 1
        assert await client.receive() == {"type": "unsubscribed", "requestId": 0, "reason": "sold"}
        assert await closing(client) == (4001, "bye")
        with pytest.raises(RequestError, match="4000 to 4999"):
            await running.gateway.disconnect(Selection(user="ada"), code=1006)
        with pytest.raises(NotFound):
            await running.gateway.disconnect(Selection(connection="nobody"))


async def test_the_log_says_who_was_thrown_out(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway_with_rooms() as running:
        await named(running, "ada", CAR)
        await post(running, "/unsubscribe/", {"room": CAR, "reason": "sold"})
        await post(running, "/disconnect/", {"user": "ada", "reason": "bye"})
    lines = {record.getMessage(): record.__dict__["fields"] for record in caplog.records}
    assert lines["unsubscribed"] == {"count": 1, "room": '{"target":"car"}', "why": "sold"}
    assert lines["disconnected"] == {"count": 1, "user": "ada", "code": 4000, "why": "bye"}


async def test_a_log_line_does_not_repeat_a_selection_of_any_length(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway_with_rooms() as running:
        long = "x" * 50_000
        for field in ("user", "peer"):
            await post(running, "/disconnect/", {field: long})
        await post(running, "/unsubscribe/", {"room": CAR, "user": long})
    fields = [record.__dict__["fields"] for record in caplog.records if "count" in record.__dict__["fields"]]
    assert [max(len(str(value)) for value in each.values()) for each in fields] == [2048 + len("…")] * 3
