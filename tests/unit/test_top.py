"""`trio-templar top` and `tree`: what a gateway says of itself, as rows and branches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from rich.console import Console

from tests.unit.conftest import CAR
from trio_templar import Settings
from trio_templar.commands.addresses import http_address
from trio_templar.commands.gateway_api import GatewayApi
from trio_templar.commands.screen import duration, picture, show, size
from trio_templar.commands.snapshots import Snapshots
from trio_templar.commands.tree import drawn
from trio_templar.testing import FakeBackend, MemoryGateway, open_gateway

PORT = Settings(bind=(), trigger_bind="127.0.0.1:0")


@asynccontextmanager
async def calling() -> AsyncIterator[tuple[MemoryGateway, GatewayApi]]:
    """A gateway, and a caller of its HTTP API."""
    backend = FakeBackend([CAR])
    backend.answer = {"user": {"id": "a[bold]da\x1b"}}
    async with open_gateway(PORT, backend=backend) as running:
        async with GatewayApi(http_address(running.gateway.trigger_url, PORT), timeout_seconds=10) as api:
            yield running, api


def printed(snapshot: dict[str, object]) -> str:
    console = Console(width=120, record=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(picture(snapshot))
    return capture.get()


async def test_a_snapshot_has_totals_rates_connections_and_rooms() -> None:
    async with calling() as (running, api):
        client = await running.subscriber(1, CAR)
        await client.subscribe(2, CAR, since="of another gateway")
        await client.send({"type": "unsubscribe", "requestId": 2})
        await client.receive()
        snapshots = Snapshots(api, rows=5)
        assert (await snapshots.take())["per_second"] == {"triggers": None, "publications": None, "deliveries": None}
        for _ in range(3):
            await running.gateway.publish([CAR], 1)
        snapshot = await snapshots.take()
        assert snapshot["status"]["deliveries"] == 3
        assert snapshot["per_second"]["deliveries"] == snapshot["per_second"]["triggers"] > 0
        text = printed(snapshot)
        assert '{"target": "car"}' in text
        assert '"a[bold]da\\u001b"' in text  # as it is, and nothing that a terminal obeys
        assert "1 connections  1 rooms  1 subscriptions" in text
        assert f"3 publications kept, {size(snapshot['status']['history']['bytes'])}, of 0 s" in text
        assert "came back: unknown 1\n" in text


async def test_rates_are_differences_and_start_again_with_the_gateway() -> None:
    async with calling() as (_, api):
        snapshots = Snapshots(api, rows=1)
        before = {"uptime_seconds": 9.0, "triggers": 10, "publications": 10, "deliveries": 100}
        snapshots._last = (5.0, before)
        later = {"uptime_seconds": 11.0, "triggers": 12, "publications": 10, "deliveries": 300}
        assert snapshots._per_second(7.0, later) == {"triggers": 1, "publications": 0, "deliveries": 100}
        fresh = {"uptime_seconds": 1.0, "triggers": 2, "publications": 2, "deliveries": 4}
        assert snapshots._per_second(7.0, fresh) == {"triggers": 1, "publications": 1, "deliveries": 2}


async def test_once_prints_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    async with calling() as (_, api):
        await show(Snapshots(api, rows=5), 1, once=True)
    assert capsys.readouterr().out.count("trio-templar ") == 1


async def test_the_tree_of_a_gateway_is_drawn() -> None:
    async with calling() as (running, api):
        await running.connect()
        lines = list(drawn(await api.get("/tree")))
        assert any(line.endswith("─ connections") for line in lines)
        assert any("─ connection " in line for line in lines)


def test_branches_are_drawn_to_their_end() -> None:
    leaf = {"name": "reader", "count": 3, "children": []}
    tree = {
        "name": "serve",
        "count": 1,
        "children": [
            {"name": "a", "count": 1, "children": [leaf, leaf]},
            {"name": "b", "count": 1, "children": [leaf]},
        ],
    }
    assert list(drawn(tree)) == [
        "serve",
        "├─ a",
        "│  ├─ reader × 3",
        "│  └─ reader × 3",
        "└─ b",
        "   └─ reader × 3",
    ]


def test_sizes_and_times_are_short() -> None:
    assert [size(number) for number in (0, 1023, 1536, 2**20, 5 * 2**30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "1.0 MiB",
        "5.0 GiB",
    ]
    times = [duration(seconds) for seconds in (5.9, 65, 3600, 90_000)]
    assert times == ["5 s", "1 min 5 s", "1 h 0 min", "1 d 1 h"]
