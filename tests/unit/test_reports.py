"""The delivery report: four counts that add up, known after the pass, settled when every kernel has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from trio.testing import MockClock

from tests.unit.conftest import FakeTransport, local_bus, make_backlogs, settled, write_all
from tests.unit.test_fanout import MANY
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.hub import Hub, Subscription
from trio_templar.core.policies import Policies, RoomPolicy
from trio_templar.core.triggers import Trigger
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.bus import LocalBus
from trio_templar.delivery.entrance import Bounds
from trio_templar.delivery.fanout import Fanout
from trio_templar.delivery.outbox import Outbox
from trio_templar.delivery.tally import Report, RoomTally
from trio_templar.errors import GONE

BOUNDS = Bounds(room_publications=100, room_bytes=10**6, max_triggers_waiting=10, wait_seconds=5)
LATEST = RoomPolicy(match={"room": "latest"}, policy="conflate")
RECENT = RoomPolicy(match={"room": "recent"}, policy="drop_oldest", outbox_bytes=100)


@dataclass
class Client:
    outbox: Outbox
    transport: FakeTransport
    subscription: Subscription

    def read(self) -> None:
        write_all(self.outbox)


@dataclass
class Gateway:
    hub: Hub
    fanout: Fanout
    bus: LocalBus
    backlogs: Backlogs

    def client(self, room: str, *takes: int) -> Client:
        """A client of `room` whose socket takes so many bytes at each write, and everything after these."""
        transport = FakeTransport(list(takes))
        outbox = Outbox(transport, transport, self.backlogs)
        return Client(outbox, transport, self.hub.subscribe(key(room), outbox, b"1"))

    def publish(self, *rooms: str, report: Report | None = None) -> list[RoomTally]:
        report = report or Report()
        tallies = report.tallies(len(rooms))
        publication = DIALECTS["2"].publication(b'"0123456789"')
        self.bus.append_nowait([Trigger([key(room) for room in rooms], publication, tallies)])
        return list(tallies)


def key(room: str) -> bytes:
    return b'{"room":"%s"}' % room.encode()


def counts(tally: RoomTally) -> tuple[int, ...]:
    """Subscriptions, written, queued, conflated, dropped, waiting."""
    return tuple(tally.counts(waiting=True).values())


@asynccontextmanager
async def running() -> AsyncIterator[Gateway]:
    backlogs = make_backlogs()
    hub = Hub(Policies([LATEST, RECENT], backlogs.max_bytes))
    async with trio.open_nursery() as nursery:
        fanout = Fanout(hub, nursery, backlogs.budget, BOUNDS)
        yield Gateway(hub, fanout, local_bus(hub, fanout), backlogs)


async def test_what_was_written_at_once_and_what_waits_are_told_apart() -> None:
    async with running() as gateway:
        gateway.client("car")
        slow = gateway.client("car", 5)
        report = Report()
        [tally] = gateway.publish("car", report=report)
        assert counts(tally) == (2, 1, 1, 0, 0, 1)
        await report.offered()
        slow.read()
        assert counts(tally) == (2, 1, 1, 0, 0, 0)
        await report.settled()


async def test_a_room_without_subscribers_has_zeros_and_is_settled() -> None:
    async with running() as gateway:
        report = Report()
        [tally] = gateway.publish("nobody", report=report)
        await report.settled()
        assert counts(tally) == (0, 0, 0, 0, 0, 0)


async def test_the_report_of_a_large_room_is_known_after_its_pass(autojump_clock: MockClock) -> None:
    async with running() as gateway:
        for _ in range(MANY):
            gateway.client("car")
        report = Report()
        small, large = gateway.publish("nobody", "car", report=report)
        with trio.move_on_after(0) as scope:
            await report.offered()
        assert scope.cancelled_caught
        await report.offered()
        assert (counts(small)[0], counts(large)) == (0, (MANY, MANY, 0, 0, 0, 0))


async def test_a_room_named_twice_has_two_entries() -> None:
    async with running() as gateway:
        gateway.client("car")
        assert [counts(tally)[:2] for tally in gateway.publish("car", "car")] == [(1, 1), (1, 1)]


async def test_a_newer_publication_moves_what_waited_to_conflated() -> None:
    async with running() as gateway:
        slow = gateway.client("latest", 0)
        [torn], [first], [second] = [gateway.publish("latest") for _ in range(3)]
        assert [counts(each) for each in (torn, first, second)] == [
            (1, 0, 1, 0, 0, 1),
            (1, 0, 0, 1, 0, 0),
            (1, 0, 1, 0, 0, 1),
        ]
        slow.read()
        assert [counts(each)[-1] for each in (torn, first, second)] == [0, 0, 0]


async def test_what_a_policy_drops_is_dropped_in_the_report() -> None:
    async with running() as gateway:
        gateway.client("recent", 0)
        tallies = [gateway.publish("recent")[0] for _ in range(5)]
        assert [counts(each)[2:5] for each in tallies] == [(1, 0, 0), (0, 0, 1), (0, 0, 1), (1, 0, 0), (1, 0, 0)]


async def test_a_client_that_is_cut_or_leaves_drops_what_waits_for_it() -> None:
    async with running() as gateway:
        cut, gone, left = gateway.client("car", 0), gateway.client("car", 0), gateway.client("car", 0)
        gateway.publish("car")
        [tally] = gateway.publish("car")
        assert counts(tally) == (3, 0, 3, 0, 0, 3)
        gateway.backlogs.max_frames = 0
        [other] = gateway.publish("car")
        assert counts(other) == (3, 0, 0, 0, 3, 0), "all three are cut, and get it no more"
        assert counts(tally) == (3, 0, 0, 0, 3, 0)
        assert {each.outbox.closed for each in (cut, gone, left)} != {None}


async def test_a_client_that_unsubscribes_drops_what_waits_for_it() -> None:
    async with running() as gateway:
        client = gateway.client("car", 0)
        report = Report()
        gateway.publish("car")
        [tally] = gateway.publish("car", report=report)
        gateway.hub.unsubscribe(client.subscription)
        assert counts(tally) == (1, 0, 0, 0, 1, 0)
        await report.settled()


async def test_a_socket_that_fails_at_the_write_drops_it() -> None:
    async with running() as gateway:
        client = gateway.client("car")
        client.transport.error = BrokenPipeError()
        [tally] = gateway.publish("car")
        assert counts(tally) == (1, 0, 0, 0, 1, 0)


async def test_whoever_waits_is_told_when_the_last_client_has_it(autojump_clock: MockClock) -> None:
    async with running() as gateway:
        one, two = gateway.client("car", 0), gateway.client("car", 0)
        report = Report()
        gateway.publish("car", report=report)
        done: list[float] = []

        async def wait() -> None:
            await report.settled()
            done.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            one.read()
            await settled()
            assert done == []
            await trio.sleep(1)
            two.outbox.close(GONE)
        assert done == [2]
