"""The hub against a plain dict of sets, through the sessions that feed it."""

from __future__ import annotations

import json
import sys
import tracemalloc
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.conftest import FakeReceiver
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.frames import Batch, Publication
from trio_templar.core.hub import Hub
from trio_templar.core.rooms import room_key
from trio_templar.core.session import Rules, Session

BATCH = Batch([Publication(b"", b"")])
MAX_SUBSCRIPTIONS = 4
ROOMS: list[dict[str, Any]] = [{"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": "*"}, {"b": {"x": 1, "y": 2}}, {}, {"no": 1}]
REQUEST_IDS = ["a", 1, "1", True, 1.0, None]
ALLOWED = [{"a": "*"}, {"b": "*"}, {}]


def test_a_room_is_made_by_its_first_subscription_and_gone_with_its_last() -> None:
    hub = Hub()
    one = hub.subscribe(b"room", FakeReceiver(), b"1")
    two = hub.subscribe(b"room", FakeReceiver(), b"1")
    assert list(hub.rooms) == [b"room"]
    hub.unsubscribe(one)
    assert list(hub.rooms) == [b"room"]
    hub.unsubscribe(two)
    assert not hub.rooms


def test_subscriptions_stay_in_the_order_they_came() -> None:
    hub = Hub()
    subscriptions = [hub.subscribe(b"room", FakeReceiver(), str(number).encode()) for number in range(5)]
    hub.unsubscribe(subscriptions[1])
    assert list(hub.rooms[b"room"].subscriptions) == [subscriptions[number] for number in (0, 2, 3, 4)]


def test_an_ended_subscription_can_be_ended_again() -> None:
    hub = Hub()
    one, two = (hub.subscribe(b"room", FakeReceiver(), b"1") for _ in range(2))
    hub.unsubscribe(one)
    hub.unsubscribe(one)
    assert (hub.subscriptions, one.room, two.room) == (1, None, hub.rooms[b"room"])


def test_a_room_made_anew_is_another_room() -> None:
    hub = Hub()
    subscription = hub.subscribe(b"room", FakeReceiver(), b"1")
    old = subscription.room
    hub.unsubscribe(subscription)
    assert hub.subscribe(b"room", FakeReceiver(), b"1").room is not old


def test_the_key_of_a_room_takes_no_more_memory_than_its_bytes() -> None:
    hub = Hub()
    room = {"room": "x" * 1000}
    tracemalloc.start()
    try:
        subscription = hub.subscribe(room_key(room), FakeReceiver(), b"1")
        sizes = [trace.size for trace in tracemalloc.take_snapshot().traces if trace.size >= 1000]
    finally:
        tracemalloc.stop()
    assert subscription.room is not None
    assert sizes == [sys.getsizeof(subscription.room.key)]


class Clients(RuleBasedStateMachine):
    """Clients come, subscribe, unsubscribe and leave; the model is `{room: {(client, requestId)}}`."""

    @initialize()
    def begin(self) -> None:
        self.hub = Hub()
        self.shared = Rules(DIALECTS["2"], self.hub, MAX_SUBSCRIPTIONS, 100, 20)
        self.clients: dict[int, tuple[Session, FakeReceiver]] = {}
        self.subscribed: dict[tuple[int, str], str] = {}
        self.count = 0

    def model(self) -> dict[str, set[tuple[int, str]]]:
        rooms: dict[str, set[tuple[int, str]]] = {}
        for name, room in self.subscribed.items():
            rooms.setdefault(room, set()).add(name)
        return rooms

    @rule()
    def connect(self) -> None:
        receiver = FakeReceiver()
        self.clients[self.count] = Session(self.shared, ALLOWED, receiver, "id"), receiver
        self.count += 1

    @rule(which=st.integers(0, 5), request_id=st.sampled_from(REQUEST_IDS), room=st.sampled_from(ROOMS))
    def subscribe(self, which: int, request_id: Any, room: dict[str, Any]) -> None:
        client = self.pick(which)
        if client is None:
            return
        name, identity = (client, json.dumps(request_id)), json.dumps(room, sort_keys=True)
        mine = [key for key in self.subscribed if key[0] == client]
        if room == {"no": 1}:
            expected = "room-not-found"
        elif self.subscribed.get(name, identity) != identity:
            expected = "request-id-in-use"
        elif name not in self.subscribed and len(mine) == MAX_SUBSCRIPTIONS:
            expected = "too-many-subscriptions"
        else:
            expected = "success"
            self.subscribed[name] = identity
        self.expect(client, {"type": "subscribe", "requestId": request_id, "room": room}, expected)

    @rule(which=st.integers(0, 5), request_id=st.sampled_from(REQUEST_IDS))
    def unsubscribe(self, which: int, request_id: Any) -> None:
        client = self.pick(which)
        if client is None:
            return
        known = self.subscribed.pop((client, json.dumps(request_id)), None)
        message = {"type": "unsubscribe", "requestId": request_id}
        self.expect(client, message, "not-subscribed" if known is None else "success")

    @rule(which=st.integers(0, 5))
    def leave(self, which: int) -> None:
        client = self.pick(which)
        if client is None:
            return
        self.clients.pop(client)[0].end()
        self.subscribed = {name: room for name, room in self.subscribed.items() if name[0] != client}

    def pick(self, which: int) -> int | None:
        return list(self.clients)[which % len(self.clients)] if self.clients else None

    def expect(self, client: int, message: dict[str, Any], expected: str) -> None:
        reply = json.loads(self.clients[client][0].receive(json.dumps(message)).text)
        assert reply["requestId"] == message["requestId"]
        assert type(reply["requestId"]) is type(message["requestId"])
        assert expected == ("success" if reply["code"] == "success" else reply["message"])

    @invariant()
    def the_hub_is_the_model(self) -> None:
        model = self.model()
        assert set(self.hub.rooms) == {room_key(json.loads(room)) for room in model}
        for identity, names in model.items():
            room = self.hub.rooms[room_key(json.loads(identity))]
            heard = {(self.client_of(each.receiver), each.request_id.decode()) for each in room.subscriptions}
            assert heard == names
            assert all(each.room is room for each in room.subscriptions)
        assert self.hub.subscriptions == len(self.subscribed)

    def client_of(self, receiver: Any) -> int:
        return next(client for client, (_, its) in self.clients.items() if its is receiver)


TestClients = Clients.TestCase
TestClients.settings = settings(max_examples=30, stateful_step_count=30)
