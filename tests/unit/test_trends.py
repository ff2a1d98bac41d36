"""The last ten minutes: what a sample says, how many are kept, and what a caller is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_templar.clients.statistics import Statistics
from trio_templar.counters import Histogram
from trio_templar.delivery.budget import Budget
from trio_templar.http.app import HttpApi
from trio_templar.http.authorization import Access, Authorization
from trio_templar.http.trends import SAMPLE_SECONDS, SAMPLES, Trends, quantile

BOUNDS = (0.01, 0.1)
NO_SECONDS = Histogram(BOUNDS).now()
NOTHING = Statistics(
    uptime_seconds=0,
    draining=False,
    connections=0,
    opened=0,
    closed={},
    refused={},
    bootstraps={},
    client_errors={},
    rooms=0,
    subscriptions=0,
    triggers=0,
    publications=0,
    deliveries=0,
    in_flight_bytes=0,
    waiting_bytes=0,
    memory_bytes=0,
    memory_soft_bytes=0,
    memory_hard_bytes=0,
    history_bytes=0,
    history_publications=0,
    history_span_seconds=0,
    recoveries={},
    replayed=0,
    slow_connections=0,
    queued=0,
    conflated=0,
    dropped={},
    drops={},
    publication_seconds=NO_SECONDS,
    bootstrap_seconds=NO_SECONDS,
    lag_seconds=NO_SECONDS,
)


class Gateway:
    """Something that counts."""

    def __init__(self) -> None:
        self.statistics = NOTHING

    def look(self) -> Statistics:
        return self.statistics


async def test_a_sample_says_what_is_and_how_fast_it_happened(autojump_clock: trio.testing.MockClock) -> None:
    gateway, seconds = Gateway(), Histogram(BOUNDS)
    trends = Trends(gateway.look)
    await trio.sleep(4)
    seconds.observe(0.01, 100)
    gateway.statistics = replace(
        NOTHING,
        connections=7,
        waiting_bytes=50,
        triggers=2,
        publications=4,
        deliveries=100,
        publication_seconds=seconds.now(),
    )
    trends.take()
    await trio.sleep(2)
    gateway.statistics = replace(gateway.statistics, connections=6, deliveries=103)
    trends.take()
    await trio.sleep(1)

    assert trends.view(0) == {
        "uptime_seconds": 7.0,
        "next": 2,
        "samples": {
            "seconds_ago": [3.0, 1.0],
            "connections": [7, 6],
            "waiting_bytes": [50, 50],
            "triggers": [0.5, 0.0],
            "publications": [1.0, 0.0],
            "deliveries": [25.0, 1.5],
            "p50_seconds": [0.005, None],
            "p99_seconds": [pytest.approx(0.0099), None],
        },
    }


async def test_who_has_some_samples_gets_the_others(autojump_clock: trio.testing.MockClock) -> None:
    trends = Trends(lambda: NOTHING)
    for _ in range(5):
        await trio.sleep(1)
        trends.take()

    def ages(after: int) -> Any:
        return trends.view(after)["samples"]["seconds_ago"]

    assert (ages(0), ages(3), ages(5), ages(99)) == ([4, 3, 2, 1, 0], [1, 0], [], [])


async def test_ten_minutes_are_kept(autojump_clock: trio.testing.MockClock) -> None:
    trends = Trends(lambda: NOTHING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trends.trends_loop)
        await trio.sleep((SAMPLES + 50) * SAMPLE_SECONDS + 1)
        nursery.cancel_scope.cancel()

    view = trends.view(0)
    assert view["next"] == SAMPLES + 50
    assert len(view["samples"]["connections"]) == SAMPLES
    assert (view["samples"]["seconds_ago"][0], view["samples"]["seconds_ago"][-1]) == (599, 1)
    assert len(trends.view(SAMPLES + 48)["samples"]["connections"]) == 2


async def test_the_answer_is_json_and_wants_a_number(autojump_clock: trio.testing.MockClock) -> None:
    trends = Trends(lambda: NOTHING)
    await trio.sleep(2)
    trends.take()
    app = HttpApi(Authorization(Access()), max_bytes=1000, body_seconds=1, budget=Budget(10**7))
    app.routes |= trends.routes()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway.test") as http:
        assert (await http.get("/trends?after=0")).json() == trends.view(0)
        refused = await http.get("/trends?after=-1")
    assert (refused.status_code, refused.text[:6]) == (400, "after:")


@pytest.mark.parametrize(
    ("share", "counts", "value"),
    [
        (0.5, [0, 0, 0], None),
        (0.5, [10, 0, 0], 0.5),
        (0.5, [5, 5, 0], 1.0),
        (0.99, [0, 100, 0], 1 + 2 * 0.99),
        (0.5, [1, 0, 9], 3.0),  # more than is known
    ],
)
def test_a_quantile_is_found_between_two_bounds(share: float, counts: list[int], value: float | None) -> None:
    assert quantile(share, [1.0, 3.0], counts) == pytest.approx(value)


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_value_it_stands_for(counts: list[int], share: float) -> None:
    bounds = [1.0, 2.0, 5.0]
    found = quantile(share, bounds, counts)
    values = [upper for upper, count in zip([*bounds, 5.0], counts, strict=True) for _ in range(count)]
    if not values:
        assert found is None
    else:
        assert found is not None
        wanted = share * len(values)
        exact = values[min(len(values) - 1, max(0, -int(-wanted // 1) - 1))]
        assert found <= exact + 1e-9
        assert found >= ([0.0, *bounds][bounds.index(exact)] if exact in bounds else 0) - 1e-9
