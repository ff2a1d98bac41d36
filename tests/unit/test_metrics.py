"""Metrics: what Prometheus is told equals what happened, and the pages made from the table say the same."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from tests.unit.conftest import CAR, RIDE, operator, parts, quiet, settled
from tests.unit.test_gateway import stuck_subscriber
from tests.unit.test_views import named, open_gateway_with_rooms, publish_to_many, see
from trio_templar import Refused, Unavailable
from trio_templar.counters import ConnectionCounts, Histogram
from trio_templar.http.metrics import FAMILIES
from trio_templar.http.trends import SAMPLE_SECONDS
from trio_templar.testing import Closed, FakeBackend, MemoryGateway, Rejected, open_gateway

ROOT = Path(__file__).parents[2]

Sample = tuple[str, frozenset[tuple[str, str]]]


def parse(text: str) -> dict[Sample, float]:
    """All samples by name and labels, as prometheus_client's own parser reads them."""
    return {
        (sample.name.removeprefix("trio_templar_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scrape:
    """One scrape, asked by name and labels."""

    def __init__(self, text: str) -> None:
        self.samples = parse(text)

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples.get((name, frozenset(labels.items())), 0)

    def by(self, name: str) -> Mapping[str, float]:
        """The samples of a metric with one label, by its value."""
        return {next(iter(labels))[1]: value for (found, labels), value in self.samples.items() if found == name}


async def scrape(running: MemoryGateway) -> Scrape:
    async with operator(running.gateway) as caller:
        answer = await caller.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Scrape(answer.text)


async def test_connections_are_counted_when_they_come_and_by_code_when_they_go(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        ada, grace = await named(running, "ada", CAR, RIDE), await named(running, "grace", CAR)
        seen = await scrape(running)
        assert (seen("connections"), seen("connections_opened_total")) == (2, 2)
        assert (seen("rooms"), seen("subscriptions")) == (2, 3)
        assert seen.by("connections_closed_total") == {}
        await ada.aclose()
        await running.gateway.disconnect(_user("grace"), code=4242)
        with pytest.raises(Closed):
            await grace.receive()
        await grace.stream.aclose()
        await trio.sleep(1)
        seen = await scrape(running)
        assert (seen("connections"), seen("connections_opened_total")) == (0, 2)
        assert seen.by("connections_closed_total") == {"1000": 1, "4xxx": 1}


def _user(name: str) -> Any:
    from trio_templar import Selection

    return Selection(user=name)


async def test_publications_deliveries_and_bytes_are_those_of_the_clients(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        clients = [await named(running, number, CAR) for number in range(3)]
        before = await scrape(running)
        for _ in range(5):
            await running.gateway.publish([CAR, RIDE], "x" * 100)
        size = 0
        for client in clients:
            for _ in range(5):
                size += len((await client.receive_text()).encode()) + 4  # a header of four bytes
        seen = await scrape(running)
    assert (seen("triggers_total"), seen("publications_total")) == (5, 5)
    assert seen.by("deliveries_total") == {"written": 0, "queued": 15}  # memory streams take nothing at once
    assert seen("sent_bytes_total") - before("sent_bytes_total") == size
    assert seen("publication_seconds_count") == 5


async def test_bytes_of_those_who_left_stay_counted(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        client = await named(running, "ada", CAR)
        await running.gateway.publish([CAR], "x" * 1000)
        await client.receive()
        before = (await scrape(running))("sent_bytes_total")
        await client.aclose()
        await trio.sleep(1)
        assert (await scrape(running))("sent_bytes_total") >= before > 1000


async def test_what_waits_shows_and_so_does_its_end(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await stuck_subscriber(running)
        for _ in range(4):
            await running.gateway.publish([CAR], "x" * 1000)
        seen = await scrape(running)
        assert seen("outbox_bytes") == parts(running).delivery.backlogs.bytes > 3000
        assert seen("slow_connections") == 1
        assert seen.by("deliveries_total")["queued"] >= 3
        assert sum(seen.by("deliveries_total").values()) == 4
        assert seen("memory_bytes", mark="used") == parts(running).delivery.budget.used_bytes > 0
        await trio.sleep(40)
        later = await scrape(running)
    assert sum(later.by("slow_closed_total").values()) == 1
    assert later.by("dropped_total")["disconnect"] >= 2
    assert (later("outbox_bytes"), later("slow_connections")) == (0, 0)
    assert later("outbox_peak_bytes") == seen("outbox_peak_bytes") > 3000


async def test_all_who_show_numbers_show_the_same(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(dialect="3", allow_status=True), backend=FakeBackend([CAR])) as running:
        client = await running.connect()
        await client.receive()
        assert (await client.subscribe(1, CAR))["code"] == "success"
        assert (await client.subscribe(2, RIDE))["code"] == "error"
        await running.gateway.publish([CAR], 1)
        await trio.sleep(2)
        await client.receive()
        statistics, seen = running.gateway.statistics(), await scrape(running)
        async with operator(running.gateway) as caller:
            status = (await caller.get("/status")).json()
            samples = (await caller.get("/trends")).json()["samples"]
        await client.send({"type": "status"})
        told = await client.receive()

    for name in ("connections", "rooms", "subscriptions", "waiting_bytes", "drops", "client_errors", "draining"):
        assert status[name] == getattr(statistics, name), name
    for name in ("triggers", "publications", "deliveries"):
        counted = [getattr(statistics, name), status[name], sum(samples[name]) * SAMPLE_SECONDS]
        shown = sum(value for (found, _), value in seen.samples.items() if found == f"{name}_total")
        assert [*counted, shown] == [1, 1, 1, 1], name
    assert (told["num_rooms"], told["ws_messages_send"]) == (statistics.rooms, statistics.deliveries)


async def test_a_room_channel_shows_while_it_waits_and_its_seconds_count_from_the_trigger(
    autojump_clock: MockClock,
) -> None:
    async with open_gateway_with_rooms() as running:
        publish_to_many(running)
        assert (await scrape(running))("room_channel_bytes") == parts(running).delivery.fanout.in_flight_bytes > 0
        start = trio.current_time()
        while parts(running).delivery.fanout.in_flight_bytes:
            await trio.sleep(0.0001)
        took = trio.current_time() - start
        seen = await scrape(running)
    assert seen("publication_seconds_count") == 3
    assert 0 < seen("publication_seconds_sum") <= 3 * took


async def test_what_is_kept_and_who_comes_back_to_it_shows_everywhere(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms(outbox_frames=10) as running:
        start = running.gateway.history(CAR).at
        for _ in range(3):
            await running.gateway.publish([CAR, RIDE], "x")
        await trio.sleep(4)
        await running.gateway.publish([{"n": 1}], "x")
        for _ in range(20):
            await running.gateway.publish([{"n": 2}], "x")
        client = await named(running, "ada")
        for number, (room, since) in enumerate(
            [(CAR, start), (CAR, start), (CAR, "x"), ({"n": 2}, start), (RIDE, None)]
        ):
            await client.send({"type": "subscribe", "requestId": number, "room": room, "since": since})
        await settled()
        statistics, seen = running.gateway.statistics(), await scrape(running)
        status = await see(running, "/status")
    assert statistics.recoveries == status["recoveries"] == {"recovered": 2, "too large": 1, "unknown": 1}
    assert seen.by("recoveries_total") == statistics.recoveries
    assert statistics.replayed == status["replayed"] == seen("replayed_total") == 6
    assert statistics.history_publications == status["history"]["publications"] == seen("history_publications") == 24
    assert statistics.history_span_seconds == status["history"]["span_seconds"] == seen("history_span_seconds") == 4
    assert statistics.history_bytes == status["history"]["bytes"] == seen("history_bytes") > 24 * 100


async def test_without_a_history_its_numbers_are_0(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(history_seconds=0)) as running:
        await running.gateway.publish([CAR], "x")
        status = await see(running, "/status")
        seen = await scrape(running)
    assert status["history"] == {"publications": 0, "bytes": 0, "span_seconds": 0}
    assert seen.by("recoveries_total") == {"recovered": 0, "too large": 0, "unknown": 0}


async def test_bootstraps_and_refusals_are_counted_by_what_came_of_them(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_connections=1)) as running:
        running.backend.seconds = 0.2
        for error in (Refused(401), Unavailable("down"), RuntimeError("a fault")):
            running.backend.error = error
            with pytest.raises(Rejected):
                await running.connect()
        with pytest.raises(Rejected):
            await running.connect({"Origin": "https://evil.example"})
        with pytest.raises(Rejected):
            await running.connect(target="/nothing")
        running.backend.error = None
        await running.connect()
        with pytest.raises(Rejected):
            await running.connect()
        seen = await scrape(running)
    assert seen.by("bootstraps_total") == {"admitted": 1, "refused": 1, "unavailable": 2}
    assert seen.by("handshakes_refused_total") == {
        "not authorized": 1,
        "API down": 2,
        "origin": 1,
        "path": 1,
        "full": 1,
    }
    assert seen("bootstrap_seconds_count") == 4
    assert seen("bootstrap_seconds_sum") == pytest.approx(0.8)
    assert seen("bootstrap_seconds_bucket", le="0.1") == 0
    assert seen("bootstrap_seconds_bucket", le="0.25") == 4


async def test_requests_are_counted_by_path_and_status_and_nobody_makes_up_paths(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        async with operator(running.gateway) as caller:
            await caller.post("/trigger/", json={"rooms": [CAR], "data": 1})
            await caller.post("/trigger", json={"rooms": [CAR], "data": 1})
            await caller.post("/trigger/", json={})
            await caller.get("/trigger/")
            for number in range(10):
                await caller.get(f"/made/up/{number}")
            seen = Scrape((await caller.get("/metrics")).text)
    assert seen.by("trigger_requests_total") == {"200": 2, "400": 1, "405": 1}
    assert seen("http_requests_total", path="other", status="404") == 10
    assert len([name for name, _ in seen.samples if name == "http_requests_total"]) == 4


async def test_a_busy_event_loop_shows_as_lag(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        await trio.sleep(10)
        seen = await scrape(running)
        assert seen("lag_seconds_count") > 30
        assert seen("lag_seconds_sum") == 0
        autojump_clock.jump(3)  # as if something had kept the loop for so long
        await trio.sleep(1)
        late = await scrape(running)
        assert 2.5 < late("lag_seconds_sum") <= 3
        assert late("lag_seconds_bucket", le="2.5") == late("lag_seconds_count") - 1


async def test_draining_shows(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await stuck_subscriber(running)
        async with operator(running.gateway) as caller:
            running.gateway.drain()
            assert Scrape((await caller.get("/metrics")).text)("draining") == 1


async def test_canaries_are_not_measured(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        await trio.sleep(10)
        seen = await scrape(running)
    assert seen("publication_seconds_count") == seen("deliveries_total", how="written") == 0
    assert seen("sent_bytes_total") == 0


async def test_every_family_is_told_with_its_type_and_its_help(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running, operator(running.gateway) as caller:
        text = (await caller.get("/metrics")).text
    told = {family.name: family for family in text_string_to_metric_families(text)}
    for family in FAMILIES:
        assert (told[f"trio_templar_{family.name}"].type, told[f"trio_templar_{family.name}"].documentation) == (
            family.kind,
            family.help,
        )


async def test_it_needs_the_token(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(trigger_token="s3cret")) as running, operator(running.gateway) as caller:
        assert (await caller.get("/metrics")).status_code == 401


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_metrics", ROOT / "docs/make_metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_and_the_dashboard_are_what_the_table_says() -> None:
    module = maker()
    assert module.PAGE.read_text() == module.page(), "run `python docs/make_metrics.py`"
    assert module.DASHBOARD.read_text() == module.dashboard(), "run `python docs/make_metrics.py`"


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    there = {family.full_name for family in FAMILIES}
    panels = json.loads(maker().dashboard())["panels"]
    asked = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"trio_\w+", target["expr"])
    }
    assert {name.removesuffix("_bucket") for name in asked} == there - {"trio_templar_info"}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)


def test_a_value_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.1, 0.2, 1.0, 1.1):
        histogram.observe(seconds)
    histogram.observe(5.0, 10)
    assert histogram.counts == [1, 2, 11]
    assert histogram.seconds == pytest.approx(52.4)


def test_close_codes_of_clients_make_no_more_labels_than_there_are_thousands() -> None:
    counts = ConnectionCounts()
    for code in range(1000, 5000):
        counts.close(code, 1, code)
    assert len(counts.closed) == 16 + 4
    assert sum(counts.closed.values()) == counts.sent_bytes == 4000
    assert counts.peak_bytes == 4999
