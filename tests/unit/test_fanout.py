"""Fan-out: all of a trigger or nothing, in order, coalesced, and never over its bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, Sequencer

from tests.unit.conftest import FakeReceiver, Steps, local_bus, settled
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.frames import Batch, Publication
from trio_templar.core.hub import Hub, Subscription
from trio_templar.core.triggers import Trigger
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.bus import LocalBus
from trio_templar.delivery.entrance import Bounds, Full
from trio_templar.delivery.fanout import (
    DELIVERY_SECONDS,
    PASS_BYTES,
    SMALL_SUBSCRIBERS,
    TURN_DELIVERIES,
    Fanout,
    RoomChannel,
)
from trio_templar.errors import Busy, TooLarge

MANY = SMALL_SUBSCRIBERS + 1


def trigger(data: Any, *rooms: str) -> Trigger:
    publication = DIALECTS["2"].publication(str(data).encode())
    return Trigger([room.encode() for room in rooms], publication)


def size(*triggers: Trigger) -> int:
    return sum(trigger.publication.size for trigger in triggers)


@dataclass
class Gateway:
    """A hub, its fan-out, and who listens."""

    fanout: Fanout
    bus: LocalBus
    hub: Hub

    def listen(self, room: str, when_put: Callable[[], object] = lambda: None) -> FakeReceiver:
        return cast(FakeReceiver, self.subscribe(room, when_put).receiver)

    def subscribe(self, room: str, when_put: Callable[[], object] = lambda: None) -> Subscription:
        return self.hub.subscribe(room.encode(), FakeReceiver(when_put), b"1")

    def fill(self, room: str, count: int = MANY) -> list[FakeReceiver]:
        return [self.listen(room) for _ in range(count)]


class Looked(Trigger):
    """A trigger for one room that notes in `looks` when it is looked at."""

    looks: list[str]
    room: str

    def __new__(cls, looks: list[str], data: Any, room: str = "car") -> Self:
        self = super().__new__(cls, *trigger(data, room))
        self.looks, self.room = looks, room
        return self

    def __iter__(self) -> Iterator[Any]:
        self.looks.append(self.room)
        return super().__iter__()


class Standstill:
    """A nursery whose tasks start when the test says so."""

    def __init__(self) -> None:
        self.tasks: list[Callable[[], Awaitable[None]]] = []

    def start_soon(self, run: Callable[..., Awaitable[None]], *args: Any, name: object = None) -> None:
        self.tasks.append(partial(run, *args))

    async def go(self) -> None:
        while self.tasks:
            await self.tasks.pop(0)()


def make_gateway(nursery: trio.Nursery | Standstill, **bounds: Any) -> Gateway:
    defaults = {"room_publications": 3, "room_bytes": 10**6, "max_triggers_waiting": 2, "wait_seconds": 5}
    budget = Budget(2 * bounds.pop("soft_bytes", 10**6))
    hub = Hub()
    fanout = Fanout(hub, cast(trio.Nursery, nursery), budget, Bounds(**{**defaults, **bounds}))
    return Gateway(fanout, local_bus(hub, fanout), hub)


@asynccontextmanager
async def running(**bounds: Any) -> AsyncIterator[Gateway]:
    async with trio.open_nursery() as nursery:
        yield make_gateway(nursery, **bounds)


# Delivery


async def test_a_room_with_few_subscribers_hears_at_once_and_keeps_no_channel() -> None:
    async with running() as gateway:
        one, two = gateway.listen("car"), gateway.listen("car")
        gateway.bus.append_nowait([trigger(1, "car")])
        assert one.data == two.data == [1]
        assert gateway.hub.rooms[b"car"].channel is None
        assert gateway.fanout.in_flight_bytes == 0


async def test_a_room_with_many_subscribers_hears_from_a_loop_that_ends() -> None:
    async with running() as gateway:
        receivers = gateway.fill("car")
        gateway.bus.append_nowait([trigger(1, "car")])
        assert receivers[0].data == []
        assert gateway.fanout.in_flight_bytes == size(trigger(1))
        await settled()
        assert [receiver.data for receiver in receivers] == [[1]] * MANY
        assert gateway.hub.rooms[b"car"].channel is None
        assert gateway.fanout.in_flight_bytes == 0


async def test_only_the_rooms_named_hear() -> None:
    async with running() as gateway:
        car, ride, bus = (gateway.listen(room) for room in ("car", "ride", "bus"))
        gateway.bus.append_nowait([trigger(1, "car", "nobody", "ride")])
        assert (car.data, ride.data, bus.data) == ([1], [1], [])


async def test_a_room_named_twice_hears_twice() -> None:
    async with running() as gateway:
        car = gateway.listen("car")
        gateway.bus.append_nowait([trigger(1, "car", "car")])
        assert car.data == [1, 1]


async def test_nobody_listening_is_no_error() -> None:
    async with running() as gateway:
        await gateway.bus.append([trigger(1, "nobody"), trigger(2)])
        await gateway.bus.append([])
        assert (gateway.fanout.triggers, gateway.fanout.publications, gateway.fanout.deliveries) == (2, 0, 0)


async def test_what_is_counted() -> None:
    async with running() as gateway:
        gateway.fill("car", 3)
        gateway.listen("ride")
        gateway.bus.append_nowait([trigger(1, "car", "car", "ride"), trigger(2, "nobody")])
        assert (gateway.fanout.triggers, gateway.fanout.publications, gateway.fanout.deliveries) == (2, 3, 7)


async def test_subscribers_hear_in_the_order_they_came() -> None:
    async with running() as gateway:
        heard: list[int] = []
        for number in range(3):
            gateway.listen("car", partial(heard.append, number))
        gateway.bus.append_nowait([trigger(1, "car")])
        assert heard == [0, 1, 2]


@pytest.mark.parametrize("subscribers", [1, MANY])
async def test_a_room_hears_in_the_order_of_its_triggers(subscribers: int) -> None:
    async with running(room_publications=1000) as gateway:
        receivers = gateway.fill("car", subscribers)
        for number in range(0, 30, 3):
            await gateway.bus.append([trigger(number, "car"), trigger(number + 1, "car", "ride")])
            gateway.bus.append_nowait([trigger(number + 2, "car")])
        await settled()
        assert [receiver.data for receiver in receivers] == [list(range(30))] * subscribers


async def test_nothing_overtakes_what_waits_when_subscribers_leave() -> None:
    async with running() as gateway:
        subscriptions = [gateway.subscribe("car") for _ in range(MANY)]
        gateway.bus.append_nowait([trigger(1, "car")])
        for subscription in subscriptions[1:]:
            gateway.hub.unsubscribe(subscription)
        gateway.bus.append_nowait([trigger(2, "car")])  # few subscribers, but something waits
        await settled()
        assert cast(FakeReceiver, subscriptions[0].receiver).data == [1, 2]


async def test_publications_that_wait_come_in_one_batch() -> None:
    async with running() as gateway:
        receiver = gateway.fill("car")[0]
        for number in range(3):
            gateway.bus.append_nowait([trigger(number, "car")])
        await settled()
        assert (receiver.counts, receiver.data) == ([3], [0, 1, 2])


@pytest.mark.parametrize(
    ("size", "counts"), [(PASS_BYTES // 2 - 100, [2, 1]), (PASS_BYTES // 2, [1, 1, 1]), (PASS_BYTES, [1, 1, 1])]
)
async def test_a_pass_hands_over_a_bounded_number_of_bytes_or_one_publication(size: int, counts: list[int]) -> None:
    async with running() as gateway:
        receiver = gateway.fill("car")[0]
        big = f'"{"x" * size}"'
        for _ in range(3):
            gateway.bus.append_nowait([trigger(big, "car")])
        await settled()
        assert receiver.counts == counts


async def test_publications_of_one_trigger_array_reach_a_small_room_as_one_batch() -> None:
    async with running() as gateway:
        receiver = gateway.listen("car")
        gateway.bus.append_nowait([trigger(number, "car") for number in range(3)])
        assert (receiver.counts, receiver.data) == ([3], [0, 1, 2])


async def test_who_unsubscribes_during_a_pass_hears_no_more() -> None:
    async with running() as gateway:
        last = gateway.subscribe("car")
        gateway.hub.unsubscribe(last)
        gateway.listen("car", lambda: gateway.hub.unsubscribe(last))
        gateway.fill("car")
        last = gateway.subscribe("car")
        gateway.bus.append_nowait([trigger(1, "car")])
        await settled()
        assert cast(FakeReceiver, last.receiver).data == []


async def test_who_subscribes_again_to_a_room_made_anew_does_not_hear_what_was_before() -> None:
    async with running() as gateway:
        old = [gateway.subscribe("car") for _ in range(MANY)]
        gateway.bus.append_nowait([trigger(1, "car")])
        for subscription in old:
            gateway.hub.unsubscribe(subscription)
        new = gateway.listen("car")
        gateway.bus.append_nowait([trigger(2, "car")])
        await settled()
        assert new.data == [2]
        assert gateway.fanout.in_flight_bytes == 0


async def test_a_pass_gives_way_after_a_bounded_number_of_deliveries(autojump_clock: MockClock) -> None:
    async with running() as gateway:
        gateway.fill("car", 3 * TURN_DELIVERIES)
        gateway.bus.append_nowait([trigger(1, "car")])
        with Steps(lambda: gateway.fanout.deliveries) as delivered:
            await trio.sleep(3 * TURN_DELIVERIES * DELIVERY_SECONDS)  # longer than it waits for more triggers
        assert (sum(delivered), max(delivered)) == (3 * TURN_DELIVERIES, TURN_DELIVERIES)


async def test_a_pass_that_is_expensive_lets_in_the_triggers_on_their_way(autojump_clock: MockClock) -> None:
    async with running(room_publications=100) as gateway:
        receivers = gateway.fill("car", 1000)

        async def publisher(number: int) -> None:
            for _ in range(number):
                await trio.lowlevel.checkpoint()
            await gateway.bus.append([trigger(number, "car")])

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(publisher, number)
        await trio.sleep(1)
        assert (receivers[0].counts, sorted(receivers[0].data)) == ([8], list(range(8)))


@pytest.mark.parametrize("subscribers", [3, MANY])
async def test_a_receiver_that_raises_is_ended_and_all_others_hear(
    subscribers: int, caplog: pytest.LogCaptureFixture
) -> None:
    def crash() -> None:
        raise RuntimeError("a fault of ours")

    async with running() as gateway:
        receivers = gateway.fill("car", subscribers)
        crashing = receivers[::2]
        for receiver in crashing:
            receiver.when_put = crash
        gateway.bus.append_nowait([trigger(1, "car")])
        await settled()
        assert [receiver.data for receiver in receivers] == [[1]] * subscribers
        assert [receiver.crashed for receiver in receivers] == [receiver in crashing for receiver in receivers]
        assert (gateway.fanout.deliveries, gateway.fanout.in_flight_bytes) == (subscribers, 0)
    assert [record.getMessage() for record in caplog.records] == ["a connection crashed"] * len(crashing)


# All or nothing


async def test_a_trigger_that_does_not_fit_everywhere_is_put_nowhere() -> None:
    nursery = Standstill()
    gateway = make_gateway(nursery)
    gateway.fill("car")
    ride = gateway.listen("ride")
    gateway.bus.append_nowait([trigger(number, "car") for number in range(3)])
    counted = gateway.fanout.publications, gateway.fanout.in_flight_bytes
    with pytest.raises(Full):
        gateway.bus.append_nowait([trigger(1, "ride"), trigger(2, "ride", "car")])
    assert ride.data == []
    assert (gateway.fanout.publications, gateway.fanout.in_flight_bytes) == counted
    gateway.bus.append_nowait([trigger(1, "ride")])


async def test_duplicates_count_against_the_bound_of_a_room() -> None:
    gateway = make_gateway(Standstill())
    gateway.fill("car")
    gateway.bus.append_nowait([trigger(1, "car")])
    with pytest.raises(Full):
        gateway.bus.append_nowait([trigger(2, "car", "car", "car")])
    gateway.bus.append_nowait([trigger(2, "car", "car")])


async def test_what_never_fits_a_room_is_too_large() -> None:
    gateway = make_gateway(Standstill())
    ride = gateway.listen("ride")
    gateway.listen("car")
    with pytest.raises(TooLarge, match="room_publications"):
        gateway.bus.append_nowait([trigger(0, "ride"), trigger(1, "car", "car", "car", "car")])
    assert (ride.data, gateway.fanout.triggers) == ([], 0)


async def test_bytes_in_flight_are_bounded() -> None:
    gateway = make_gateway(Standstill(), soft_bytes=1000)
    gateway.fill("car")
    gateway.fill("ride")
    gateway.bus.append_nowait([trigger("1" * 600, "car")])
    with pytest.raises(Full):
        gateway.bus.append_nowait([trigger("1" * 600, "ride")])
    assert gateway.fanout.in_flight_bytes == size(trigger("1" * 600))


@pytest.mark.parametrize("waiting", [0, 1], ids=["into an empty gateway", "while something waits"])
async def test_what_never_fits_the_memory_is_too_large(waiting: int, autojump_clock: MockClock) -> None:
    gateway = make_gateway(Standstill(), soft_bytes=1000)
    gateway.fill("car")
    gateway.bus.append_nowait([trigger(1, "car")] * waiting)
    with pytest.raises(TooLarge, match=r"\(half of memory_bytes\)$"):
        await gateway.bus.append([trigger("1" * 1000, "car")])
    assert (trio.current_time(), gateway.fanout.triggers) == (0, waiting)


async def test_a_trigger_waits_for_a_full_room(autojump_clock: MockClock) -> None:
    nursery = Standstill()
    gateway = make_gateway(nursery)
    receiver = gateway.fill("car")[0]
    gateway.bus.append_nowait([trigger(number, "car") for number in range(3)])
    async with trio.open_nursery() as publishers:
        publishers.start_soon(gateway.bus.append, [trigger(3, "car")])
        await trio.sleep(4)
        assert gateway.hub.rooms[b"car"].channel.publications == 3
        await nursery.go()
    await nursery.go()
    assert receiver.data == [0, 1, 2, 3]


async def test_a_trigger_waits_no_longer_than_it_may(autojump_clock: MockClock) -> None:
    gateway = make_gateway(Standstill(), wait_seconds=5)
    gateway.fill("car")
    gateway.bus.append_nowait([trigger(number, "car") for number in range(3)])
    with pytest.raises(Busy, match="room_publications") as caught:
        await gateway.bus.append([trigger(3, "car")])
    assert trio.current_time() == 5
    assert caught.value.retry_after == 1
    assert gateway.hub.rooms[b"car"].channel.publications == 3


async def test_a_room_is_looked_up_again_after_the_wait(autojump_clock: MockClock) -> None:
    nursery = Standstill()
    gateway = make_gateway(nursery)
    subscriptions = [gateway.subscribe("car") for _ in range(MANY)]
    gateway.bus.append_nowait([trigger(number, "car") for number in range(3)])
    async with trio.open_nursery() as publishers:
        publishers.start_soon(gateway.bus.append, [trigger(3, "car")])
        await settled()
        for subscription in subscriptions:
            gateway.hub.unsubscribe(subscription)
        new = gateway.listen("car")
        await nursery.go()
    assert new.data == [3]


async def test_the_number_of_waiting_triggers_is_bounded(autojump_clock: MockClock) -> None:
    gateway = make_gateway(Standstill(), max_triggers_waiting=2)
    gateway.fill("car")
    gateway.bus.append_nowait([trigger(number, "car") for number in range(3)])

    async def publish_in_vain() -> None:
        with pytest.raises(Busy, match="room_publications"):
            await gateway.bus.append([trigger(3, "car")])

    async with trio.open_nursery() as publishers:
        for _ in range(2):
            publishers.start_soon(publish_in_vain)
        await settled()
        with pytest.raises(Busy, match="max_triggers_waiting"):
            await gateway.bus.append([trigger(3, "car")])
        assert trio.current_time() == 0


async def test_a_small_trigger_does_not_wait_behind_a_large_one_for_memory(autojump_clock: MockClock) -> None:
    gateway = make_gateway(Standstill(), soft_bytes=5000, wait_seconds=60)
    gateway.fill("car")
    budget = gateway.fanout._budget
    budget.take(4900)
    done: list[str] = []

    async def publish(data: str) -> None:
        with suppress(Busy):
            await gateway.bus.append([trigger(data, "car")])
            done.append(data)

    async with trio.open_nursery() as publishers:
        publishers.start_soon(publish, "1" * 2000)
        await settled()
        publishers.start_soon(publish, "1")
        await settled()
        budget.give(1000)
        await settled()  # and nobody wakes another for ever
        assert done == ["1"]
        budget.give(3900)
    assert (len(done), trio.current_time()) == (2, 0)


async def test_who_waits_looks_once_each_time_there_may_be_space(autojump_clock: MockClock) -> None:
    gateway = make_gateway(Standstill(), soft_bytes=5000, max_triggers_waiting=10)
    gateway.fill("car")
    gateway.fanout._budget.take(5000)
    looks: list[str] = []

    async def publish() -> None:
        with pytest.raises(Busy):
            await gateway.bus.append([Looked(looks, "1" * 2000)])

    async with trio.open_nursery() as publishers:
        for _ in range(10):
            publishers.start_soon(publish)
        await settled()
        looks.clear()
        for _ in range(5):
            gateway.fanout._budget.give(100)
        await settled()
        assert len(looks) == 10


async def test_a_pass_wakes_those_who_wait_for_its_room_and_nobody_else(autojump_clock: MockClock) -> None:
    nursery = Standstill()
    gateway = make_gateway(nursery, max_triggers_waiting=10)
    gateway.fill("car")
    gateway.fill("bus")
    looks: list[str] = []
    async with trio.open_nursery() as publishers:
        for room in ("bus", "car"):
            gateway.bus.append_nowait([trigger(number, room) for number in range(3)])
            for number in range(3):
                publishers.start_soon(gateway.bus.append, [Looked(looks, number, room)])
        await settled()
        looks.clear()
        await nursery.tasks.pop(0)()
        await settled()
        assert looks == ["bus"] * 3
        await nursery.go()
    assert trio.current_time() == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["publish", "publish", "take", "give", "pass", "leave"]), st.integers(1, 2500)),
        max_size=30,
    )
)
@settings(max_examples=200)
async def test_nobody_waits_for_space_that_there_is(steps: list[tuple[str, int]]) -> None:
    nursery = Standstill()
    gateway = make_gateway(nursery, soft_bytes=5000, max_triggers_waiting=100, wait_seconds=1000)
    gateway.fill("car")
    gateway.fill("bus")
    budget, taken = gateway.fanout._budget, 4000
    budget.take(taken)
    waiting: dict[trio.CancelScope, Trigger] = {}

    async def publish(scope: trio.CancelScope, wanted: Trigger) -> None:
        with scope:
            await gateway.bus.append([wanted])
        del waiting[scope]

    async with trio.open_nursery() as publishers:
        for step, number in steps:
            if step == "publish":
                scope = trio.CancelScope()
                waiting[scope] = trigger("1" * number, "car" if number % 2 else "bus")
                publishers.start_soon(publish, scope, waiting[scope])
            elif step == "take":
                budget.take(number)
                taken += number
            elif step == "give":
                budget.give(min(number, taken))
                taken -= min(number, taken)
            elif step == "pass" and nursery.tasks:
                await nursery.tasks.pop(0)()
            elif step == "leave" and waiting:
                budget.give(min(100, taken))  # at the same time
                taken -= min(100, taken)
                for scope in list(waiting)[number % len(waiting) :]:
                    scope.cancel()
            await settled()
            for each in waiting.values():
                with pytest.raises(Full):
                    gateway.bus.append_nowait([each])
        publishers.cancel_scope.cancel()
    await nursery.go()
    assert budget.used_bytes == taken


async def test_a_publisher_that_is_cancelled_while_it_waits_publishes_nothing(autojump_clock: MockClock) -> None:
    nursery = Standstill()
    gateway = make_gateway(nursery)
    receiver = gateway.fill("car")[0]
    gateway.bus.append_nowait([trigger(number, "car") for number in range(3)])
    with trio.move_on_after(1):
        await gateway.bus.append([trigger(3, "car")])
    await nursery.go()
    assert receiver.data == [0, 1, 2]


async def test_publish_is_a_checkpoint() -> None:
    gateway = make_gateway(Standstill())
    with trio.testing.assert_checkpoints():
        await gateway.bus.append([])


def test_a_channel_gives_at_least_one_publication_however_large() -> None:
    channel = RoomChannel(0)
    large = Publication(b"x" * (PASS_BYTES + 1), b"")
    channel.put(Batch([large, large]), 0.0)
    assert [channel.take().publications, channel.take().publications] == [[large], [large]]
    assert (channel.publications, channel.bytes) == (0, 0)


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "c", "none"]), max_size=3), min_size=1, max_size=8),
    st.integers(1, 3),
)
async def test_every_room_hears_all_of_its_triggers_in_order(steps: list[list[str]], publishers: int) -> None:
    subscribers = {"a": 1, "b": MANY, "c": SMALL_SUBSCRIBERS}
    async with running(room_publications=4, max_triggers_waiting=100) as gateway:
        heard = {room: gateway.fill(room, count) for room, count in subscribers.items()}
        turns = Sequencer()

        async def publish(first: int) -> None:
            for number in range(first, len(steps), publishers):
                async with turns(number):  # in this order they were accepted
                    await gateway.bus.append([trigger(number, *steps[number])])

        async with trio.open_nursery() as nursery:
            for first in range(publishers):
                nursery.start_soon(publish, first)
        await settled()
    for room, receivers in heard.items():
        expected = [number for number, rooms in enumerate(steps) for each in rooms if each == room]
        assert [receiver.data for receiver in receivers] == [expected] * len(receivers)
    assert gateway.fanout.in_flight_bytes == 0
