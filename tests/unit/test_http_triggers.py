"""What a publisher is told: reports, waits, keys. Over the app, with clients whose sockets take what they are told."""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import (
    CAR,
    RIDE,
    FakeTransport,
    Steps,
    make_backlogs,
    operator,
    parts,
    quiet,
    settled,
    write_all,
)
from tests.unit.test_http_app import NDJSON, ONE, Api, api
from trio_templar.core.hub import LiveRoom
from trio_templar.core.rooms import room_key
from trio_templar.delivery.fanout import TURN_DELIVERIES
from trio_templar.delivery.outbox import Outbox
from trio_templar.testing import FakeBackend, MemoryGateway, open_gateway

JSON = {"accept": "application/json"}
TWO = {"rooms": [CAR, RIDE], "data": 1}


class Slow:
    """A client of CAR whose socket takes nothing until `read`."""

    def __init__(self, gateway: Api) -> None:
        transport = FakeTransport([0])
        self.outbox = Outbox(transport, transport, make_backlogs())
        gateway.hub.subscribe(room_key(CAR), self.outbox, b'"slow"')

    def read(self) -> None:
        write_all(self.outbox)


def entry(room: Any, *counts: int, waiting: int | None = None) -> dict[str, Any]:
    names = ("subscriptions", "written", "queued", "conflated", "dropped")
    told = {"room": room, **dict(zip(names, counts, strict=True))}
    return told if waiting is None else {**told, "waiting": waiting}


# Reports


async def test_who_accepts_json_is_told_what_became_of_it_in_each_room() -> None:
    async with api() as gateway:
        Slow(gateway)
        response = await gateway.post(TWO, **JSON)
        assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
        assert response.json() == {"rooms": [entry(CAR, 2, 1, 1, 0, 0), entry(RIDE, 0, 0, 0, 0, 0)]}


async def test_an_array_has_a_report_for_each_trigger_and_a_stream_has_sums() -> None:
    async with api() as gateway:
        response = await gateway.post([ONE, TWO], **JSON)
        assert [len(each["rooms"]) for each in response.json()] == [1, 2]
        response = await gateway.post("\n".join([json.dumps(ONE)] * 3), **JSON, **NDJSON)
        sums = {"subscriptions": 3, "written": 3, "queued": 0, "conflated": 0, "dropped": 0}
        assert response.json() == {"published": 3, **sums}


async def test_an_empty_array_has_an_empty_report() -> None:
    async with api() as gateway:
        assert (await gateway.post([], **JSON)).json() == []


async def test_a_wait_ends_when_every_client_has_it(autojump_clock: MockClock) -> None:
    async with api() as gateway:
        slow = Slow(gateway)
        async with trio.open_nursery() as nursery:
            answers: list[httpx.Response] = []

            async def publish() -> None:
                answers.append(await gateway.post(ONE, prefer="wait=30", **JSON))

            nursery.start_soon(publish)
            await trio.sleep(3)
            slow.read()
        assert trio.current_time() == 3
        assert answers[0].json() == {"rooms": [entry(CAR, 2, 1, 1, 0, 0, waiting=0)]}
        assert answers[0].headers["preference-applied"] == "wait=30"


async def test_a_wait_ends_when_its_time_is_over_and_says_how_many_still_wait(autojump_clock: MockClock) -> None:
    async with api() as gateway:
        Slow(gateway)
        response = await gateway.post(ONE, prefer="wait=7", **JSON)
        assert trio.current_time() == 7
        assert response.json() == {"rooms": [entry(CAR, 2, 1, 1, 0, 0, waiting=1)]}


async def test_who_waits_without_accepting_json_hears_the_usual_words(autojump_clock: MockClock) -> None:
    async with api() as gateway:
        Slow(gateway)
        response = await gateway.post(ONE, prefer="wait=2")
        assert (response.text, trio.current_time()) == ("publish success", 2)
        response = await gateway.post(json.dumps(ONE), prefer="wait=2", **NDJSON)
        assert (response.text, trio.current_time()) == ("publish success: 1", 4)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"prefer": "wait=soon"}, "Prefer: wait=soon is no whole number of seconds"),
        ({"idempotency-key": "two words"}, "Idempotency-Key: 1 to 255 visible"),
        ({"idempotency-key": "k", **NDJSON}, "Idempotency-Key: a stream has a key in each of its lines"),
    ],
)
async def test_a_malformed_wish_is_a_400_and_publishes_nothing(headers: dict[str, str], words: str) -> None:
    async with api() as gateway:
        response = await gateway.post(ONE, **headers)
        assert (response.status_code, response.text.startswith(words)) == (400, True), response.text
        assert gateway.car.data == []


# Keys


async def test_the_same_key_publishes_once_and_has_the_same_answer() -> None:
    async with api() as gateway:
        first = await gateway.post(ONE, idempotency_key="k", **JSON)
        Slow(gateway)
        again = await gateway.post(ONE, idempotency_key='"k"')
        assert (again.status_code, again.content, gateway.car.data) == (200, first.content, [1])
        assert again.headers["content-type"] == "application/json"


async def test_the_same_key_with_another_body_is_a_422() -> None:
    async with api() as gateway:
        await gateway.post(ONE, idempotency_key="k")
        response = await gateway.post({**ONE, "data": 2}, idempotency_key="k")
        assert (response.status_code, gateway.car.data) == (422, [1])
        assert response.text == "the key 'k' came before with something else"


async def test_a_503_is_never_remembered(autojump_clock: MockClock) -> None:
    async with api() as gateway:
        room = fill(gateway)
        assert (await gateway.post(ONE, idempotency_key="k")).status_code == 503
        room.channel = None
        assert (await gateway.post(ONE, idempotency_key="k")).status_code == 200
        assert gateway.car.data == [1]


async def test_a_second_request_joins_the_first_that_is_under_way(autojump_clock: MockClock) -> None:
    async with api() as gateway:
        room = fill(gateway)
        answers: list[int] = []

        async def publish() -> None:
            answers.append((await gateway.post(ONE, idempotency_key="k")).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(publish)
            await trio.sleep(1)
            assert answers == []
            gateway.fanout._end_channel(room)
        assert (answers, gateway.car.data) == ([200] * 3, [1])


async def test_items_of_an_array_have_keys_of_their_own() -> None:
    async with api() as gateway:
        items = [{**ONE, "data": number, "key": f"k{number}"} for number in range(3)]
        await gateway.post(items[:2])
        response = await gateway.post([*items, {**ONE, "data": "no key"}], **JSON)
        assert gateway.car.data == [0, 1, 2, "no key"]
        assert [each.get("repeated", False) for each in response.json()] == [True, True, False, False]
        assert response.json()[0]["rooms"] == [entry(CAR, 1, 1, 0, 0, 0)]


async def test_a_key_twice_in_an_array_is_published_once() -> None:
    async with api() as gateway:
        item = {**ONE, "key": "k"}
        response = await gateway.post([item, item], **JSON)
        assert (gateway.car.data, [each.get("repeated") for each in response.json()]) == ([1], [None, True])
        response = await gateway.post([{**item, "key": "x"}, {**item, "key": "x", "data": 2}])
        assert (response.status_code, gateway.car.data) == (422, [1])
        assert response.text.startswith("[1]: the key 'x' is there twice")


async def test_an_array_that_is_refused_remembers_none_of_its_keys(autojump_clock: MockClock) -> None:
    async with api() as gateway:
        room = fill(gateway)
        items = [{"rooms": [RIDE], "data": 1, "key": "a"}, {**ONE, "key": "b"}]
        assert (await gateway.post(items)).status_code == 503
        room.channel = None
        assert (await gateway.post(items)).status_code == 200
        assert gateway.car.data == [1]


async def test_lines_of_a_stream_have_keys_of_their_own() -> None:
    async with api() as gateway:
        lines = [json.dumps({**ONE, "data": number, "key": f"k{number}"}) for number in range(3)]
        assert (await gateway.post("\n".join(lines[:2]), **NDJSON)).text == "publish success: 2"
        assert (await gateway.post("\n".join(lines), **NDJSON)).text == "publish success: 3"
        assert gateway.car.data == [0, 1, 2]
        reused = json.dumps({**ONE, "data": 9, "key": "k0"})
        response = await gateway.post(f"{lines[0]}\n{reused}", **NDJSON)
        assert (response.status_code, response.text) == (
            422,
            "line 2: the key 'k0' came before with something else; published 1",
        )


@pytest.mark.parametrize("key", [5, "", "x" * 256])
async def test_a_malformed_key_of_an_item_is_a_400_but_unknown_to_a_single_trigger(key: Any) -> None:
    async with api() as gateway:
        response = await gateway.post([{**ONE, "key": key}])
        assert (response.status_code, "[0]: key: expected a text" in response.text) == (400, True), response.text
        assert (await gateway.post({**ONE, "key": key})).status_code == 200


def fill(gateway: Api) -> LiveRoom:
    """Make CAR full for good: its channel has no loop."""

    class Full:
        publications = 5
        bytes = 0

    room = gateway.hub.rooms[room_key(CAR)]
    room.channel = Full()
    return room


# Backpressure


async def test_a_503_says_which_room_is_full_and_that_nothing_was_published(autojump_clock: MockClock) -> None:
    async with api() as gateway:
        fill(gateway)
        response = await gateway.post({"rooms": [RIDE, CAR], "data": 1})
        assert (response.status_code, response.headers["retry-after"], trio.current_time()) == (503, "1", 5)
        assert response.text == 'the room {"target":"car"} is full (room_publications); nothing was published'


# Fairness


async def test_a_long_stream_gives_way_to_others() -> None:
    async with api() as gateway:
        with Steps(lambda: len(gateway.car.data)) as heard:
            await gateway.post("\n".join([json.dumps(ONE)] * 300), **NDJSON)
        assert (sum(heard), max(heard) <= 100) == (300, True)


async def test_an_array_for_a_thousand_rooms_gives_way_to_others() -> None:
    async with api(max_bytes=10**6) as gateway:
        rooms = [{"n": number} for number in range(1000)]
        heard = [gateway.listen(room) for room in rooms]
        with Steps(lambda: gateway.fanout.deliveries) as delivered:
            response = await gateway.post([{"rooms": [room], "data": 1} for room in rooms])
            assert response.status_code == 200
            await settled()
        assert (sum(delivered), max(delivered) <= TURN_DELIVERIES) == (1000, True), max(delivered)
        assert all(receiver.data == [1] for receiver in heard)
        assert all(room.channel is None for room in gateway.hub.rooms.values())


async def test_idempotency_bytes_bound_what_is_held_for_keys_of_both_kinds(autojump_clock: MockClock) -> None:
    bound = 1_000_000
    async with (
        open_gateway(quiet(idempotency_bytes=bound, max_room_bytes=100_000, history_seconds=0)) as running,
        operator(running.gateway) as publisher,
    ):

        async def publish(number: int) -> None:
            room = {"number": number, "of": "x" * 20_000}
            item = {"rooms": [room] * 2, "data": 1}
            await publisher.post("/trigger/", json=[{**item, "key": f"k{number}"}])
            await publisher.post("/trigger/", json=item, headers={**JSON, "Idempotency-Key": f"k{number}"})

        await publish(0)
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(1, 51):
                await publish(number)
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert bound / 2 < held < 1.3 * bound
        repeated = await publisher.post(
            "/trigger/",
            json=[{"rooms": [{"number": 50, "of": "x" * 20_000}] * 2, "data": 1, "key": "k50"}],
            headers=JSON,
        )
        assert repeated.json()[0]["repeated"] is True


async def test_triggers_that_wait_are_bounded_in_bytes(autojump_clock: MockClock) -> None:
    async with (
        open_gateway(quiet(memory_bytes=100_000, outbox_bytes=100_000)) as running,
        operator(running.gateway) as publisher,
    ):
        budget = parts(running).delivery.budget
        budget.take(60_000)  # over half: publishers wait
        body = {**ONE, "data": "x" * 30_000}
        answers: list[tuple[float, str]] = []

        async def publish() -> None:
            answer = await publisher.post("/trigger/", json=body)
            answers.append((trio.current_time(), answer.text))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(publish)
            await settled()
            assert answers == [(0, "the gateway is full (memory_bytes)")] * 2
            assert 30_000 < budget.arriving_bytes < 31_000
            budget.give(60_000)
        assert answers[2:] == [(0, "publish success")]
        assert (budget.arriving_bytes, budget.used_bytes) == (0, 0)


# What is kept of it


def kept(running: MemoryGateway, room: Any = CAR) -> list[tuple[int, Any]]:
    """Return what is kept of `room`: by how much each position is behind the first, and the data."""
    entries = parts(running).delivery.recovery.history.newest(room_key(room), trio.current_time(), most=100)
    return [(entry[0] - entries[0][0], json.loads(entry[2] + b"1" + entry[3])["data"]) for entry in entries]


async def test_what_was_published_under_its_key_is_kept_once() -> None:
    async with open_gateway(quiet()) as running, operator(running.gateway) as http:
        for _ in range(2):
            await http.post("/trigger/", json={"rooms": [CAR], "data": "one"}, headers={"Idempotency-Key": "a"})
            await http.post("/trigger/", json=[{"rooms": [CAR], "data": "item", "key": "b"}] * 2)
            lines = "\n".join([json.dumps({"rooms": [CAR], "data": "line", "key": "c"})] * 2)
            await http.post("/trigger/", content=lines, headers=NDJSON)
        assert [data for _, data in kept(running)] == ["one", "item", "line"]
        last = parts(running).delivery.recovery.history.positions.last
        await http.post("/trigger/", json={"rooms": [CAR], "data": "one"}, headers={"Idempotency-Key": "a"})
        assert parts(running).delivery.recovery.history.positions.last == last


async def test_each_line_of_a_stream_has_a_position(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_gateway(quiet()) as running, operator(running.gateway) as http:
        monkeypatch.setattr(parts(running).delivery.recovery.history.positions, "_wall", lambda: 0.0)
        lines = "\n".join(json.dumps({"rooms": [CAR, RIDE], "data": number}) for number in range(3))
        assert (await http.post("/trigger/", content=lines + "\nbad\n", headers=NDJSON)).status_code == 400
        assert kept(running) == kept(running, RIDE) == [(0, 0), (1, 1), (2, 2)], "those before the bad one"


async def test_of_an_array_with_a_bad_one_nothing_is_kept() -> None:
    async with open_gateway(quiet()) as running, operator(running.gateway) as http:
        last = parts(running).delivery.recovery.history.positions.last
        assert (await http.post("/trigger/", json=[{"rooms": [CAR], "data": 1}, {"rooms": [CAR]}])).status_code == 400
        assert (kept(running), parts(running).delivery.recovery.history.positions.last) == ([], last)


@pytest.mark.parametrize("seconds", [60, 0], ids=["kept", "not kept"])
async def test_a_room_that_is_named_twice_is_reported_twice(seconds: float) -> None:
    settings = quiet(history_seconds=seconds)
    async with open_gateway(settings, backend=FakeBackend([CAR, RIDE])) as running, operator(running.gateway) as http:
        car, ride = await running.subscriber(1, CAR), await running.subscriber(1, RIDE)
        named = {"rooms": [CAR, RIDE, CAR, {"target": "nobody"}], "data": 1}
        response = await http.post("/trigger/", json=named, headers={**JSON, "Prefer": "wait=5"})
        counts = [(each["room"], each["subscriptions"], each["waiting"]) for each in response.json()["rooms"]]
        assert counts == [(CAR, 1, 0), (RIDE, 1, 0), (CAR, 1, 0), ({"target": "nobody"}, 0, 0)]
        assert [(await client.receive())["data"] for client in (car, ride, car)] == [1, 1, 1]
