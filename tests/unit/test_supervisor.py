"""The supervisor: who is slow, silent or idle, to the digit of virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from tests.unit.conftest import CAR, FakeTransport, Now, Steps, make_backlogs, parts, quiet, settled
from tests.unit.test_outbox import batch, make_client
from trio_templar.clients.selection import Selection
from trio_templar.clients.supervisor import Supervisor, Timeouts
from trio_templar.clock import Clock
from trio_templar.core.frames import Publication, close_frame
from trio_templar.core.history import History, Span
from trio_templar.core.policies import Policy
from trio_templar.core.position import Positions
from trio_templar.core.recovery import TRIMMED_ENTRIES, Recovery, no_recovery
from trio_templar.core.rooms import room_key
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.outbox import Outbox
from trio_templar.errors import CROWDED, LAGGING, SILENT, STALE, STUCK, Close
from trio_templar.testing import Closed, FakeBackend, MemoryGateway, WebsocketClient, open_gateway


@asynccontextmanager
async def reading(client: WebsocketClient, ended: list[tuple[float, Close]]) -> AsyncIterator[None]:
    """Read what `client` gets, and note when and how it ends."""

    async def read() -> None:
        try:
            while True:
                await client.receive_text()
        except Closed as closed:
            ended.append((trio.current_time(), closed.close))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        yield
        nursery.cancel_scope.cancel()


async def over(running: MemoryGateway) -> float:
    """Wait until nobody is connected and return when that was."""
    await trio.sleep(0.0625)  # never look just when something happens
    with trio.fail_after(1000):
        while running.gateway.statistics().connections:
            await trio.sleep(0.125)  # noqa: ASYNC110  # virtual time
    return trio.current_time()


# Silence


async def test_a_silent_client_is_pinged_and_one_that_answers_stays(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(ping_seconds=30, pong_seconds=20)) as running:
        client = await running.connect()
        ended: list[tuple[float, Close]] = []
        async with reading(client, ended):
            await trio.sleep(30.5)
            assert client.pings == 1
            await trio.sleep(300)
        assert client.pings == 11
        assert ended == []


async def test_a_client_that_does_not_answer_is_closed(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(ping_seconds=30, pong_seconds=20, goodbye_seconds=2)) as running:
        client = await running.connect()
        assert await over(running) == 52 + 0.0625
        received = bytes(await client.stream.receive_some())
        assert received.endswith(b"\x89\x00" + close_frame(SILENT))


async def test_a_client_that_speaks_is_not_pinged(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(ping_seconds=30)) as running:
        client = await running.connect()
        ended: list[tuple[float, Close]] = []
        async with reading(client, ended):
            for _ in range(20):
                await trio.sleep(20)
                await client.send("ping")
        assert (client.pings, ended) == (0, [])


async def test_half_a_frame_is_a_sign_of_life(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(ping_seconds=30, pong_seconds=20)) as running:
        client = await running.connect()
        await client.stream.send_all(b"\x81\xfe\x04\x00\0\0\0\0")
        for _ in range(50):
            await trio.sleep(20)
            await client.stream.send_all(b"x")
        assert running.gateway.statistics().connections == 1


# Idleness


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [({"dialect": "3"}, 300), ({"idle_seconds": 70}, 70), ({"dialect": "3", "idle_seconds": 40}, 40)],
    ids=repr,
)
async def test_a_client_without_messages_is_closed(
    settings: dict[str, Any], seconds: float, autojump_clock: MockClock
) -> None:
    async with open_gateway(quiet(**settings)) as running:
        client = await running.connect()
        ended: list[tuple[float, Close]] = []
        async with reading(client, ended):
            await trio.sleep(1000)
        assert ended == [(seconds, Close(1000, "no message for too long"))]


@pytest.mark.parametrize("settings", [{}, {"dialect": "3", "idle_seconds": 0}], ids=repr)
async def test_a_client_may_be_idle_for_ever_where_it_may(settings: dict[str, Any], autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(**settings)) as running:
        client = await running.connect()
        ended: list[tuple[float, Close]] = []
        async with reading(client, ended):
            await trio.sleep(3000)
        assert ended == []


async def test_a_message_puts_idleness_off(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(dialect="3")) as running:
        client = await running.connect()
        ended: list[tuple[float, Close]] = []
        async with reading(client, ended):
            await trio.sleep(200)
            await client.send("ping")
            await trio.sleep(1000)
        assert [when for when, _ in ended] == [500]


# Slowness


async def test_a_client_that_takes_nothing_is_cut(autojump_clock: MockClock) -> None:
    settings = quiet(slow_seconds=15, goodbye_seconds=2)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        await trio.sleep(5.5)
        await running.gateway.publish([CAR], 1)
        assert running.gateway.statistics().slow_connections == 1
        await trio.sleep_until(22.9)  # first seen at 6, cut at 21, and two seconds for the goodbye
        assert running.gateway.statistics().connections == 1
        await trio.sleep_until(23.1)
        assert running.gateway.statistics().connections == 0
        assert running.gateway.statistics().waiting_bytes == 0


async def test_a_client_that_takes_a_little_is_slow_but_stays(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(slow_seconds=15), backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        for number in range(20):
            await running.gateway.publish([CAR], number)
            await running.gateway.publish([CAR], number)
        for _ in range(40):
            await trio.sleep(1)
            if running.gateway.statistics().slow_connections == 0:
                break
            await client.receive()
        assert running.gateway.statistics().connections == 1


# What it decides, without a gateway


def supervisor(backlogs: Backlogs, **changes: Any) -> Supervisor:
    bounds = {"slow": 10.0, "age": 1000.0, "ping": 30.0, "pong": 20.0, "idle": None, **changes}
    return Supervisor(Timeouts(**bounds), [], backlogs, Clock(), no_recovery())


async def test_progress_is_any_byte() -> None:
    client = make_client(0)
    watch = supervisor(client.backlogs)
    client.outbox.put(client.subscription, batch("x" * 50))
    for now in range(0, 90, 9):
        await watch.look(now)
        client.write(1)
    assert client.outbox.closed is None
    await watch.look(90)
    await watch.look(99)
    assert client.outbox.closed is None
    await watch.look(100)
    assert client.outbox.closed == STUCK


async def test_a_burst_that_drains_is_no_offence() -> None:
    client = make_client(0, max_bytes=1000)
    watch = supervisor(client.backlogs)
    for start in range(0, 100, 10):
        client.outbox.put(client.subscription, batch("x" * 900))
        for now in range(start, start + 9):
            await watch.look(now)
        client.write_all()
        await watch.look(start + 9)
        client.transport.takes = [0]
    assert client.outbox.closed is None


async def test_who_stays_over_half_of_its_bytes_is_cut_although_it_makes_progress() -> None:
    client = make_client(0, max_bytes=1000)
    watch = supervisor(client.backlogs)
    client.outbox.put(client.subscription, batch("x" * 900))
    for now in range(10):
        await watch.look(now)
        client.write(1)
    assert client.outbox.closed is None
    await watch.look(10)
    assert client.outbox.closed == LAGGING


@pytest.mark.parametrize("kind", ["drop_oldest", "conflate"])
async def test_a_client_that_may_lose_what_waits_is_not_cut_for_it_while_it_makes_progress(
    kind: Literal["drop_oldest", "conflate"],
) -> None:
    client = make_client(0, max_bytes=1000)
    assert client.subscription.room is not None
    client.subscription.room.policy = Policy(kind, 1000, ("id",))
    watch = supervisor(client.backlogs)
    for now in range(40):
        for number in range(10):
            client.outbox.put(client.subscription, batch({"id": number, "x": "x" * 100}))
        assert client.outbox.waiting_bytes > 500
        await watch.look(now)
        client.write(1)
    assert client.outbox.closed is None


async def test_who_comes_below_half_of_its_bytes_in_between_stays() -> None:
    client = make_client(0, max_bytes=1000)
    watch = supervisor(client.backlogs)
    for now in range(40):
        if now % 9 == 0:
            client.write_all()
            client.transport.takes = [0]
            client.outbox.put(client.subscription, batch("x" * 400))
        if now % 9 == 1:
            client.outbox.put(client.subscription, batch("x" * 400))
        await watch.look(now)
        client.write(1)
    assert client.outbox.closed is None


async def test_what_waits_for_too_long_cuts_the_client_where_it_must_not_be_lost() -> None:
    now = Now()
    client = make_client(0, now=now)
    watch = supervisor(client.backlogs, age=20)
    client.outbox.put(client.subscription, batch("x" * 50))
    for now.time in range(20):
        await watch.look(now.time)
        client.write(1)
    assert client.outbox.closed is None
    await watch.look(20)
    assert client.outbox.closed == STALE


async def test_those_for_whom_most_waits_go_while_memory_is_short_and_of_these_the_oldest() -> None:
    now = Now()
    backlogs = make_backlogs(now=now)
    outboxes = []
    for now.time, size in enumerate((300, 100, 500, 500, 200)):
        transport = FakeTransport([0])
        outbox = Outbox(transport, transport, backlogs)
        outbox.reply(b"x")
        subscription = make_client().subscription
        outbox.put(subscription, batch("x" * size))
        outboxes.append(outbox)
    budget = backlogs.budget
    budget.hard_bytes = budget.used_bytes
    await supervisor(backlogs).relieve()
    assert [outbox.closed for outbox in outboxes] == [None] * 5
    closed = []
    while any(outbox.closed is None for outbox in outboxes):
        budget.hard_bytes = budget.used_bytes - 1
        await supervisor(backlogs).relieve()
        closed += [index for index, outbox in enumerate(outboxes) if outbox.closed and index not in closed]
    assert closed == [2, 3, 0, 4, 1]
    assert {outbox.closed for outbox in outboxes} == {CROWDED}


async def test_the_worst_are_closed_as_soon_as_memory_is_short(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(memory_bytes=20_000, goodbye_seconds=1), backend=FakeBackend([CAR])) as running:
        clients = [await running.connect(make_pair=lockstep_stream_pair) for _ in range(3)]
        for client in clients:
            await client.receive()
            await client.subscribe(1, CAR)
        await settled()
        await running.gateway.publish([CAR], "x" * 2000)
        assert running.gateway.statistics().slow_connections == 3
        parts(running).delivery.budget.take(20_000)  # something else
        await settled()
        assert running.gateway.statistics().drops["memory"] == 3
        assert trio.current_time() < 1


async def test_what_waits_for_a_client_that_is_being_closed_goes_too_while_memory_is_short(
    autojump_clock: MockClock,
) -> None:
    settings = quiet(memory_bytes=100_000, drain_seconds=60)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        await settled()
        for number in range(5):
            await running.gateway.publish([CAR], f"{number}{'x' * 2000}")
        running.gateway.drain()
        await settled()
        assert (running.gateway.statistics().draining, running.gateway.statistics().waiting_bytes > 8000) == (
            True,
            True,
        )
        budget = parts(running).delivery.budget
        for _ in range(3):  # also when memory stays short
            budget.take(100_000)
            await settled()
            assert running.gateway.statistics().waiting_bytes < 2100, "the one that is under way"
            budget.give(100_000)
        statistics = running.gateway.statistics()
        assert (statistics.dropped["disconnect"], statistics.drops["memory"]) == (4, 0), "it was not closed for that"
        assert (await client.receive())["data"][0] == "0"
        with pytest.raises(Closed, match="1012"):
            await client.receive()
        await client.stream.aclose()


async def test_a_client_that_is_silent_while_it_is_being_closed_keeps_what_waits(autojump_clock: MockClock) -> None:
    settings = quiet(ping_seconds=1, pong_seconds=1, goodbye_seconds=10)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        await settled()
        for number in range(2):
            await running.gateway.publish([CAR], number)
        await running.gateway.disconnect(Selection(room=room_key(CAR)))
        await trio.sleep(5)
        assert [(await client.receive())["data"] for _ in range(2)] == [0, 1]
        with pytest.raises(Closed, match="4000"):
            await client.receive()
        await client.stream.aclose()


def test_it_looks_often_enough_for_the_shortest_patience() -> None:
    def tick(**changes: Any) -> float:
        bounds: dict[str, Any] = {"slow": 15, "age": 60, "ping": 30, "pong": 20, "idle": None, **changes}
        return Timeouts(**bounds).tick

    assert tick() == 1
    assert tick(slow=2) == tick(age=2) == tick(pong=2) == tick(ping=2) == tick(idle=2) == 0.5


def test_after_a_suspended_machine_everybody_gets_time_again() -> None:
    clock = MockClock()

    async def main() -> None:
        async with open_gateway(quiet(ping_seconds=30, pong_seconds=20, dialect="3")) as running:
            await running.connect()
            await settled()
            clock.jump(10_000)
            await settled()
            for _ in range(25):
                clock.jump(1)
                await settled()
            assert running.gateway.statistics().connections == 1
            for _ in range(60):
                clock.jump(1)
                await settled()
            assert running.gateway.statistics().connections == 0

    trio.run(main, clock=clock)


async def test_others_get_their_turn_between_two_clients_that_are_cut(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(slow_seconds=15), backend=FakeBackend([CAR])) as running:
        for _ in range(10):
            client = await running.connect(make_pair=lockstep_stream_pair)
            await client.receive()
            await client.subscribe(1, CAR)
        await running.gateway.publish([CAR], 1)
        with Steps(lambda: running.gateway.statistics().drops["progress"]) as cuts:
            await trio.sleep_until(16.5)
        assert (sum(cuts), max(cuts)) == (10, 1)


async def late(work: float) -> float:
    """Return what the clock that clients are judged by says after a minute in which the process worked so long."""
    cpu = Now()
    clock = Clock()
    watch = Supervisor(
        Timeouts(slow=15, age=60, ping=30, pong=20, idle=None), [], make_backlogs(), clock, no_recovery(), cpu
    )
    virtual = trio.lowlevel.current_clock()
    assert isinstance(virtual, MockClock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.supervisor_loop)
        await settled()
        virtual.jump(60)
        cpu.time += work
        await settled()
        now = clock.now()
        nursery.cancel_scope.cancel()
    return now


async def test_time_without_work_is_forgiven_and_work_is_not(mock_clock: MockClock) -> None:
    assert await late(0.0) == 1
    begun = trio.current_time()
    assert await late(60.0) == begun + 60


async def test_of_time_with_some_work_the_rest_is_forgiven(mock_clock: MockClock) -> None:
    assert await late(20.0) == 20


# What is only kept


def history_of(count: int) -> History:
    """Return a history of `count` publications of one room, all from the start of time."""
    history = History(Positions(), Span(60, 10**7))
    for position in range(history.positions.last + 1, history.positions.last + 1 + count):
        history.add(position, [b"{}"], Publication(b"", b"%0100d" % position), 0.0)
    return history


async def test_what_is_kept_goes_before_anybody_is_cut() -> None:
    history = history_of(100)
    client = make_client(0)
    backlogs = client.backlogs
    backlogs.budget = Budget(1000, history)
    client.outbox.put(client.subscription, batch("x" * 1100))
    assert backlogs.budget.exceeded
    await supervisor(backlogs).relieve()
    assert (len(history), client.outbox.closed) == (0, CROWDED)


async def test_what_is_kept_and_in_the_way_goes_at_the_next_tick(autojump_clock: MockClock) -> None:
    history = history_of(100)
    backlogs = Backlogs(10**6, 1000, Budget(2 * history.bytes, history), Now())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor(backlogs).supervisor_loop)
        backlogs.budget.take(history.bytes // 2)
        await trio.sleep(2)
        assert 45 < len(history) < 55
        backlogs.budget.give(backlogs.budget.used_bytes)
        nursery.cancel_scope.cancel()


async def test_an_idle_gateway_forgets_what_is_too_old_and_others_have_their_turn(autojump_clock: MockClock) -> None:
    history = history_of(3 * TRIMMED_ENTRIES + 1)
    watch = Supervisor(
        Timeouts(slow=10, age=60, ping=30, pong=20, idle=None),
        [],
        make_backlogs(),
        Clock(),
        Recovery(history, trio.current_time),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.supervisor_loop)
        await trio.sleep(59.5)
        assert len(history) == 3 * TRIMMED_ENTRIES + 1
        with Steps(lambda: -len(history)) as forgotten:
            await trio.sleep(2)
        assert len(history) == 0
        assert [count for count in forgotten if count] == [TRIMMED_ENTRIES] * 3 + [1]
        nursery.cancel_scope.cancel()
