"""The bus of a gateway that is alone: all of a trigger or nothing, its positions, and what waits meanwhile."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import CAR, RIDE, FakeTransport, Now, frames, settled, texts, write_all
from trio_templar.core.dialects import DIALECTS, position
from trio_templar.core.frames import Batch, close_frame, text_frame
from trio_templar.core.history import OFF, History, Span
from trio_templar.core.hub import Hub, LiveRoom
from trio_templar.core.policies import DISCONNECT_ALL, Policies, RoomPolicy
from trio_templar.core.position import Positions
from trio_templar.core.recovery import SHARED_BYTES, Recovery
from trio_templar.core.rooms import room_key
from trio_templar.core.session import Rules, Session
from trio_templar.core.triggers import Trigger, TriggerReader, to_json
from trio_templar.delivery.backlog import REFERENCE_BYTES, Backlogs
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.bus import LocalBus
from trio_templar.delivery.entrance import Bounds, Full
from trio_templar.delivery.fanout import SMALL_SUBSCRIBERS, TURN_DELIVERIES, Fanout
from trio_templar.delivery.follower import Follower
from trio_templar.delivery.outbox import Outbox
from trio_templar.delivery.tally import Report
from trio_templar.errors import CROWDED, GONE, STOPPING, TooLarge
from trio_templar.http.health import PUBLICATION

MINUTE = Span(60, 10**7)
MANY = SMALL_SUBSCRIBERS + 1
SEVERAL_TURNS = 2 * TURN_DELIVERIES + 1  # of a pass: between two of them there is one that a test can use
EPOCH, START = b"0123456789ab", 1_800_000_000.0


class Node:
    """All that takes a publication from a publisher to the sockets of one gateway, without the sockets."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *policies: RoomPolicy,
        span: Span = MINUTE,
        memory_bytes: int = 10**8,
        outbox_bytes: int = 10**6,
        **bounds: Any,
    ) -> None:
        defaults = {"room_publications": 100, "room_bytes": 10**6, "max_triggers_waiting": 2, "wait_seconds": 5}
        self.wall = Now()
        self.wall.time = START
        found = Policies(policies, outbox_bytes)
        self.positions = Positions(EPOCH, self.wall)
        self.history = History(self.positions, span, found.history_seconds)
        self.recovery = Recovery(self.history, trio.current_time)
        self.hub = Hub(found)
        self.budget = Budget(memory_bytes, self.history)
        self.backlogs = Backlogs(outbox_bytes, 1000, self.budget, trio.current_time)
        self.fanout = Fanout(self.hub, nursery, self.budget, Bounds(**{**defaults, **bounds}))
        self.follower = Follower(self.history, self.hub, self.fanout)
        self.bus = LocalBus(self.follower, self.fanout)
        self.reader = TriggerReader(DIALECTS["2"], 10**6)
        self.rules = Rules(DIALECTS["2"], self.hub, 10, 1000, 128, recovery=self.recovery)

    @property
    def at(self) -> str:
        return self.positions.token(self.positions.last)

    def told(self, number: int) -> str:
        """Return how the position of the publication of this number is told; the first is 1."""
        return self.positions.token(int(START * 1000) + number)

    def room(self, room: dict[str, Any]) -> LiveRoom:
        return self.hub.rooms[room_key(room)]

    def trigger(self, data: Any, *rooms: dict[str, Any]) -> Trigger:
        return self.reader.make(rooms, to_json(data))

    def publish(self, data: Any, *rooms: dict[str, Any]) -> str:
        """Publish `data`; return its position."""
        return self.positions.token(self.bus.append_nowait([self.trigger(data, *rooms or (CAR,))]))

    def kept(self, room: dict[str, Any] = CAR) -> list[tuple[int, Any]]:
        """Return what is kept of `room`: positions, counted from the start, and data."""
        entries = self.history.newest(room_key(room), trio.current_time(), most=10_000)
        return [(entry[0] - int(START * 1000), json.loads(entry[2] + b"1" + entry[3])["data"]) for entry in entries]

    def client(self, **transport: Any) -> Client:
        return Client(self, FakeTransport(**transport))

    def crowd(self, count: int = MANY, room: dict[str, Any] = CAR) -> list[Client]:
        """Return clients that make of `room` one that has a channel and a loop; with many, a pass has several turns."""
        clients = [self.client() for _ in range(count)]
        for client in clients:
            client.subscribe(room)
        return clients


class Client:
    """A connection without a socket: what it says is obeyed, what it hears is remembered."""

    def __init__(self, node: Node, transport: FakeTransport) -> None:
        self.transport = transport
        self.outbox = Outbox(transport, None, node.backlogs)
        self.session = Session(node.rules, [{"target": "*"}], self.outbox, "id-of-connection")

    def say(self, **message: Any) -> dict[str, Any]:
        """Say `message` as a connection hears it: the reply, and the replay right behind it. Return the reply."""
        reply = self.session.receive(json.dumps(message))
        self.outbox.reply(text_frame(reply.text.encode()))
        if reply.replay is not None:
            self.outbox.put(*reply.replay)
        found: dict[str, Any] = json.loads(reply.text)
        return found

    def subscribe(self, room: dict[str, Any] = CAR, *, request_id: Any = 1, **since: Any) -> dict[str, Any]:
        return self.say(type="subscribe", requestId=request_id, room=room, **since)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in texts(bytes(self.transport.written))]

    @property
    def published(self) -> list[dict[str, Any]]:
        return [message for message in self.messages if message.get("type") == "publish"]

    @property
    def data(self) -> list[Any]:
        return [message["data"] for message in self.published]

    @property
    def at(self) -> str:
        """Where it stands: what it was told last."""
        found: str = [message["at"] for message in self.messages if "at" in message][-1]
        return found

    def hang_up(self) -> None:
        """Go away, whatever waits."""
        self.session.end()
        self.outbox.close(GONE)


@asynccontextmanager
async def running(*policies: RoomPolicy, **options: Any) -> AsyncIterator[Node]:
    async with trio.open_nursery() as nursery:
        node = Node(nursery, *policies, **options)
        yield node
        await settled()
        for subscription in [each for room in node.hub.rooms.values() for each in room.subscriptions]:
            cast(Outbox, subscription.receiver).close(GONE)
        assert (node.budget.used_bytes, node.backlogs.bytes, node.fanout.in_flight_bytes) == (0, 0, 0)


async def turns(condition: Callable[[], bool]) -> None:
    """Let other tasks have turns until `condition` holds."""
    while not condition():
        await trio.lowlevel.checkpoint()


# All or nothing


async def test_each_publication_has_a_position_and_what_is_told_is_kept() -> None:
    async with running() as node:
        client = node.client()
        client.subscribe(since=None)
        ats = [node.publish(number, CAR, RIDE) for number in range(3)]
        assert ats == [f"0123456789ab.1a3185c500{number}" for number in (1, 2, 3)]
        assert [message["at"] for message in client.published] == ats
        assert node.kept(CAR) == node.kept(RIDE) == [(1, 0), (2, 1), (3, 2)]


async def test_of_triggers_that_do_not_fit_none_is_kept_and_no_position_is_used() -> None:
    async with running(room_publications=1) as node:
        node.crowd()
        other = node.client()
        other.subscribe(RIDE)
        node.publish("waits", CAR)
        before = node.at
        with pytest.raises(Full):
            node.bus.append_nowait([node.trigger(1, RIDE), node.trigger(2, CAR)])
        assert (node.at, node.kept(CAR), node.kept(RIDE), other.data) == (before, [(1, "waits")], [], [])
        await settled()
        node.bus.append_nowait([node.trigger(1, RIDE)])
        assert (node.kept(RIDE), other.data) == ([(2, 1)], [1])


async def test_who_waits_for_space_gets_the_position_of_its_turn() -> None:
    async with running(room_publications=1) as node, trio.open_nursery() as nursery:
        client, *_ = node.crowd()
        client.say(type="unsubscribe", requestId=1)
        client.subscribe(since=None)
        node.publish(0)
        nursery.start_soon(node.bus.append, [node.trigger(1, CAR)])
        await trio.lowlevel.checkpoint()
        node.publish("meanwhile", RIDE)
        await settled()
        assert node.kept(CAR) == [(1, 0), (3, 1)]
        assert [message["data"] for message in client.published] == [0, 1]


@pytest.mark.parametrize("rooms", [[], [{"target": "secret"}]], ids=["none", "one that is not kept"])
async def test_one_for_no_room_that_is_kept_has_a_position_and_is_not_kept(rooms: list[Any]) -> None:
    async with running(RoomPolicy(match={"target": "secret"}, history=False)) as node:
        assert node.bus.append_nowait([node.trigger(0, *rooms)]) == node.positions.last
        assert (len(node.history), node.history.bytes) == (0, 0)
        assert node.publish(1) == node.at
        assert node.kept() == [(2, 1)]


async def test_no_triggers_are_no_position() -> None:
    async with running() as node:
        before = node.positions.last
        assert node.bus.append_nowait([]) == 0
        assert node.positions.last == before


async def test_a_gateway_that_is_alone_has_nobody_to_follow_or_to_ask() -> None:
    async with running() as node:
        await node.bus.follow()
        assert await node.bus.ask(b"counts") == ()


async def test_with_history_off_there_are_no_positions_and_a_room_named_twice_hears_twice() -> None:
    async with running(span=OFF) as node:
        client = node.client()
        client.subscribe(since=None)
        before = node.positions.last
        assert node.bus.append_nowait([node.trigger(1, CAR, CAR)]) == 0
        assert client.messages[1:] == [{"requestId": 1, "type": "publish", "data": 1}] * 2
        assert (node.positions.last, len(node.history)) == (before, 0)


async def test_a_clock_that_goes_back_changes_no_order() -> None:
    async with running() as node:
        client = node.client()
        client.subscribe(since=None)
        first = node.publish(0)
        node.wall.time -= 3600
        ats = [first, node.publish(1), node.publish(2)]
        assert ats == [f"0123456789ab.1a3185c500{number}" for number in (1, 2, 3)]
        back = node.client()
        back.subscribe(since=first)
        assert back.data == [1, 2]


# A room that is named twice


@pytest.mark.parametrize("count", [1, MANY], ids=["inline", "by a loop"])
async def test_one_that_names_a_room_twice_can_be_asked_for_between_the_two(count: int) -> None:
    async with running() as node:
        client, *_ = node.crowd(count)
        client.say(type="unsubscribe", requestId=1)
        client.subscribe(since=None)
        node.bus.append_nowait([node.trigger(0, CAR, RIDE, CAR), node.trigger(1, CAR)])
        await settled()
        assert client.data == [0, 0, 1]
        assert node.kept(CAR) == [(1, 0), (2, 0), (3, 1)]
        assert node.kept(RIDE) == [(1, 0)]
        first, second, third = [message["at"] for message in client.published]
        for since, missed in [(first, [0, 1]), (second, [1]), (third, [])]:
            back = node.client()
            assert back.subscribe(since=since)["recovered"] is True
            assert back.data == missed


async def test_each_naming_of_a_room_has_its_own_count() -> None:
    async with running() as node:
        node.crowd(2)
        node.crowd(3, RIDE)
        report = Report()
        tallies = report.tallies(4)
        node.bus.append_nowait([node.trigger(0, CAR, RIDE, CAR, {"target": "no"})._replace(tallies=tallies)])
        assert [tally.subscriptions for tally in tallies] == [2, 3, 2, 0]
        await report.settled()


# What waits in a channel


async def test_who_comes_while_it_waits_to_be_coalesced_gets_each_once(autojump_clock: MockClock) -> None:
    async with running() as node:
        start = node.at
        node.crowd(1000)
        node.publish(0)
        await trio.lowlevel.checkpoint()
        node.publish(1)
        assert node.room(CAR).channel.publications == 2, "the loop waits for more"
        back, new = node.client(), node.client()
        assert back.subscribe(since=start) == {"requestId": 1, "code": "success", "at": start, "recovered": True}
        assert new.subscribe(since=None)["at"] == start
        await trio.sleep(1)
        assert back.data == new.data == [0, 1]


async def test_who_comes_in_the_middle_of_a_pass_gets_each_once() -> None:
    async with running() as node:
        start = node.at
        crowd = node.crowd(SEVERAL_TURNS)
        node.publish(0)
        await turns(lambda: crowd[0].data == [0])
        node.publish(1)
        assert crowd[-1].data == [], "it is in the middle"
        back, new = node.client(), node.client()
        assert back.subscribe(since=start)["recovered"] is True
        assert back.data == [0]
        assert new.subscribe(since=None)["at"] == node.told(1)
        await settled()
        assert (back.data, new.data) == ([0, 1], [1])
        assert {str(client.data) for client in crowd} == {"[0, 1]"}


async def test_who_asks_again_in_the_middle_of_a_pass_is_told_what_it_was_sent() -> None:
    async with running() as node:
        crowd = [node.client() for _ in range(SEVERAL_TURNS)]
        for client in crowd:
            client.subscribe(since=None)
        first, last = crowd[0], crowd[-1]
        start = node.at
        node.publish(0)
        await turns(lambda: first.data == [0])
        assert last.data == [], "it is in the middle"
        assert first.subscribe(since=None)["at"] == node.at
        assert last.subscribe(since=None)["at"] == start
        last.hang_up()
        back = node.client()
        back.subscribe(since=last.at)
        assert back.data == [0]
        await settled()
        assert back.data == [0]


async def test_who_is_ahead_of_what_waits_stays_ahead_when_it_asks_again() -> None:
    async with running() as node:
        node.crowd()
        at = node.publish(0)
        ahead = node.client()
        ahead.subscribe(since=at)
        assert ahead.subscribe(since=None)["at"] == at
        node.publish(1)
        await settled()
        assert ahead.data == [1]


async def test_a_room_that_is_made_anew_has_nothing_of_its_old_channel() -> None:
    async with running() as node:
        start = node.at
        crowd = node.crowd()
        node.publish(0)
        assert node.room(CAR).channel is not None
        for client in crowd:
            client.hang_up()
        back = node.client()
        assert back.subscribe(since=start)["recovered"] is True
        assert back.data == [0]
        node.publish(1)
        assert back.data == [0, 1]
        await settled()
        assert back.data == [0, 1]


# A reload


def apply(node: Node, span: Span, *policies: RoomPolicy, longer: bool = False) -> None:
    found = Policies(policies, 10**6)
    node.hub.apply(found)
    node.history.apply(span, found.history_seconds, trio.current_time(), longer=longer)


async def test_turned_on_what_waits_without_a_position_is_delivered_and_was_before() -> None:
    async with running(span=OFF) as node:
        crowd = node.crowd()
        node.publish(0)
        apply(node, MINUTE)
        floor = node.positions.last
        new = node.client()
        at = new.subscribe(since=None)["at"]
        node.publish(1)
        await settled()
        assert crowd[0].data == [0, 1]
        assert [(message["data"], message.get("at")) for message in new.published] == [(0, None), (1, node.at)]
        assert node.client().subscribe(since=at) == {"requestId": 1, "code": "success", "at": at, "recovered": True}
        assert (node.positions.read(at), node.positions.read(new.at)) == (floor, floor + 1)


async def test_turned_off_what_waits_is_delivered_and_who_comes_back_is_told_to_fetch() -> None:
    async with running() as node:
        client, *_ = node.crowd()
        client.say(type="unsubscribe", requestId=1)
        client.subscribe(since=None)
        at = node.publish(0)
        apply(node, OFF)
        node.publish(1)
        await settled()
        assert [(message["data"], message.get("at")) for message in client.published] == [(0, at), (1, None)]
        assert node.client().subscribe(since=client.at) == {"requestId": 1, "code": "success", "recovered": False}
        assert client.session.position() is None
        apply(node, MINUTE)
        assert node.client().subscribe(since=client.at)["recovered"] is False
        at = node.publish(2)
        await settled()
        assert client.at == at
        assert node.client().subscribe(since=at)["recovered"] is True


async def test_kept_for_longer_what_was_there_before_proves_nothing(autojump_clock: MockClock) -> None:
    async with running(span=Span(10, 10**7)) as node:
        client, *_ = node.crowd()
        client.say(type="unsubscribe", requestId=1)
        client.subscribe(since=None)
        before = node.publish(0)
        apply(node, MINUTE)
        new = node.client()
        assert new.subscribe(since=None)["at"] > before
        assert node.client().subscribe(since=new.at)["recovered"] is True
        await settled()
        assert (client.at, new.data) == (before, []), "what waited is before what it was told"
        assert node.client().subscribe(since=before)["recovered"] is False
        assert node.client().subscribe(since=node.client().subscribe(since=None)["at"])["recovered"] is True


async def test_kept_for_less_nothing_that_can_be_proved_is_lost(autojump_clock: MockClock) -> None:
    async with running() as node:
        old = node.publish("old")
        await trio.sleep(20)
        new = node.publish("new")
        apply(node, Span(10, 10**7))
        assert node.kept() == [(2, "new")]
        found = [node.client().subscribe(since=since)["recovered"] for since in (node.told(0), old, new)]
        assert found == [False, True, True]


async def test_a_room_that_is_kept_no_more_goes_on_and_proves_nothing() -> None:
    async with running() as node:
        client = node.client()
        client.subscribe(since=None)
        node.publish(0)
        apply(node, MINUTE, RoomPolicy(match=CAR, history=False))
        node.publish(1)
        assert client.data == [0, 1]
        assert node.client().subscribe(since=client.at) == {"requestId": 1, "code": "success", "recovered": False}
        assert client.session.position() is None


async def test_with_history_off_who_came_back_before_shares_what_all_get() -> None:
    async with running() as node:
        start = node.publish(0)
        clients = [node.client() for _ in range(3)]
        for client in clients:
            client.subscribe(since=start)
        apply(node, OFF)
        batch = Batch([node.trigger(1).publication])
        assert {id(batch.behind(subscription.after)) for subscription in node.room(CAR).subscriptions} == {id(batch)}
        node.publish(1)
        assert [client.data for client in clients] == [[1]] * 3


# Memory


async def test_a_trigger_that_is_refused_costs_nothing_of_what_is_kept() -> None:
    async with running(memory_bytes=200_000, room_publications=1) as node:
        other = {"target": "other"}
        node.crowd()
        node.crowd(room=other)
        for number in range(50):
            node.publish(number, RIDE)
        node.publish("waits")
        kept, size = node.kept(RIDE), node.history.bytes
        with pytest.raises(Full, match="room"):
            node.publish("x" * 95_000)
        with pytest.raises(TooLarge):
            node.publish("x" * 110_000, RIDE, other)
        assert (node.kept(RIDE), node.history.bytes) == (kept, size)


async def test_what_is_kept_gives_way_before_anybody_waits(autojump_clock: MockClock) -> None:
    counts = []
    for span in (OFF, Span(60, 2**17)):
        async with running(memory_bytes=2**20, span=span) as node:
            node.crowd()
            for number in range(200):
                node.publish(number, RIDE)
            counts.append(0)
            with suppress(Full):
                while True:
                    node.publish("x" * 9000)
                    counts[-1] += 1
                    assert node.budget.used_bytes + node.history.bytes < node.budget.soft_bytes + 10_000
            assert (len(node.history), node.history.bytes < 1000) == (0, True)
            await settled()
            node.publish("there is space again")
            assert len(node.history) == span.on
    assert counts[0] == counts[1] > 50


async def test_a_canary_is_not_kept_and_not_refused_for_what_is() -> None:
    async with running(memory_bytes=20_000) as node:
        for number in range(100):
            node.publish(number)
        assert node.history.bytes > node.budget.soft_bytes - 1000, "with nothing that waits it may be all of it"
        last = node.positions.last
        room = LiveRoom(b"canary", DISCONNECT_ALL.of(b"canary"))
        node.fanout.probe(room, Batch([PUBLICATION]))
        await settled()
        assert node.positions.last == last
        assert b"canary" not in dict(node.history.rooms())


# A replay on its way to a slow client


def waiting_for(node: Node, *clients: Client) -> int:
    """Return what the budget counts for `clients`, that share what they wait for, beside what each has alone."""
    alone = sum(client.outbox._backlog._in_channel * REFERENCE_BYTES for client in clients if client.outbox._backlog)
    return node.budget.used_bytes - alone


async def test_a_replay_that_waits_for_many_clients_is_counted_once() -> None:
    async with running() as node:
        start = node.at
        for number in range(20):
            node.publish(f"{number:04}" + "x" * 1000)
        clients = []
        counted = []
        for _ in range(5):
            client = node.client(takes=[0])
            client.outbox.reply(text_frame(b"{}"))  # it is slow already
            clients.append(client)
            assert client.subscribe(since=start)["recovered"] is True
            counted.append(waiting_for(node, *clients))
        ours = [after - before for before, after in pairwise(counted)]
        assert set(ours) == {ours[0]}
        assert ours[0] < 200, "its replies"
        for client in clients:
            write_all(client.outbox)
            assert [data[:4] for data in client.data] == [f"{number:04}" for number in range(20)]
            client.transport.written.clear()


@pytest.mark.parametrize("taken", [0, 1, 500, 3000, 9000])
async def test_of_a_replay_that_was_cut_the_rest_comes_next_time(taken: int) -> None:
    async with running() as node:
        start = node.at
        for number in range(100):
            node.publish([number, "x" * 1000])
        client = node.client(takes=[1000, taken])
        client.outbox.reply(text_frame(b'"' + b"y" * 1000 + b'"'))
        assert client.subscribe(since=start)["recovered"] is True
        for number in range(100, 105):
            node.publish([number, "x" * 1000])
        client.outbox.write_more()
        client.outbox.cut(CROWDED)
        client.transport.takes = []
        write_all(client.outbox)
        client.transport.written = client.transport.written[1006:]
        ats = [message["at"] for message in client.messages if "at" in message]
        back = node.client()
        assert back.subscribe(since=ats[-1] if ats else start)["recovered"] is True
        assert [data[0] for data in client.data + back.data] == [*range(105)]


@pytest.mark.parametrize("size", [1, 20, 1000])
async def test_a_replay_never_cuts_the_client_that_it_serves(size: int) -> None:
    async with running(outbox_bytes=40_000) as node:
        outcomes = set()
        for number in range(500):
            node.publish("x" * size)
            client = node.client(takes=[1, 0, 0, 0])
            client.outbox.reply(b"xx")
            reply = client.subscribe(request_id="i" * 120, since=node.told(0))
            outcomes.add(reply["recovered"])
            quick = node.client(takes=[10**9, 1, 0, 0])
            quick.subscribe(request_id="i" * 120, since=node.told(0))
            for each in (client, quick):
                assert each.outbox.closed is None, number
                each.hang_up()
        assert outcomes == {True, False}


async def test_replays_make_frames_for_requestids_of_one_length_at_a_time() -> None:
    async with running() as node:
        start = node.at
        for _ in range(50):
            node.publish("x" * 8000)
        tracemalloc.start(1)
        before, _ = tracemalloc.get_traced_memory()
        for length in range(1, 100):
            client = node.client(takes=[])
            client.transport.write_nowait = len  # type: ignore[assignment,method-assign]
            assert client.subscribe(request_id="x" * length, since=start)["recovered"] is True
            client.hang_up()
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert taken < 5 * SHARED_BYTES


@pytest.mark.parametrize("kind", ["drop_oldest", "conflate"])
async def test_who_asks_again_is_not_told_past_what_a_policy_left_out_and_it_has_not_heard_of(kind: Any) -> None:
    async with running(RoomPolicy(match=CAR, policy=kind, outbox_bytes=3000)) as node:
        client = node.client(takes=[10**6, 0, 0, 0])
        start = client.subscribe(since=None)["at"]
        first = node.publish(0)
        for number in range(1, 20):
            node.publish([number, "x" * 500])
        assert client.subscribe(since=None)["at"] == first
        client.outbox.drop_stale(trio.current_time())
        assert client.subscribe(since=None)["at"] == first, "all are left out"
        assert client.outbox.lost > 10
        write_all(client.outbox)
        assert [message.get("type") for message in client.messages].count("gap") == 1
        assert client.subscribe(since=None)["at"] == node.at
        assert start == node.told(0)


async def test_who_asks_again_is_not_told_past_what_a_key_left_out_last() -> None:
    async with running(RoomPolicy(match=CAR, policy="conflate", key="id")) as node:
        client = node.client(takes=[10**6, 0, 0, 0])
        client.subscribe(since=None)
        first = node.publish({"id": 0})
        for key in (1, 2, 2, 1):
            node.publish({"id": key})
        assert client.subscribe(since=None)["at"] == first, "1 came before 2, and was left out after it"
        write_all(client.outbox)


# Before the end


async def test_who_is_sent_away_while_something_waits_is_told_up_to_where_only_after_it() -> None:
    async with running() as node:
        client = node.client(takes=[10**6, 0])
        client.subscribe(since=None)
        for number in range(3):
            node.publish(number)
        at = client.session.position()
        assert at == node.at
        client.outbox.close(STOPPING, text_frame(position(at).encode()) + close_frame(STOPPING))
        node.publish("too late")
        write_all(client.outbox)
        assert (client.data, client.messages[-1]) == ([0, 1, 2], {"type": "position", "at": at})


@pytest.mark.parametrize("how", ["cut", "unsubscribed"])
async def test_who_loses_what_waits_while_it_is_sent_away_is_not_told_that_it_has_it(how: str) -> None:
    async with running() as node:
        client = node.client(takes=[10**6, 0])
        client.subscribe(since=None)
        first, at = node.publish(0), node.publish(1)
        client.outbox.close(STOPPING, text_frame(position(at).encode()) + close_frame(STOPPING))
        if how == "cut":
            client.outbox.cut(CROWDED)
        else:
            client.session.leave(room_key(CAR))
        write_all(client.outbox)
        assert frames(bytes(client.transport.written))[-1][1] == close_frame(STOPPING)[2:]
        assert client.at == first
        back = node.client()
        back.subscribe(since=client.at)
        assert back.data == [1]
