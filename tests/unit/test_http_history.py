"""`GET /history/` and `Gateway.history`: what a room has had, for publishers, operators and the embedding program."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import CAR, RIDE, operator, quiet
from tests.unit.test_views import publish_to_many
from trio_templar import Forgotten, KeptPublication, NotFound, Published, RequestError, RoomHistory
from trio_templar.core.policies import RoomPolicy
from trio_templar.testing import FakeBackend, MemoryGateway, open_gateway

BACKEND = FakeBackend([CAR, RIDE])


async def ask(running: MemoryGateway, room: Any = CAR, **query: Any) -> httpx.Response:
    async with operator(running.gateway) as caller:
        text = room if isinstance(room, str) else json.dumps(room)
        return await caller.get("/history/", params={"room": text, **query})


async def trigger(running: MemoryGateway, body: str) -> None:
    async with operator(running.gateway) as caller:
        assert (await caller.post("/trigger/", content=body)).status_code == 200


@pytest.mark.parametrize("dialect", ["2", "3"])
async def test_a_room_that_nobody_is_in_has_a_history_of_the_very_bytes(
    dialect: str, autojump_clock: MockClock
) -> None:
    async with open_gateway(quiet(dialect=dialect)) as running:
        await trigger(running, '{"rooms": [{"target": "car"}, {"target": "ride"}], "data":  {"b":1.50,"a" : 1e999} }')
        await trigger(running, '{"rooms": [{"target": "ride"}], "data": null}')
        answer = await ask(running)
        ours = running.gateway.history(CAR)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-store"
    assert b'"data":{"b":1.50,"a" : 1e999}}' in answer.content
    assert list(answer.json()) == ["publications", "at", "more"]
    assert answer.content == msgspec.json.encode(ours), "the program is told the same"
    assert ours.publications == [KeptPublication(ours.publications[0].at, msgspec.Raw(b'{"b":1.50,"a" : 1e999}'))]


async def test_the_caller_goes_on_from_where_the_answer_stands(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        first = await running.gateway.publish([CAR], 1)
        for number in (2, 3, 4):
            await running.gateway.publish([CAR], number)
        seen, query = [], {"since": first.at, "limit": 2}
        for more in (True, False, False):
            page = (await ask(running, **query)).json()
            assert page["more"] is more
            seen.append([publication["data"] for publication in page["publications"]])
            query["since"] = page["at"]
    assert seen == [[2, 3], [4], []]


async def test_a_position_holds_on_either_way(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=BACKEND) as running:
        client = await running.connect()
        await client.receive()
        before = running.gateway.history(CAR).at
        published = await running.gateway.publish([CAR], 1)
        assert running.gateway.history(CAR).publications[0].at == published.at
        await client.send({"type": "subscribe", "requestId": 1, "room": CAR, "since": before})
        assert await client.receive() == {"requestId": 1, "code": "success", "at": before, "recovered": True}
        told = await client.receive()
        assert (told["at"], told["data"]) == (published.at, 1)
        second = running.gateway.publish_nowait([CAR], 2)
        assert (await client.receive())["at"] == second.at
        assert [each.at for each in running.gateway.history(CAR, told["at"]).publications] == [second.at]


async def test_what_waits_in_the_channel_of_a_room_was_published(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=BACKEND) as running:
        client = await running.connect()
        await client.receive()
        publish_to_many(running)
        found = running.gateway.history(CAR)
        await client.send({"type": "subscribe", "requestId": 1, "room": CAR, "since": found.at})
        assert (await client.receive())["recovered"] is True
        await running.gateway.publish([CAR], "next")
        assert (await client.receive())["data"] == "next", "what the history had does not come again"
    assert [bytes(each.data) for each in found.publications] == [b"1", b"1", b"1"]


async def test_a_position_of_another_start_is_gone_and_the_answer_says_where_to_go_on(
    autojump_clock: MockClock,
) -> None:
    async with open_gateway(quiet()) as running:
        old = await running.gateway.publish([CAR], 1)
    async with open_gateway(quiet()) as running:
        await running.gateway.publish([CAR], 2)
        answer = await ask(running, since=old.at)
        assert (answer.status_code, list(answer.json())) == (410, ["at"])
        assert (await ask(running, since=answer.json()["at"])).json()["publications"] == []
        with pytest.raises(Forgotten) as caught:
            running.gateway.history(CAR, old.at)
        assert caught.value.at == answer.json()["at"]


async def test_what_is_too_old_is_gone_but_a_quiet_room_is_not(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(history_seconds=10)) as running:
        start = running.gateway.history(CAR).at
        await running.gateway.publish([CAR], 1)
        await trio.sleep(12)
        assert (await ask(running, since=start)).status_code == 410
        assert (await ask(running, RIDE, since=start)).json()["publications"] == []
        assert (await ask(running)).json()["publications"] == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "missing: `room`"),
        ("room=7", "room: not a JSON object"),
        ("room=%7B", "room: not a JSON object"),
        ("room=[]", "room: not a JSON object"),
        ("room=" + "[" * 5000, "room: not a JSON object"),
        ("room={}&room={}", "room: given twice"),
        ("room={}&sinse=1", "there is no such name: `sinse`"),
        ("room={}&since=", "since: not a position"),
        ("room={}&since=null", "since: not a position"),
        ("room={}&since=5", "since: not a position"),
        ("room={}&since=" + "e.5" * 3000, "since: not a position"),
        ("room={}&limit=-1", "limit: expected 1 to 1000"),
        ("room={}&limit=0", "limit: expected 1 to 1000"),
        ("room={}&limit=1001", "limit: expected 1 to 1000"),
        ("room={}&limit=many", "limit: expected a whole number"),
        ("room={}&limit=1.5", "limit: expected a whole number"),
        ("room={}&limit=" + "9" * 5000, "limit: "),
    ],
    ids=lambda value: value[:24],
)
async def test_a_wrong_question_is_a_400_that_names_it(query: str, words: str, autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running, operator(running.gateway) as caller:
        answer = await caller.get(f"/history/?{query}")
    assert answer.status_code == 400, answer.text
    assert words in answer.text
    assert len(answer.text.splitlines()) == 1
    assert len(answer.text) < 200


async def test_where_nothing_is_kept_there_is_no_history(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(room_policy=[RoomPolicy(match=CAR, history=False)])) as running:
        assert (await running.gateway.publish([CAR], 1)).at is not None, "positions are of the gateway, not of the room"
        answer = await ask(running)
        assert (answer.status_code, answer.text) == (
            404,
            "nothing of this room is kept: its room_policy has history = false",
        )
        assert (await ask(running, RIDE)).status_code == 200
        running.gateway.reload(quiet(history_seconds=0))
        answer = await ask(running, RIDE)
        assert answer.status_code == 404
        assert "history_seconds" in answer.text
        with pytest.raises(NotFound):
            running.gateway.history(RIDE)


async def test_it_needs_the_token(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(trigger_token="s3cret")) as running:
        async with operator(running.gateway) as stranger:
            assert (await stranger.get("/history/?room={}")).status_code == 401
        async with operator(running.gateway, "s3cret") as caller:
            assert (await caller.get("/history/?room={}")).status_code == 200
            assert (await caller.get("/history?room={}")).status_code == 200
            assert (await caller.post("/history/")).status_code == 405


async def test_the_program_is_told_what_is_wrong_with_its_question(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        for arguments in (({"car": object()},), (None,), (CAR, "null"), (CAR, None, 0), (CAR, None, 1001)):
            with pytest.raises(RequestError):
                running.gateway.history(*arguments)
        assert isinstance(running.gateway.history(CAR), RoomHistory)


async def test_a_publication_knows_its_position_unless_nothing_is_kept(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        first, second = running.gateway.publish_nowait([CAR], 1), await running.gateway.publish([CAR, CAR], 2)
        assert [each.at for each in running.gateway.history(CAR).publications][::2] == [first.at, second.at]
        running.gateway.reload(quiet(history_seconds=0))
        assert await running.gateway.publish([CAR], 3) == Published(at=None)
