"""Hooks: once, in order, within their time; one that fails harms nobody."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import quiet, settled
from trio_templar import Client, Close, Hooks, Refused
from trio_templar.testing import FakeBackend, MemoryGateway, Rejected, WebsocketClient, open_gateway


class Heard:
    """Hooks that remember when they were called with what; each takes `seconds`."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.calls: list[tuple[str, float]] = []
        self.clients: list[Client] = []
        self.done = 0
        self.hooks = Hooks(self.connect, self.ping, self.disconnect)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    async def connect(self, client: Client) -> None:
        await self.note("connect", client)

    async def ping(self, client: Client) -> None:
        await self.note("ping", client)

    async def disconnect(self, client: Client) -> None:
        await self.note("disconnect", client)

    async def note(self, name: str, client: Client) -> None:
        self.calls.append((name, trio.current_time()))
        self.clients.append(client)
        await trio.sleep(self.seconds)
        self.done += 1


async def test_each_admitted_client_connects_and_disconnects_once(autojump_clock: MockClock) -> None:
    heard = Heard()
    backend = FakeBackend()
    backend.answer = {"user": {"id": 7}}
    async with open_gateway(quiet(), hooks=heard.hooks, backend=backend) as running:
        client = await running.connect({"Cookie": "a=1"})
        await client.receive()
        assert heard.names == ["connect"]
        await client.aclose(4000)
        await settled()
    assert heard.names == ["connect", "disconnect"]
    first, last = heard.clients
    assert (first.id, first.user_id, first.close) == (last.id, 7, None)
    assert last.close == Close(4000, "")
    assert first.request.header(b"cookie") == b"a=1"
    assert (b"Cookie", b"a=1") in first.headers


async def test_a_client_whose_line_is_cut_disconnects_too(autojump_clock: MockClock) -> None:
    heard = Heard()
    async with open_gateway(quiet(), hooks=heard.hooks) as running:
        client = await running.connect()
        await client.stream.aclose()
        await settled()
    assert heard.names == ["connect", "disconnect"]
    assert heard.clients[-1].close is not None
    assert heard.clients[-1].close.code == 1006


@pytest.mark.parametrize("dialect", ["2", "3"])
async def test_a_refused_client_has_no_hooks(dialect: str, autojump_clock: MockClock) -> None:
    heard = Heard()
    async with open_gateway(quiet(dialect=dialect), hooks=heard.hooks) as running:
        running.backend.error = Refused()
        try:
            client = await running.connect()
            await client.receive()
            await client.stream.aclose()
        except Rejected:
            assert dialect == "2"
        await settled()
    assert heard.calls == []


async def test_a_drain_runs_the_disconnect_hooks_to_their_end(autojump_clock: MockClock) -> None:
    heard = Heard(seconds=3)
    async with open_gateway(quiet(), hooks=heard.hooks) as running:
        clients = [await running.connect() for _ in range(2)]
        await trio.sleep(5)
        running.gateway.stop()
        await settled()
        for client in clients:
            await client.stream.aclose()
        await running.served.wait()
        assert trio.current_time() == 8
    assert sorted(heard.names) == ["connect", "connect", "disconnect", "disconnect"]
    assert heard.done == 4
    assert {client.close.code for client in heard.clients if client.close} == {1012}


async def test_a_disconnect_waits_for_the_connect(autojump_clock: MockClock) -> None:
    heard = Heard(seconds=4)
    async with open_gateway(quiet(), hooks=heard.hooks) as running:
        client = await running.connect()
        await trio.sleep(1)
        await client.stream.aclose()
        await trio.sleep(10)
    assert heard.calls == [("connect", 0), ("disconnect", 4)]


async def test_pings_are_told_at_most_every_so_often(autojump_clock: MockClock) -> None:
    heard = Heard()
    async with open_gateway(quiet(ping_hook_seconds=60), hooks=heard.hooks) as running:
        client = await running.connect()
        await client.receive()
        for _ in range(13):
            await client.send("ping")
            assert await client.receive() == "pong"
            await trio.sleep(10)
    assert [call for call in heard.calls if call[0] == "ping"] == [("ping", 0), ("ping", 60), ("ping", 120)]


async def test_one_ping_hook_is_under_way_at_most(autojump_clock: MockClock) -> None:
    heard = Heard(seconds=5)
    async with open_gateway(quiet(ping_hook_seconds=1), hooks=heard.hooks) as running:
        client = await running.connect()
        await client.receive()
        await trio.sleep(6)
        for _ in range(10):
            await client.send("ping")
            assert await client.receive() == "pong"
            await trio.sleep(1)
    assert [when for name, when in heard.calls if name == "ping"] == [6, 11]


async def test_a_hook_has_a_deadline(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard(seconds=100)
    async with open_gateway(quiet(hook_seconds=10), hooks=heard.hooks) as running:
        client = await running.connect()
        await client.receive()
        await client.stream.aclose()
        await trio.sleep(30)
    assert (heard.calls, heard.done) == ([("connect", 0), ("disconnect", 10)], 0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "connect hook" in caplog.messages[0]
    assert "hook_seconds" in caplog.messages[0]


@pytest.mark.parametrize("error", [ValueError("boom"), KeyError("x"), ExceptionGroup("both", [OSError(1, "x")])])
async def test_a_hook_that_fails_is_logged_and_harms_nobody(
    error: Exception, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(client: Client) -> None:
        raise error

    async with open_gateway(quiet(), hooks=Hooks(fail, fail, fail)) as running:
        client = await running.connect()
        await client.receive()
        await settled()
        await client.send("ping")
        assert await client.receive() == "pong"
        await client.aclose()
        await settled()
        assert await (await running.connect()).receive() == {"allowed_rooms": []}
    said = [message.partition(" hook")[0] for message in caplog.messages]
    assert said[:3] == ["connect", "ping", "disconnect"]


async def test_the_welcome_does_not_wait_for_the_connect_hook(autojump_clock: MockClock) -> None:
    heard = Heard(seconds=5)
    async with open_gateway(quiet(), hooks=heard.hooks) as running:
        client = await running.connect()
        assert await client.receive() == {"allowed_rooms": []}
        assert trio.current_time() == 0


async def test_cancelling_ends_hooks_now(autojump_clock: MockClock) -> None:
    heard = Heard(seconds=1000)
    async with open_gateway(quiet(hook_seconds=2000), hooks=heard.hooks) as running:
        await running.connect()
        await trio.sleep(1)
    assert (trio.current_time(), heard.done) == (1, 0)


def test_a_client_shows_no_header_when_printed() -> None:
    request: Any = None
    assert "s3cret" not in repr(Client("id", 1, request, [(b"Cookie", b"s3cret")]))


def test_no_hooks_are_false() -> None:
    assert not Hooks()
    assert Heard().hooks


# Many at once


async def leave(running: MemoryGateway, clients: list[WebsocketClient]) -> None:
    for client in clients:
        await client.stream.aclose()
    await settled()
    assert running.gateway.statistics().connections == 0


async def test_when_many_leave_each_is_told_in_its_turn(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard(seconds=1)
    settings = quiet(max_bootstraps=2, hook_seconds=1.5)
    async with open_gateway(settings, hooks=Hooks(disconnect=heard.disconnect)) as running:
        await leave(running, [await running.connect() for _ in range(50)])
        await trio.sleep(26)
    assert [when for _, when in heard.calls] == [second for second in range(25) for _ in range(2)]
    assert heard.done == 50
    assert caplog.messages == []


async def test_more_calls_than_clients_may_be_there_do_not_wait_and_that_is_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard(seconds=1)
    settings = quiet(max_bootstraps=1, max_connections=3)
    async with open_gateway(settings, hooks=Hooks(disconnect=heard.disconnect)) as running:
        for _ in range(2):
            await leave(running, [await running.connect() for _ in range(3)])
        await trio.sleep(10)
        assert (len(heard.calls), heard.done) == (4, 4)
        assert caplog.messages == [
            "hook calls are left out: 3 wait already (max_connections)",
            "2 hook calls were left out",
        ]
        await leave(running, [await running.connect()])  # and then it goes on as ever
        await trio.sleep(2)
        assert heard.done == 5


async def test_what_no_time_was_left_for_is_said(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard(seconds=3)
    settings = quiet(max_bootstraps=2, drain_seconds=5)
    async with open_gateway(settings, hooks=Hooks(disconnect=heard.disconnect)) as running:
        clients = [await running.connect() for _ in range(7)]
        running.gateway.stop()
        await settled()
        await leave(running, clients)
        await running.served.wait()
        assert trio.current_time() == 5
    assert (len(heard.calls), heard.done) == (4, 2)
    assert caplog.messages == ["5 hook calls were not made, or not to their end: the gateway had to end"]
