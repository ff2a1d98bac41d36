"""What waits for a slow client: what gives way, what it is told, and what it costs. Exact numbers."""

from __future__ import annotations

import json
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.conftest import FakeTransport, Now, frames, make_backlogs, opcode, texts, write_all
from tests.unit.test_outbox import batch, reply
from trio_templar.core.frames import PUBLICATION_BYTES, gap_frame
from trio_templar.core.hub import Hub, Subscription
from trio_templar.core.policies import Policies, RoomPolicy
from trio_templar.delivery.backlog import REFERENCE_BYTES, Backlogs
from trio_templar.delivery.outbox import Outbox
from trio_templar.errors import SLOW_BYTES, SLOW_FRAMES, SLOW_ROOM, STALE, STUCK, Close

# One publication of one digit: its two sides, without header and requestId.
DIGIT_BYTES = batch(0).size
POLICIES = [
    RoomPolicy(match={"class": "latest"}, policy="conflate"),
    RoomPolicy(match={"class": "keyed"}, policy="conflate", key="object.id"),
    RoomPolicy(match={"class": "recent"}, policy="drop_oldest"),
    RoomPolicy(match={"class": "few"}, policy="drop_oldest", outbox_bytes=2 * DIGIT_BYTES),
    RoomPolicy(match={"class": "strict"}, outbox_bytes=2 * DIGIT_BYTES),
]


class Client:
    """One outbox whose socket takes nothing until it is told, in rooms of each policy. A stopper waits first."""

    def __init__(self, max_bytes: int = 10_000, max_frames: int = 100, backlogs: Backlogs | None = None) -> None:
        self.now = Now()
        self.backlogs = backlogs or make_backlogs(max_bytes, max_frames, now=self.now)
        self.transport = FakeTransport([0])
        self.outbox = Outbox(self.transport, self.transport, self.backlogs)
        self.hub = Hub(Policies(POLICIES, max_bytes))
        self.outbox.reply(reply("stopper"))

    def enter(self, kind: str, request_id: Any = 1) -> Subscription:
        key = json.dumps({"class": kind}, separators=(",", ":")).encode()
        return self.hub.subscribe(key, self.outbox, json.dumps(request_id).encode())

    def write_once(self) -> None:
        """Let the socket take what is being written; the next that is put is written in part."""
        self.transport.takes = []
        write_all(self.outbox)
        self.transport.takes = [1]

    def read(self) -> list[Any]:
        """Let the socket take everything, and return what was said: `data` of publications, gaps as ("gap", lost)."""
        self.transport.takes = []
        write_all(self.outbox)
        said = [text for text in texts(bytes(self.transport.written)) if text not in ("stopper", "pong")]
        self.transport.written.clear()
        self.transport.takes = [0]
        return [_short(json.loads(text)) for text in said]


def _short(said: dict[str, Any]) -> Any:
    return ("gap", said["requestId"], said["lost"]) if said["type"] == "gap" else said["data"]


def test_of_a_conflated_room_the_latest_waits_and_the_gap_is_told_before_it() -> None:
    client = Client()
    car = client.enter("latest")
    for number in range(5):
        client.outbox.put(car, batch(number))
    assert (client.outbox.waiting_frames, client.outbox.lost) == (1, 4)
    assert client.read() == [("gap", 1, 4), 4]
    assert client.backlogs.losses.conflated == 4


def test_a_gap_is_a_message_without_the_type_that_old_clients_know() -> None:
    assert texts(gap_frame(b'"abc"', 2)) == ['{"type": "gap", "requestId": "abc", "lost": 2}']


def test_of_a_batch_too_only_the_latest_waits() -> None:
    client = Client()
    client.outbox.put(client.enter("latest"), batch(1, 2, 3))
    assert client.read() == [("gap", 1, 2), 3]


def test_a_healthy_client_sees_every_publication_of_a_conflated_room() -> None:
    client = Client()
    client.read()
    client.transport.takes = []
    car = client.enter("latest")
    for number in range(5):
        client.outbox.put(car, batch(number))
    assert [json.loads(text)["data"] for text in texts(bytes(client.transport.written))] == [0, 1, 2, 3, 4]
    assert (client.outbox.lost, client.backlogs.losses.queued) == (0, 0)


def test_with_a_key_the_latest_of_each_value_waits_in_the_order_of_publishing() -> None:
    client = Client()
    car = client.enter("keyed")
    for id_, value in [(1, "a"), (2, "b"), (1, "c"), (3, "d"), (1, "e")]:
        client.outbox.put(car, batch({"object": {"id": id_}, "value": value}))
    said = client.read()
    assert [each if isinstance(each, tuple) else each["value"] for each in said] == [("gap", 1, 2), "b", "d", "e"]


@pytest.mark.parametrize("data", [{"other": 1}, {"object": 5}, [1], None, "text"])
def test_without_the_key_a_publication_takes_nobodys_place(data: Any) -> None:
    client = Client()
    car = client.enter("keyed")
    client.outbox.put(car, batch({"object": {"id": 1}}))
    for _ in range(2):
        client.outbox.put(car, batch(data))
    assert client.read() == [{"object": {"id": 1}}, data, data]


def test_keys_are_json_values_and_not_what_python_takes_for_equal() -> None:
    client = Client()
    car = client.enter("keyed")
    values: list[Any] = [1, 1.0, True, "1", {"x": 1, "y": 2}, {"y": 2, "x": 1}]
    for value in values:
        client.outbox.put(car, batch({"object": {"id": value}}))
    assert [each for each in client.read() if isinstance(each, tuple)] == [("gap", 1, 1)]


def test_the_share_of_a_room_bounds_what_waits_and_the_oldest_is_dropped() -> None:
    client = Client()
    car = client.enter("few")
    for number in range(6):
        client.outbox.put(car, batch(number))
    # Judged by what waits before: with two digits there is room for a third.
    assert client.outbox.waiting_frames == 3
    assert client.read() == [("gap", 1, 3), 3, 4, 5]
    assert client.backlogs.losses.dropped == {"disconnect": 0, "drop_oldest": 3, "conflate": 0}


def test_the_share_of_a_strict_room_cuts_the_client() -> None:
    client = Client()
    car = client.enter("strict")
    for number in range(3):
        client.outbox.put(car, batch(number))
    assert client.outbox.closed is None
    client.outbox.put(car, batch(3))
    assert client.outbox.closed == SLOW_ROOM
    assert client.backlogs.losses.dropped["disconnect"] == 3


def test_over_the_hard_bound_conflatable_publications_go_first_then_the_oldest_and_then_the_client() -> None:
    client = Client(max_frames=6)
    strict, recent, keyed = client.enter("plain", "s"), client.enter("recent", "r"), client.enter("keyed", "k")
    client.outbox.put(strict, batch("s1"))
    for number in range(2):
        client.outbox.put(recent, batch(f"r{number}"))
        client.outbox.put(keyed, batch({"object": {"id": number}}))
    client.outbox.put(strict, batch("s2"))
    assert client.outbox.waiting_frames == 6
    client.outbox.put(strict, batch("s3"))
    client.outbox.put(strict, batch("s4"))
    client.outbox.put(strict, batch("s5"))
    assert client.outbox.closed is None
    assert client.backlogs.losses.dropped == {"disconnect": 0, "drop_oldest": 1, "conflate": 2}
    assert client.read() == ["s1", ("gap", "r", 1), "r1", "s2", "s3", "s4", "s5", ("gap", "k", 2)]


def test_without_anything_that_may_be_lost_the_client_is_cut() -> None:
    client = Client(max_frames=2)
    strict, recent = client.enter("plain", "s"), client.enter("recent", "r")
    client.outbox.put(recent, batch("r"))
    for _ in range(3):
        client.outbox.put(strict, batch("s"))
    assert client.outbox.closed == SLOW_FRAMES
    assert client.backlogs.drops == {SLOW_FRAMES: 1}
    assert client.transport.overdue is not None
    assert (client.transport.overdue.frames, client.transport.overdue.policies) == (2, {"disconnect"})


def test_a_room_that_may_lose_some_makes_way_for_a_reply() -> None:
    client = Client(max_frames=3)
    recent = client.enter("recent")
    for number in range(5):
        client.outbox.put(recent, batch(number))
    for _ in range(2):
        client.outbox.reply(reply("pong"))
    assert client.outbox.closed is None
    assert client.read() == [("gap", 1, 4), 4]
    client.transport.takes = [0]


def test_replies_that_never_fit_cut_the_client() -> None:
    client = Client(max_frames=3)
    client.outbox.put(client.enter("recent"), batch(1))
    for _ in range(4):
        client.outbox.reply(reply("pong"))
    assert client.outbox.closed == SLOW_FRAMES


def test_a_gap_of_which_nothing_follows_is_told_when_nothing_waits_any_more() -> None:
    client = Client(max_frames=2)
    keyed, strict = client.enter("keyed", "k"), client.enter("plain", "s")
    client.outbox.put(keyed, batch({"object": {"id": 1}}))
    client.outbox.put(strict, batch("s1"))
    client.outbox.put(strict, batch("s2"))
    assert client.read() == ["s1", "s2", ("gap", "k", 1)]
    client.outbox.put(keyed, batch({"object": {"id": 2}}))
    assert client.read() == [{"object": {"id": 2}}], "it is told once"


def test_an_unsubscribe_voids_what_waits_and_frees_it_at_once() -> None:
    client = Client()
    gone, stays = client.enter("latest", "gone"), client.enter("latest", "stays")
    before = client.backlogs.budget.used_bytes
    for each in (gone, stays, gone):
        client.outbox.put(each, batch(1))
    client.hub.unsubscribe(gone)
    assert client.backlogs.budget.used_bytes == before + DIGIT_BYTES + PUBLICATION_BYTES + REFERENCE_BYTES
    assert client.read() == [1]


def test_what_is_older_than_it_may_be_is_dropped_where_it_may_be() -> None:
    client = Client()
    recent, latest = client.enter("recent", "r"), client.enter("latest", "l")
    client.now.time = 10
    client.write_once()  # the stopper: what is written next is being written from now on
    for number in range(4):
        client.now.time = 10 + number
        client.outbox.put(recent, batch(number))
    client.outbox.put(latest, batch("l"))
    assert client.outbox.oldest == 10
    client.outbox.drop_stale(12)
    assert client.outbox.lost == 2
    assert client.read() == [0, ("gap", "r", 2), 3, "l"], "the first is being written"


def test_what_is_too_old_and_must_not_be_lost_is_told_from_the_rest() -> None:
    client = Client()
    client.now.time = 5
    client.outbox.put(client.enter("plain"), batch(1))
    assert not client.outbox.drop_stale(-1)
    assert client.outbox.drop_stale(0)


def test_what_waited_when_a_client_was_cut_is_kept_for_its_log_line() -> None:
    client = Client()
    client.now.time = 2
    client.outbox.put(client.enter("recent"), batch(1, 2))
    client.now.time = 7
    waited = client.outbox.waiting_bytes
    client.outbox.cut(STUCK)
    overdue = client.transport.overdue
    assert overdue is not None
    assert (overdue.bytes, overdue.frames, overdue.oldest_seconds, overdue.policies) == (waited, 2, 7, {"drop_oldest"})
    assert client.outbox.peak_bytes == waited
    assert client.backlogs.drops == {STUCK: 1}


def test_a_close_that_blames_nobody_is_no_drop() -> None:
    client = Client()
    client.outbox.cut(Close(1011, "no answer to a ping"))
    assert client.backlogs.drops == {}
    assert client.transport.overdue is None
    assert STALE not in client.backlogs.drops


# What it costs


def test_what_was_conflated_is_taken_out_of_the_channel_now_and_then() -> None:
    client = Client(max_frames=10)
    latest, plain = client.enter("latest", "l"), client.enter("plain", "p")
    for number in range(8):
        client.outbox.put(plain, batch(number))
    for number in range(1000):
        client.outbox.put(latest, batch(number))
    backlog = client.outbox._backlog
    assert backlog is not None
    assert backlog._in_channel <= 20
    assert client.read() == [0, 1, 2, 3, 4, 5, 6, 7, ("gap", "l", 999), 999]


def test_what_many_wait_for_counts_once() -> None:
    backlogs = make_backlogs()
    clients = [Client(backlogs=backlogs) for _ in range(3)]
    shared = batch("x" * 1000)
    before = backlogs.budget.used_bytes
    for client in clients:
        client.outbox.put(client.enter("plain"), shared)
    assert backlogs.budget.used_bytes - before == shared.size + PUBLICATION_BYTES + 3 * REFERENCE_BYTES


def steps_to_make_space(rooms: int) -> int:
    """Return the steps of the interpreter for 500 publications to `rooms`, each of which makes another give way."""
    client = Client(max_bytes=10**6, max_frames=500)
    subscriptions = [client.enter("recent", number) for number in range(rooms)]
    one = batch(1)
    for number in range(500):
        client.outbox.put(subscriptions[number % rooms], one)
    steps = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for number in range(500):
            client.outbox.put(subscriptions[number % rooms], one)
    finally:
        sys.settrace(before)
    assert client.outbox.lost >= 500
    return steps


def test_what_gives_way_costs_the_same_in_few_rooms_and_in_many() -> None:
    assert steps_to_make_space(200) < 1.5 * steps_to_make_space(2)


def test_of_rooms_that_may_lose_some_a_quiet_one_loses_nothing_to_a_busy_one() -> None:
    client = Client(max_frames=8)
    quiet, busy = client.enter("recent", "quiet"), client.enter("recent", "busy")
    client.outbox.put(quiet, batch("q"))
    for number in range(30):
        client.outbox.put(busy, batch(number))
    assert client.read() == ["q", ("gap", "busy", 23), *range(23, 30)]


def test_a_client_over_its_bytes_is_cut_after_all_that_may_be_lost_is() -> None:
    client = Client(max_bytes=3 * DIGIT_BYTES)
    recent, strict = client.enter("recent", "r"), client.enter("plain", "s")
    for number in range(8):
        client.outbox.put(recent, batch(number))
    assert client.outbox.closed is None
    for number in range(8):
        client.outbox.put(strict, batch(number))
    assert client.outbox.closed == SLOW_BYTES


# The law


class AnyPolicy(RuleBasedStateMachine):
    """Whatever is put, written in part, voided and cut: what is read is a subsequence, and gaps make up the rest."""

    KINDS = ("plain", "recent", "few", "latest", "keyed")

    @initialize(bound=st.sampled_from([300, 1000, 10_000]), max_frames=st.sampled_from([3, 8, 100]))
    def begin(self, bound: int, max_frames: int) -> None:
        self.client = Client(bound, max_frames)
        self.subscriptions = {kind: self.client.enter(kind, kind) for kind in self.KINDS}
        self.published: dict[str, list[int]] = {kind: [] for kind in self.KINDS}
        self.count = 0

    @precondition(lambda self: self.client.outbox.closed is None)
    @rule(
        kind=st.sampled_from(KINDS),
        count=st.integers(1, 4),
        size=st.sampled_from([0, 60]),
        takes=st.lists(st.integers(0, 200), max_size=1),
        seconds=st.integers(0, 3),
    )
    def publish(self, kind: str, count: int, size: int, takes: list[int], seconds: int) -> None:
        self.client.transport.takes = takes
        self.client.now.time += seconds
        numbers = range(self.count, self.count + count)
        data = [{"n": number, "object": {"id": number % 3}, "x": "x" * size} for number in numbers]
        self.count += count
        self.client.outbox.put(self.subscriptions[kind], batch(*data))
        self.published[kind] += numbers

    @rule(takes=st.lists(st.integers(0, 50), max_size=1))
    def say(self, takes: list[int]) -> None:
        self.client.transport.takes = takes
        self.client.outbox.reply(reply("pong"))

    @rule(size=st.integers(1, 400))
    def write(self, size: int) -> None:
        self.client.transport.takes.insert(0, size)
        self.client.outbox.write_more()

    @rule(age=st.integers(0, 5))
    def drop_stale(self, age: int) -> None:
        self.client.outbox.drop_stale(self.client.now.time - age)

    @invariant()
    def nothing_is_counted_twice_or_left_over(self) -> None:
        backlogs, outbox = self.client.backlogs, self.client.outbox
        assert backlogs.bytes == outbox.waiting_bytes
        assert (outbox.waiting_bytes > 0) <= (not outbox.idle) == (outbox in backlogs.outboxes)
        if outbox.idle:
            assert backlogs.budget.used_bytes == 0
        assert outbox.lost == backlogs.losses.conflated + sum(
            backlogs.losses.dropped[kind] for kind in ("drop_oldest", "conflate")
        )

    def teardown(self) -> None:
        outbox = self.client.outbox
        self.client.transport.takes = []
        write_all(outbox)
        assert self.client.backlogs.budget.used_bytes == 0
        read = frames(bytes(self.client.transport.written))
        if outbox.closed is not None:
            assert opcode(read.pop()[0]) == 8
        said = [json.loads(payload) for _, payload in read if payload not in (b"pong", b"stopper")]
        for kind in self.KINDS:
            self.check(kind, [each for each in said if each["requestId"] == kind])

    def check(self, kind: str, said: list[Any]) -> None:
        received = [each["data"]["n"] for each in said if each["type"] == "publish"]
        gaps = sum(each["lost"] for each in said if each["type"] == "gap")
        assert received == [n for n in self.published[kind] if n in set(received)], "in order, each once"
        if self.client.outbox.closed is None:
            assert gaps + len(received) == len(self.published[kind])
        if kind == "plain" and self.client.outbox.closed is None:
            assert gaps == 0
        assert all(each["lost"] > 0 for each in said if each["type"] == "gap")


TestAnyPolicy = AnyPolicy.TestCase
TestAnyPolicy.settings = settings(max_examples=150, stateful_step_count=40)
