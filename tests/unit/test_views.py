"""The live views: what an operator sees of a gateway is what its clients know of themselves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import CAR, RIDE, FakeReceiver, operator, parts, quiet, settled
from tests.unit.test_gateway import stuck_subscriber
from trio_templar import Settings
from trio_templar.core.rooms import room_key
from trio_templar.testing import FakeBackend, MemoryGateway, WebsocketClient, open_gateway


async def named(running: MemoryGateway, user: Any, *rooms: Any) -> WebsocketClient:
    """A client of `user`, subscribed to `rooms`."""
    running.backend.answer = {"user": {"id": user}}
    client = await running.connect({"User-Agent": f"Browser of {user}"})
    await client.receive()
    for number, room in enumerate(rooms):
        await client.subscribe(number, room)
    return client


def open_gateway_with_rooms(**changes: Any) -> Any:
    return open_gateway(quiet(**changes), backend=FakeBackend([CAR, RIDE, {"target": "*"}, {"n": "*"}]))


def publish_to_many(running: MemoryGateway) -> None:
    """Put three publications into the channel of CAR; its loop waits for more, since a pass would be expensive."""
    for _ in range(300):
        parts(running).delivery.hub.subscribe(room_key(CAR), FakeReceiver(), b"1")
    for _ in range(3):
        parts(running).delivery.bus.append_nowait([parts(running).delivery.reader.make([CAR], b"1")])


async def see(running: MemoryGateway, path: str, **query: Any) -> Any:
    async with operator(running.gateway) as caller:
        answer = await caller.get(path, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


async def test_the_status_is_the_totals_of_now(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await named(running, "ada", CAR, RIDE)
        await named(running, "grace", CAR)
        await running.gateway.publish([CAR, RIDE], "x")
        await trio.sleep(20)
        status = await see(running, "/status")
    assert status["uptime_seconds"] == 20
    assert datetime.now(UTC) - datetime.fromisoformat(status["started"]) - timedelta(seconds=20) < timedelta(seconds=20)
    figures = ("connections", "rooms", "subscriptions", "triggers", "publications", "deliveries", "waiting_bytes")
    assert [status[figure] for figure in figures] == [2, 2, 3, 1, 2, 3, 0]
    assert (status["draining"], status["slowest"]) == (False, [])


async def test_the_status_says_that_it_drains(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running, operator(running.gateway) as caller:
        await stuck_subscriber(running)
        running.gateway.stop()
        assert (await caller.get("/status")).json()["draining"] is True


async def test_the_slowest_are_named_in_the_status_most_waiting_first(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        healthy = await named(running, "ada", CAR)
        for _ in range(12):
            await stuck_subscriber(running)
        await running.gateway.publish([CAR], "x" * 1000)
        await healthy.receive()
        await running.gateway.publish([CAR], "x" * 1000)
        status = await see(running, "/status")
        slowest = await see(running, "/connections/", limit=1)
    assert len(status["slowest"]) == 10
    assert all(connection["waiting_bytes"] > 1000 for connection in status["slowest"])
    assert slowest["total"] == 13
    assert slowest["connections"][0]["id"] == status["slowest"][0]["id"]


async def test_a_connection_shows_who_it_is_and_what_it_got(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await named(running, 7, CAR, RIDE)
        await trio.sleep(20)
        await running.gateway.publish([CAR], "x")
        (seen,) = (await see(running, "/connections/"))["connections"]
        (connection,) = parts(running).clients.connections
    assert seen["id"] == connection.id
    assert (seen["user"], seen["agent"], seen["rooms"], seen["subscriptions"]) == ("7", "Browser of 7", [CAR, RIDE], 2)
    assert (seen["age_seconds"], seen["last_alive_seconds"], seen["frames"]) == (20, 20, 1)
    assert datetime.fromisoformat(seen["since"]).tzinfo is not None


async def test_a_room_entered_twice_is_named_once_and_no_more_than_twenty_are(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await named(running, 7, CAR, CAR, *({"n": number} for number in range(30)))
        (seen,) = (await see(running, "/connections/"))["connections"]
    assert seen["rooms"] == [CAR, *({"n": number} for number in range(19))]
    assert seen["subscriptions"] == 32


@pytest.mark.parametrize(
    ("query", "users"),
    [
        ({"user": "ada"}, ["ada"]),
        ({"user": "7"}, ["7"]),
        ({"user": ""}, []),
        ({"user": "null"}, []),
        ({"room": json.dumps(CAR)}, ["ada", "7"]),
        ({"room": ' {"car":1,  "target":"ride"}'}, []),
        ({"room": json.dumps(RIDE)}, ["7"]),
        ({"room": json.dumps(CAR), "user": "7"}, ["7"]),
        ({"peer": "10.0.0.9"}, []),
        ({"sort": "age"}, ["ada", "7", None]),
        ({"sort": "age", "limit": "1", "offset": "1"}, ["7"]),
        ({"offset": "5"}, []),
    ],
    ids=repr,
)
async def test_connections_are_found_by_who_and_where(query: Any, users: Any, autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await named(running, "ada", CAR)
        await trio.sleep(1)
        await named(running, 7, CAR, RIDE)
        await trio.sleep(1)
        await named(running, None)
        found = await see(running, "/connections/", **query)
    assert [connection["user"] for connection in found["connections"]] == users


async def test_pages_follow_each_other_to_the_end(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        for number in range(5):
            await named(running, number)
            await trio.sleep(1)
        seen, offset = [], 0
        while offset is not None:
            page = await see(running, "/connections/", sort="age", limit=2, offset=offset)
            assert page["total"] == 5
            seen += [connection["user"] for connection in page["connections"]]
            offset = page["next"]
    assert seen == ["0", "1", "2", "3", "4"]


async def test_a_page_of_long_items_ends_early_and_the_next_one_goes_on(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms(max_subscriptions=1000) as running:
        rooms = [{"target": f"{number:04}" + "x" * 1900} for number in range(200)]
        await named(running, "ada", *rooms)
        first = await see(running, "/rooms/", limit=1000)
        second = await see(running, "/rooms/", limit=1000, offset=first["next"])
    assert 100 < len(first["rooms"]) == first["next"] < 200
    assert second["next"] is None
    assert [room["room"] for room in first["rooms"] + second["rooms"]] == rooms


async def test_rooms_have_their_figures_and_their_order(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await named(running, "ada", CAR, RIDE)
        await named(running, "grace", CAR)
        for _ in range(30):
            await running.gateway.publish([RIDE], 1)
        await running.gateway.publish([CAR], 1)
        await trio.sleep(8)
        by_subscribers = (await see(running, "/rooms/"))["rooms"]
        by_publications = (await see(running, "/rooms/", sort="publications"))["rooms"]
    car = {"room": CAR, "subscribers": 2, "publications": 1, "channel": 0, "rate": 0.125, "kept": 1}
    ride = {"room": RIDE, "subscribers": 1, "publications": 30, "channel": 0, "rate": 3.75, "kept": 30}
    assert by_subscribers == [car, ride]
    assert by_publications == [ride, car]


async def test_rooms_that_nobody_is_in_follow_while_something_of_them_is_kept(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms(history_seconds=10) as running:
        client = await named(running, "ada", CAR, RIDE)
        for number in range(3):
            for _ in range(number + 1):
                await running.gateway.publish([{"n": number}], 1)
        await running.gateway.publish([RIDE], 1)
        seen = (await see(running, "/rooms/", sort="kept"))["rooms"]
        last = (await see(running, "/rooms/", sort="kept", limit=2, offset=3))["rooms"]
        pages = [await see(running, "/rooms/", limit=2, offset=offset) for offset in (0, 2, 4)]
        await client.send({"type": "unsubscribe", "requestId": 1})
        await client.receive()
        left = await see(running, "/rooms/")
        await trio.sleep(12)
        later = await see(running, "/rooms/")
    counts = [(room["room"], room["subscribers"], room["kept"]) for room in seen]
    assert counts == [(RIDE, 1, 1), (CAR, 1, 0), ({"n": 2}, 0, 3), ({"n": 1}, 0, 2), ({"n": 0}, 0, 1)]
    assert last == seen[3:]
    assert seen[2] == {"room": {"n": 2}, "subscribers": 0, "publications": 0, "channel": 0, "rate": 0, "kept": 3}
    assert [page["total"] for page in pages] == [5, 5, 5]
    assert [page["next"] for page in pages] == [2, 4, None]
    assert [room["room"] for page in pages for room in page["rooms"]] == [CAR, RIDE, *({"n": n} for n in range(3))]
    assert (left["total"], left["rooms"][0]["room"], left["rooms"][-1]["room"]) == (5, CAR, RIDE)
    assert [(room["room"], room["kept"]) for room in later["rooms"]] == [(CAR, 0)]


async def test_a_rate_is_that_of_the_last_seconds(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await named(running, "ada", CAR, RIDE)
        await trio.sleep(0.25)  # never just when a sample is taken
        for _ in range(40):
            await running.gateway.publish([CAR], 1)
            await trio.sleep(0.5)
        await running.gateway.publish([RIDE], 1)
        await settled()
        rates = {room["room"]["target"]: room["rate"] for room in (await see(running, "/rooms/", sort="rate"))["rooms"]}
        await trio.sleep(11)
        later = [room["rate"] for room in (await see(running, "/rooms/", sort="rate"))["rooms"]]
    assert list(rates) == ["car", "ride"]
    assert 1.9 <= rates["car"] <= 2.1
    assert later == [0, 0]


async def test_a_full_channel_shows_in_its_room(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        publish_to_many(running)
        (room,) = (await see(running, "/rooms/"))["rooms"]
    assert (room["subscribers"], room["publications"], room["channel"]) == (300, 3, 3)


@pytest.mark.parametrize(
    ("path", "query", "words"),
    [
        ("/status", "a=1", "there is no such name: `a`"),
        ("/connections/", "usr=7", "there is no such name: `usr`"),
        ("/connections/", "sort=rate", "sort: expected waiting or age"),
        ("/connections/", "limit=many", "limit: expected a whole number"),
        ("/connections/", "limit=0", "limit: expected a whole number >= 1"),
        ("/connections/", "limit=1001", "limit: expected a whole number <= 1000"),
        ("/connections/", "offset=-1", "offset: expected a whole number >= 0"),
        ("/connections/", "room=7", "room: not a JSON object"),
        ("/connections/", "room=%7B", "room: not a JSON object"),
        ("/connections/", "user=1&user=2", "user: given twice"),
        ("/connections/", "user=%ff", "the query cannot be read"),
        ("/rooms/", "room=%7B%7D", "there is no such name: `room`"),
        ("/rooms/", "sort=age", "sort: expected subscribers or publications or rate or kept"),
        ("/tree", "depth=1", "there is no such name: `depth`"),
    ],
)
async def test_a_wrong_query_is_a_400_that_names_it(
    path: str, query: str, words: str, autojump_clock: MockClock
) -> None:
    async with open_gateway_with_rooms() as running, operator(running.gateway) as caller:
        answer = await caller.get(f"{path}?{query}")
    assert answer.status_code == 400
    assert words in answer.text
    assert len(answer.text.splitlines()) == 1


@pytest.mark.parametrize("path", ["/status", "/connections/", "/rooms", "/tree"])
async def test_the_views_need_the_token(path: str, autojump_clock: MockClock) -> None:
    settings = Settings(bind=(), trigger_bind="", trigger_token="s3cret")
    async with open_gateway(settings) as running:
        async with operator(running.gateway) as stranger:
            assert (await stranger.get(path)).status_code == 401
        async with operator(running.gateway, "s3cret") as caller:
            assert (await caller.get(path)).status_code == 200


async def test_equal_agents_are_kept_once_and_long_ones_cut(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        for _ in range(2):
            await running.connect({"User-Agent": "x" * 2000})
        await running.connect()
        agents = sorted((connection.agent for connection in parts(running).clients.connections), key=len)
    assert [len(agent) for agent in agents] == [0, 256, 256]
    assert agents[1] is agents[2]
