"""Health: ready is what a publication to ourselves shows, and nobody else sees that publication."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import CAR, operator, parts, quiet, settled
from tests.unit.test_gateway import stuck_subscriber
from tests.unit.test_views import named, open_gateway_with_rooms, see
from trio_templar.delivery.fanout import Fanout
from trio_templar.http.health import CANARY_SECONDS
from trio_templar.testing import MemoryGateway, open_gateway


async def ask(running: MemoryGateway, path: str = "/health/ready") -> tuple[int, Any]:
    async with operator(running.gateway) as caller:
        answer: httpx.Response = await caller.get(path)
    return answer.status_code, answer.json()


async def test_who_answers_is_alive(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        assert await ask(running, "/health/live") == (200, {"live": True})


async def test_it_is_ready_while_canaries_come_back(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        for _ in range(20):
            await trio.sleep(0.7)
            status, body = await ask(running)
            assert (status, body["ready"]) == (200, True)
            assert 0 <= body["canary_age_seconds"] <= CANARY_SECONDS


def hold(part: str, monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Let nothing pass this part of the fan-out until the event is set."""
    go_on = trio.Event()
    original = getattr(Fanout, part)

    async def held(*arguments: Any) -> Any:
        await go_on.wait()
        return await original(*arguments)

    monkeypatch.setattr(Fanout, part, held)
    return go_on


async def test_it_is_not_ready_before_the_first_canary_is_back(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = hold("_pass", monkeypatch)
    async with open_gateway(quiet()) as running:
        await settled()
        assert parts(running).served.health.canary_age_seconds is None
        assert not parts(running).served.health.ready
        go_on.set()
        await settled()
        assert parts(running).served.health.ready


@pytest.mark.parametrize("part", ["_fanout_loop", "_pass"])
async def test_a_fanout_that_is_stuck_is_not_ready_and_is_again_when_it_goes_on(
    part: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_gateway(quiet(ready_seconds=3)) as running:
        await trio.sleep(0.5)
        go_on = hold(part, monkeypatch)
        await trio.sleep(2)
        assert await ask(running) == (200, {"ready": True, "canary_age_seconds": 2.5})
        await trio.sleep(1)
        status, body = await ask(running)
        assert (status, body["ready"]) == (503, False)
        await trio.sleep(100)
        assert (await ask(running))[1]["canary_age_seconds"] > 100
        go_on.set()
        await trio.sleep(1)
        assert (await ask(running))[0] == 200


async def test_a_gateway_that_takes_no_publications_is_not_ready(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(ready_seconds=3)) as running:
        await trio.sleep(1)
        parts(running).delivery.budget.take(parts(running).delivery.budget.soft_bytes)
        await trio.sleep(5)
        assert (await ask(running))[0] == 503
        parts(running).delivery.budget.give(parts(running).delivery.budget.soft_bytes)
        await trio.sleep(1)
        assert (await ask(running))[0] == 200


@pytest.mark.parametrize("end", ["stop", "drain"])
async def test_it_is_not_ready_while_it_drains(end: str, autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running, operator(running.gateway) as caller:
        await stuck_subscriber(running)
        await trio.sleep(1)
        getattr(running.gateway, end)()
        answer = await caller.get("/health/ready")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert (await caller.get("/health/live")).status_code == 200


async def test_canaries_are_in_no_count_and_no_view(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        client = await named(running, "ada", CAR)
        seen = []
        for _ in range(20):
            await trio.sleep(0.5)
            statistics = running.gateway.statistics()
            seen += [statistics.triggers, statistics.publications, statistics.deliveries, statistics.queued]
            assert (statistics.connections, statistics.rooms, statistics.subscriptions) == (1, 1, 1)
        assert seen == [0] * 80
        assert [room["room"] for room in (await see(running, "/rooms/"))["rooms"]] == [CAR]
        await running.gateway.publish([CAR], "x")
        assert (await client.receive())["data"] == "x"
        assert running.gateway.statistics().deliveries == 1


async def test_health_needs_no_token(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(trigger_token="s3cret")) as running:
        await trio.sleep(1)
        for path in ("/health/live", "/health/ready", "/health/ready/"):
            assert (await ask(running, path))[0] == 200


async def test_it_says_nothing_beyond_that(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        assert list((await ask(running))[1]) == ["ready", "canary_age_seconds"]
        async with operator(running.gateway) as caller:
            assert (await caller.get("/health/ready?verbose=1")).status_code == 400
