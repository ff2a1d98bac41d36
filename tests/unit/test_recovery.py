"""Recovery: who comes back gets what it missed, or is told to fetch; who never asked sees no byte of it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.conftest import CAR, RIDE, FakeReceiver, FakeTransport, Now, make_backlogs, texts, write_all
from tests.unit.test_dialects import any_message
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.frames import Batch, Publication
from trio_templar.core.history import OFF, History, Span
from trio_templar.core.hub import Hub, LiveRoom, Subscription
from trio_templar.core.policies import Policies, RoomPolicy
from trio_templar.core.position import Positions
from trio_templar.core.recovery import FRAME_BYTES, SHARED_BYTES, Recovery
from trio_templar.core.rooms import room_key
from trio_templar.core.session import Reply, Rules, Session
from trio_templar.delivery.fanout import RoomChannel
from trio_templar.delivery.outbox import Outbox

MINUTE = Span(60, 10_000_000)
# The first position is told as `0123456789ab.1a3185c5000`.
EPOCH, START = b"0123456789ab", 1_800_000_000.0


class Desk:
    """What sessions share, and the part of fan-out that hands on what is published, at once or later."""

    def __init__(self, dialect: Any = "2", span: Span = MINUTE, *policies: RoomPolicy) -> None:
        self.now = Now()
        wall = Now()
        wall.time = START
        found = Policies(policies, 1_000_000)
        self.positions = Positions(epoch=EPOCH, wall=wall)
        self.history = History(self.positions, span, found.history_seconds)
        self.recovery = Recovery(self.history, self.now)
        self.hub = Hub(found)
        self.dialect = DIALECTS[dialect]
        self.rules = Rules(self.dialect, self.hub, 10, 100, 30, recovery=self.recovery)

    @property
    def at(self) -> str:
        return self.positions.token(self.positions.last)

    @property
    def outcomes(self) -> dict[str, int]:
        return {outcome: count for outcome, count in self.recovery.outcomes.items() if count}

    def room(self, room: dict[str, Any]) -> LiveRoom:
        return self.hub.rooms[room_key(room)]

    def publication(self, data: Any, position: int) -> Publication:
        return self.dialect.publication(json.dumps(data).encode())._replace(position=position)

    def keep(self, room: dict[str, Any], data: Any) -> Publication:
        """Publish, without handing it on to anybody."""
        position = self.positions.last = self.positions.next()
        publication = self.publication(data, position)
        self.history.add(position, [room_key(room)], publication, self.now())
        return publication

    def publish(self, room: dict[str, Any], data: Any) -> str:
        publication = self.keep(room, data)
        if room_key(room) in self.hub.rooms:
            self.hand_on(room, publication)
        return self.positions.token(publication.position)

    def hand_on(self, room: dict[str, Any], *publications: Publication) -> None:
        batch = Batch(publications)
        for subscription in self.room(room).subscriptions:
            new = batch.behind(subscription.after) if subscription.after else batch
            if new is not None:
                subscription.receiver.put(subscription, new)


class Client:
    """A connection without a socket: it puts a reply, and the replay right behind it."""

    def __init__(self, desk: Desk, *, outbox: Outbox | None = None, allowed: Any = (CAR, RIDE)) -> None:
        self.receiver = FakeReceiver()
        self.session = Session(desk.rules, allowed, outbox or self.receiver, "id-of-connection")

    def say(self, **message: Any) -> Reply:
        reply = self.session.receive(json.dumps(message))
        if reply.replay is not None:
            reply.replay.subscription.receiver.put(*reply.replay)
        return reply

    def subscribe(self, room: dict[str, Any] = CAR, *, request_id: Any = 1, **since: Any) -> str:
        return self.say(type="subscribe", requestId=request_id, room=room, **since).text

    @property
    def subscription(self) -> Subscription:
        (subscription,) = self.session._subscriptions.values()
        return subscription

    @property
    def data(self) -> list[Any]:
        return self.receiver.data


def success(at: str | None = None, recovered: bool | None = None) -> str:
    """Return the reply as it is told in both dialects, byte for byte."""
    said_at = "" if at is None else f', "at": "{at}"'
    said_recovered = "" if recovered is None else f', "recovered": {"true" if recovered else "false"}'
    return f'{{"requestId": 1, "code": "success"{said_at}{said_recovered}}}'


def missed(desk: Desk, count: int, room: dict[str, Any] = CAR) -> str:
    """Publish `count` times while nobody is there; return the position before."""
    before = desk.at
    for number in range(count):
        desk.publish(room, number)
    return before


both_dialects = pytest.mark.parametrize("dialect", ["2", "3"])


# On the wire


@both_dialects
def test_who_wants_positions_is_told_where_it_stands_and_no_more(dialect: str) -> None:
    desk = Desk(dialect)
    missed(desk, 3)
    client = Client(desk)
    assert client.subscribe(since=None) == '{"requestId": 1, "code": "success", "at": "0123456789ab.1a3185c5003"}'
    assert client.data == []
    desk.publish(CAR, "new")
    assert client.data == ["new"]
    assert desk.outcomes == {}


@both_dialects
def test_who_comes_back_gets_what_it_missed_in_order_and_once(dialect: str) -> None:
    desk = Desk(dialect)
    client = Client(desk)
    assert client.subscribe(since="0123456789ab.1a3185c5000") == success("0123456789ab.1a3185c5000", True)
    at = desk.publish(CAR, 0)
    client.session.end()
    for number in range(1, 4):
        desk.publish(CAR, number)
        desk.publish(RIDE, "other")
    back = Client(desk)
    assert back.subscribe(since=at) == (
        '{"requestId": 1, "code": "success", "at": "0123456789ab.1a3185c5001", "recovered": true}'
    )
    desk.publish(CAR, 4)
    assert (client.data, back.data) == ([0], [1, 2, 3, 4])
    assert back.receiver.counts == [3, 1], "the replay is one batch"
    assert (desk.outcomes, desk.recovery.replayed) == ({"recovered": 2}, 3)


@pytest.mark.parametrize(
    ("dialect", "frames"),
    [
        (
            "2",
            [
                '{"requestId": "a", "at": "0123456789ab.1a3185c5001", "type": "publish", "data": {"n": 1}}',
                '{"requestId": "a", "at": "0123456789ab.1a3185c5002", "type": "publish", "data": []}',
            ],
        ),
        (
            "3",
            [
                '{"type": "publish", "data": {"n": 1}, "requestId": "a", "at": "0123456789ab.1a3185c5001"}',
                '{"type": "publish", "data": [], "requestId": "a", "at": "0123456789ab.1a3185c5002"}',
            ],
        ),
    ],
)
def test_frames_with_positions_byte_for_byte_replayed_or_live(dialect: str, frames: list[str]) -> None:
    desk = Desk(dialect)
    transports = [FakeTransport(), FakeTransport()]
    live, back = [Client(desk, outbox=Outbox(transport, None, make_backlogs())) for transport in transports]
    live.subscribe(since=None, request_id="a")
    start = desk.at
    desk.publish(CAR, {"n": 1})
    desk.publish(CAR, [])
    back.subscribe(since=start, request_id="a")
    assert [texts(bytes(transport.written)) for transport in transports] == [frames, frames]


@both_dialects
def test_frames_that_waited_carry_their_positions_too(dialect: str) -> None:
    desk = Desk(dialect)
    slow = FakeTransport(takes=[0])
    outbox = Outbox(slow, None, make_backlogs())
    client, quick = Client(desk, outbox=outbox), Client(desk)
    client.subscribe(since=None)
    quick.subscribe(since=None)
    for number in range(3):
        desk.publish(CAR, number)
    write_all(outbox)
    assert [json.loads(text) for text in texts(bytes(slow.written))] == quick.receiver.messages
    assert [message["at"] for message in quick.receiver.messages] == [
        f"0123456789ab.1a3185c500{number}" for number in (1, 2, 3)
    ]


def test_who_asks_and_who_does_not_share_a_batch_and_no_frame() -> None:
    desk = Desk()
    clients = [Client(desk) for _ in range(4)]
    for request_id, client in enumerate(clients):
        since: dict[str, Any] = {"since": None} if request_id % 2 else {}
        client.subscribe(request_id=request_id, **since)
    at = desk.publish(CAR, "new")
    said = [{"requestId": number, "type": "publish", "data": "new"} for number in range(4)]
    assert [client.receiver.messages for client in clients] == [
        [said[0]],
        [said[1] | {"at": at}],
        [said[2]],
        [said[3] | {"at": at}],
    ]


def test_what_has_no_position_is_told_without() -> None:
    desk = Desk()
    client = Client(desk)
    client.subscribe(since=None)
    desk.hand_on(CAR, desk.publication("new", 0))
    assert client.receiver.messages == [{"requestId": 1, "type": "publish", "data": "new"}]


# What a client of the version before says, and what it was told then.
BEFORE: dict[str, list[tuple[str, str]]] = {
    "2": [
        ("ping", "pong"),
        ('{"type": "subscribe", "requestId": 1, "room": {"target": "car"}}', '{"requestId": 1, "code": "success"}'),
        ('{"type": "subscribe", "requestId": 1, "room": {"target": "car"}}', '{"requestId": 1, "code": "success"}'),
        (
            '{"type": "subscribe", "requestId": 1, "room": {"target": "ride"}}',
            '{"requestId": 1, "code": "error", "message": "request-id-in-use"}',
        ),
        (
            '{"type": "subscribe", "requestId": 2, "room": {"target": "none"}}',
            '{"requestId": 2, "code": "error", "message": "room-not-found"}',
        ),
        (
            '{"type": "subscribe", "requestId": 2, "room": 1}',
            '{"requestId": 2, "code": "error", "message": "invalid-room"}',
        ),
        ('{"type": "subscribe"}', '{"requestId": null, "code": "error", "message": "no-request-id"}'),
        ('{"type": "status"}', '{"requestId": null, "code": "error", "message": "message-type-not-allowed"}'),
        ("{", '{"requestId": null, "code": "error", "message": "non-json-message"}'),
        ('{"type": "unsubscribe", "requestId": 1}', '{"requestId": 1, "code": "success"}'),
        (
            '{"type": "unsubscribe", "requestId": 1}',
            '{"requestId": 1, "code": "error", "message": "not-subscribed"}',
        ),
    ],
    "3": [
        ("ping", "pong"),
        ('{"type": "subscribe", "requestId": 1, "room": {"target": "car"}}', '{"code": "success"}'),
        ('{"type": "subscribe", "requestId": 1, "room": {"target": "car"}}', '{"code": "success"}'),
        (
            '{"type": "subscribe", "requestId": 1, "room": {"target": "ride"}}',
            '{"code": "error", "message": "request-id-in-use"}',
        ),
        (
            '{"type": "subscribe", "requestId": 2, "room": {"target": "none"}}',
            '{"code": "error", "message": "room-not-found"}',
        ),
        ('{"type": "subscribe", "requestId": 2, "room": 1}', '{"code": "error", "message": "invalid-room"}'),
        ('{"type": "subscribe"}', '{"code": "error", "message": "no-request-id"}'),
        (
            '{"type": "status"}',
            '{"requestId": "id-of-connection", "code": "error", "message": "message-type-not-allowed"}',
        ),
        ("{", '{"requestId": "id-of-connection", "code": "error", "message": "non-json-message"}'),
        ('{"type": "unsubscribe", "requestId": 1}', '{"code": "success"}'),
        ('{"type": "unsubscribe", "requestId": 1}', '{"code": "error", "message": "not-subscribed"}'),
    ],
}


@both_dialects
@pytest.mark.parametrize("span", [MINUTE, OFF])
def test_who_does_not_ask_is_told_what_it_always_was(dialect: str, span: Span) -> None:
    desk = Desk(dialect, span)
    missed(desk, 3)
    client = Client(desk)
    for message, reply in BEFORE[dialect]:
        assert client.session.receive(message) == Reply(reply, None)
    assert desk.outcomes == {}


@pytest.mark.parametrize(
    ("dialect", "frame"),
    [
        ("2", b'\x81\x2e{"requestId": 1, "type": "publish", "data": 3}'),
        ("3", b'\x81\x2e{"type": "publish", "data": 3, "requestId": 1}'),
    ],
)
def test_who_does_not_ask_gets_the_frames_it_always_got(dialect: str, frame: bytes) -> None:
    desk = Desk(dialect)
    missed(desk, 3)
    transport = FakeTransport()
    client, other = Client(desk, outbox=Outbox(transport, None, make_backlogs())), Client(desk)
    other.subscribe(since=None)
    client.subscribe()
    desk.publish(CAR, 3)
    assert transport.written == frame
    assert (client.subscription.epoch, client.subscription.after) == (b"", 0)


@given(any_message)
def test_history_changes_no_reply_to_a_message_without_since(message: str | bytes) -> None:
    for dialect in ("2", "3"):
        kept, off = (Client(Desk(dialect, span), allowed=[{"any": "*"}, CAR]) for span in (MINUTE, OFF))
        for _ in range(2):
            assert kept.session.receive(message) == off.session.receive(message)


# What can be no position


@pytest.mark.parametrize("since", [1, 0, 1.5, True, False, {}, {"at": "x"}, [], ["0123456789ab.1a3185c5000"]], ids=str)
def test_a_since_of_another_type_is_an_error_and_no_subscription(since: Any) -> None:
    for dialect, reply in [
        ("2", '{"requestId": 1, "code": "error", "message": "invalid-since"}'),
        ("3", '{"code": "error", "message": "invalid-since"}'),
    ]:
        desk = Desk(dialect)
        client = Client(desk)
        assert client.subscribe(since=since) == reply
        assert (desk.hub.subscriptions, desk.outcomes) == (0, {})
        assert client.session.failure is not None
        assert client.session.failure.code == "invalid-since"


@pytest.mark.parametrize("span", [MINUTE, OFF])
def test_what_is_wrong_besides_is_told_first_and_whether_history_is_on_changes_nothing(span: Span) -> None:
    client = Client(Desk("2", span))
    assert "no-request-id" in client.say(type="subscribe", room=CAR, since=1).text
    assert "invalid-room" in client.say(type="subscribe", requestId=1, room=1, since=1).text
    assert "invalid-since" in client.subscribe({"target": "none"}, since=1)
    assert "room-not-found" in client.subscribe({"target": "none"}, since=None)
    assert "code" in client.say(type="unsubscribe", requestId=1, since=1).text


NONSENSE = [
    "",
    " ",
    "null",
    "0",
    ".",
    "0123456789ab",
    "0123456789ab.",
    "0123456789AB.1a3185c5000",
    "\0",
    "x" * 10**6,
]
FUTURE, OTHER, OLD = "0123456789ab.1a3185c5004", "ba9876543210.1a3185c5003", "0123456789ab.1a3185c4fff"


@both_dialects
@pytest.mark.parametrize("since", [*NONSENSE, FUTURE, OTHER, OLD, "0123456789ab.0"], ids=lambda text: ascii(text[:25]))
def test_what_proves_nothing_is_told_to_fetch_and_where_it_stands_then(dialect: str, since: str) -> None:
    desk = Desk(dialect)
    missed(desk, 3)
    client = Client(desk)
    assert client.subscribe(since=since) == (
        '{"requestId": 1, "code": "success", "at": "0123456789ab.1a3185c5003", "recovered": false}'
    )
    assert (desk.outcomes, desk.recovery.replayed) == ({"unknown": 1}, 0)
    at = desk.publish(CAR, "new")
    assert [(message["data"], message["at"]) for message in client.receiver.messages] == [("new", at)]


def test_what_was_forgotten_is_told_to_fetch() -> None:
    desk = Desk()
    start = missed(desk, 1)
    middle = missed(desk, 2)
    desk.now.time = 60
    desk.history.trim(60)
    assert Client(desk).subscribe(since=start) == success(desk.at, False)
    assert Client(desk).subscribe(since=middle) == success(desk.at, False)
    assert Client(desk).subscribe(since=desk.at) == success(desk.at, True)


def test_a_room_that_may_not_be_entered_any_more_tells_nothing() -> None:
    desk = Desk()
    start = missed(desk, 3)
    client = Client(desk, allowed=[RIDE])
    assert "room-not-found" in client.subscribe(since=start)
    assert (client.data, desk.outcomes) == ([], {})


# Where nothing is kept


@both_dialects
@pytest.mark.parametrize(
    ("span", "policies"),
    [
        pytest.param(OFF, (), id="off"),
        pytest.param(MINUTE, (RoomPolicy(match=CAR, history=False),), id="by policy"),
    ],
)
def test_where_nothing_is_kept_there_are_no_positions(dialect: str, span: Span, policies: Any) -> None:
    desk = Desk(dialect, span, *policies)
    start = missed(desk, 1)
    wants, comes_back = Client(desk), Client(desk)
    assert wants.subscribe(since=None) == Client(desk).subscribe() == DIALECTS[dialect].success("1")  # type: ignore[index]
    assert comes_back.subscribe(since=start) == success(None, False)
    assert comes_back.subscribe(since="nonsense") == success(None, False), "again"
    assert comes_back.subscribe(since=None) == DIALECTS[dialect].success("1")  # type: ignore[index]
    desk.publish(CAR, 1)
    assert [set(client.receiver.messages[0]) for client in (wants, comes_back)] == [{"requestId", "type", "data"}] * 2
    assert (wants.session.position(), comes_back.session.position()) == (None, None)


# Too much


def test_a_replay_over_the_frames_that_may_be_put_is_told_to_fetch() -> None:
    desk = Desk()
    start = missed(desk, 10)
    client, enough = Client(desk), Client(desk)
    client.receiver.half = (1_000_000, 9)
    assert client.subscribe(since=start) == success(desk.at, False)
    enough.receiver.half = (1_000_000, 10)
    assert enough.subscribe(since=start) == success(start, True)
    assert (client.data, enough.data) == ([], [*range(10)])
    assert desk.outcomes == {"too large": 1, "recovered": 1}


def test_a_replay_over_the_bytes_that_may_be_put_is_told_to_fetch() -> None:
    desk = Desk()
    start = missed(desk, 10)
    entries = desk.history.newest(room_key(CAR), 0.0, most=10)
    size = sum(len(left) + len(b"1") + len(right) + FRAME_BYTES for _, _, left, right, _ in entries)
    client, enough = Client(desk), Client(desk)
    client.receiver.half = (size - 1, 1000)
    assert client.subscribe(since=start) == success(desk.at, False)
    enough.receiver.half = (size, 1000)
    assert enough.subscribe(since=start) == success(start, True)
    assert (client.data, enough.data) == ([], [*range(10)])


def test_a_replay_over_the_bound_of_its_room_is_told_to_fetch() -> None:
    desk = Desk("2", MINUTE, RoomPolicy(match=CAR, policy="drop_oldest", outbox_bytes=300))
    starts = {str(room): missed(desk, 10, room) for room in (CAR, RIDE)}
    client = Client(desk, outbox=Outbox(FakeTransport(), None, make_backlogs()))
    assert client.subscribe(CAR, since=starts[str(CAR)]) == success(desk.at, False)
    assert client.subscribe(RIDE, since=starts[str(RIDE)], request_id=2).endswith('"recovered": true}')


@pytest.mark.parametrize("bounds", [(1000, 1000), (10**6, 20)])
def test_what_waits_counts_against_half_of_the_outbox(bounds: tuple[int, int]) -> None:
    desk = Desk()
    outbox = Outbox(FakeTransport(takes=[0, 0]), None, make_backlogs(*bounds))
    client = Client(desk, outbox=outbox)
    client.subscribe(RIDE, request_id="ride")
    start = missed(desk, 5)
    for number in range(8):
        desk.publish(RIDE, number)
    waiting = outbox.waiting_bytes
    assert client.subscribe(since=start) == success(desk.at, False)
    assert outbox.waiting_bytes == waiting
    write_all(outbox)
    client.say(type="unsubscribe", requestId=1)
    assert client.subscribe(since=start) == success(start, True)


def test_who_was_closed_because_its_outbox_was_full_has_missed_too_much_of_it() -> None:
    desk = Desk()
    outbox = Outbox(FakeTransport(takes=[0] * 100), None, make_backlogs(1000, 1000))
    slow = Client(desk, outbox=outbox)
    slow.subscribe(since=None)
    start, number = desk.at, 0
    while outbox.closing.open:
        desk.publish(CAR, number := number + 1)
    again = Client(desk, outbox=Outbox(FakeTransport(), None, make_backlogs(1000, 1000)))
    assert again.subscribe(since=start) == success(desk.at, False)
    assert desk.outcomes == {"too large": 1}


def test_who_missed_nothing_recovers_however_full_its_outbox_is() -> None:
    desk = Desk()
    outbox = Outbox(FakeTransport(takes=[0]), None, make_backlogs(1000, 1000))
    client = Client(desk, outbox=outbox)
    client.subscribe(RIDE, request_id="ride")
    desk.publish(RIDE, "x" * 900)
    assert client.subscribe(since=desk.at) == success(desk.at, True)


# What was published, and not handed on yet


def test_what_is_still_on_its_way_comes_once_whether_replayed_or_live() -> None:
    desk = Desk()
    Client(desk).subscribe()
    start = missed(desk, 2)
    offered = desk.positions.last
    desk.room(CAR).channel = SimpleNamespace(offered=offered)
    waiting = [desk.keep(CAR, number) for number in (2, 3)]
    back, new = Client(desk), Client(desk)
    assert back.subscribe(since=start) == success(start, True)
    assert new.subscribe(since=None) == success(desk.positions.token(offered))
    assert (back.data, new.data) == ([0, 1], [])
    desk.hand_on(CAR, *waiting)
    assert (back.data, new.data) == ([0, 1, 2, 3], [2, 3])


def test_who_is_ahead_of_what_was_offered_gets_nothing_twice() -> None:
    desk = Desk()
    Client(desk).subscribe()
    desk.room(CAR).channel = SimpleNamespace(offered=desk.positions.last)
    waiting = [desk.keep(CAR, number) for number in range(3)]
    ahead = desk.positions.token(waiting[1].position)
    client = Client(desk)
    assert client.subscribe(since=ahead) == success(ahead, True)
    desk.hand_on(CAR, *waiting)
    assert client.data == [2]


@given(offered=st.integers(0, 6), known=st.integers(0, 6), passes=st.lists(st.integers(1, 3), max_size=6))
def test_wherever_it_comes_back_it_gets_each_once(offered: int, known: int, passes: list[int]) -> None:
    desk = Desk()
    Client(desk).subscribe()
    start = desk.positions.last
    desk.room(CAR).channel = SimpleNamespace(offered=start + offered)
    waiting = [desk.keep(CAR, number) for number in range(6)][offered:]
    client = Client(desk)
    at = desk.positions.token(start + known)
    assert client.subscribe(since=at) == success(at, True)
    while waiting:
        count = passes.pop() if passes else 6
        desk.hand_on(CAR, *waiting[:count])
        del waiting[:count]
    assert client.data == [*range(known, 6)]


# A requestId in use


@both_dialects
@pytest.mark.parametrize("since", [None, "0123456789ab.1a3185c5000", "nonsense", FUTURE])
@pytest.mark.parametrize("first", [{}, {"since": None}, {"since": "0123456789ab.1a3185c5001"}])
def test_again_it_is_told_where_it_stands_and_gets_nothing_again(dialect: str, since: str | None, first: Any) -> None:
    desk = Desk(dialect)
    missed(desk, 2)
    client = Client(desk)
    client.subscribe(**first)
    known = client.subscription
    state = (known.after, list(client.data), desk.outcomes, desk.recovery.replayed)
    reply = client.say(type="subscribe", requestId=1, room=CAR, since=since)
    assert reply == Reply('{"requestId": 1, "code": "success", "at": "0123456789ab.1a3185c5002"}', None)
    assert client.subscription is known
    assert (known.after, client.data, desk.outcomes, desk.recovery.replayed) == state


@both_dialects
def test_who_asks_for_positions_later_has_them_from_then_on(dialect: str) -> None:
    desk = Desk(dialect)
    client = Client(desk)
    client.subscribe()
    desk.publish(CAR, 0)
    assert client.subscribe(since=None) == success(desk.at)
    at = desk.publish(CAR, 1)
    assert [message.get("at") for message in client.receiver.messages] == [None, at]
    back = Client(desk)
    assert back.subscribe(since=at) == success(at, True)
    assert back.data == [], "with the position of the reply it would get again what it has"


def test_again_for_another_room_is_an_error() -> None:
    desk = Desk()
    client = Client(desk)
    client.subscribe(since=None)
    assert "request-id-in-use" in client.subscribe(RIDE, since=None)


def test_again_what_waits_is_not_said_yet() -> None:
    desk = Desk()
    transport = FakeTransport(takes=[0])
    outbox = Outbox(transport, None, make_backlogs())
    client = Client(desk, outbox=outbox)
    client.subscribe(since=None)
    first = desk.publish(CAR, 0)
    assert client.subscribe(since=None) == success(first), "it is being written, before any reply"
    desk.publish(CAR, 1)
    desk.publish(CAR, 2)
    assert client.subscribe(since=None) == success(first)
    client.subscribe(RIDE, request_id=2, since=None)
    assert client.subscribe(RIDE, request_id=2, since=None).startswith(
        f'{{"requestId": 2, "code": "success", "at": "{desk.at}"'
    )
    write_all(outbox)
    assert client.subscribe(since=None) == success(desk.at)


def test_again_what_is_still_on_its_way_is_not_said_yet() -> None:
    desk = Desk()
    client = Client(desk)
    client.subscribe(since=None)
    before = desk.at
    desk.room(CAR).channel = RoomChannel(desk.positions.last)
    desk.keep(CAR, 0)
    assert client.subscribe(since=None) == success(before)


def test_again_what_waits_without_a_position_leaves_nothing_that_can_be_proved() -> None:
    desk = Desk("2", OFF)
    outbox = Outbox(FakeTransport(takes=[0]), None, make_backlogs())
    client = Client(desk, outbox=outbox)
    client.subscribe()
    for number in range(2):
        desk.hand_on(CAR, desk.publication(number, 0))
    desk.history.apply(MINUTE, None, 0.0, longer=True)
    at = json.loads(client.subscribe(since=None))["at"]
    assert Client(desk).subscribe(since=at) == success(desk.at, False)


# Equal replays


def test_equal_replays_are_one_batch() -> None:
    desk = Desk()
    start = missed(desk, 3)
    later = desk.positions.token(desk.positions.last - 1)
    clients = [Client(desk) for _ in range(5)]
    replays = [
        client.say(type="subscribe", requestId=index, room=CAR, since=since).replay
        for index, (client, since) in enumerate(zip(clients, [start, start, later, start, later], strict=True))
    ]
    batches = [replay.batch for replay in replays if replay is not None]
    assert [batches.index(batch) for batch in batches] == [0, 0, 2, 0, 2]
    assert [client.data for client in clients] == [[0, 1, 2], [0, 1, 2], [2], [0, 1, 2], [2]]
    assert desk.recovery.replayed == 11


def replay_of(desk: Desk, since: str, room: dict[str, Any] = CAR) -> Batch:
    replay = Client(desk).say(type="subscribe", requestId=1, room=room, since=since).replay
    assert replay is not None
    return replay.batch


def test_a_replay_of_more_is_another() -> None:
    desk = Desk()
    start = missed(desk, 1)
    batch = replay_of(desk, start)
    missed(desk, 1)
    assert [batch.count, replay_of(desk, start).count] == [1, 2]


def test_replays_of_two_rooms_are_two() -> None:
    desk = Desk()
    start = missed(desk, 1, CAR)
    desk.history.add(desk.positions.last, [room_key(RIDE)], desk.publication(0, desk.positions.last), 0.0)
    assert replay_of(desk, start) is not replay_of(desk, start, RIDE)


def test_they_are_let_go_with_all_that_was_made_of_them() -> None:
    desk = Desk()
    start = missed(desk, 3)
    batch = replay_of(desk, start)
    desk.recovery.tidy()
    assert (batch._frames, batch._pieces, batch._parts, batch._shares) == (b"", {}, (), ())
    assert (desk.recovery._shared, desk.recovery._shared_bytes) == ({}, 0)
    assert replay_of(desk, start) is not batch


def test_what_still_waits_of_a_large_replay_keeps_nothing_for_others() -> None:
    desk = Desk()
    start = desk.at
    for _ in range(20):
        desk.publish(CAR, "x" * 5000)
    outbox = Outbox(FakeTransport(takes=[0]), None, make_backlogs(2 * 10**6))
    client = Client(desk, outbox=outbox)
    assert client.subscribe(since=start) == success(start, True)
    (batch,) = desk.recovery._shared.values()
    shares = batch.shares(1)
    assert len(shares) > 1
    desk.recovery.tidy()
    assert [(share._frames, share._pieces) for share in shares] == [(b"", {})] * len(shares)


def test_so_many_bytes_of_them_are_kept() -> None:
    desk = Desk()
    for _ in range(3):
        start = desk.at
        for _ in range(4):
            desk.publish(CAR, "x" * (SHARED_BYTES // 10))
        batch = replay_of(desk, start)
        assert replay_of(desk, start) is batch
        sizes = [kept.size + kept.count * (1 + FRAME_BYTES) for kept in desk.recovery._shared.values()]
        assert desk.recovery._shared_bytes == sum(sizes) <= SHARED_BYTES


# Before the end


def test_before_the_end_it_is_told_up_to_where_all_was_said() -> None:
    desk = Desk()
    client = Client(desk)
    client.subscribe(since=None)
    client.subscribe(RIDE, request_id=2)
    desk.publish(CAR, 0)
    desk.publish(RIDE, 0)
    assert client.session.position() == desk.at
    desk.room(RIDE).channel = SimpleNamespace(offered=0)
    assert client.session.position() == desk.at, "that room is none with positions"
    desk.room(CAR).channel = SimpleNamespace(offered=0)
    assert client.session.position() is None, "something is on its way"
    desk.room(CAR).channel = None
    client.say(type="unsubscribe", requestId=1)
    assert client.session.position() is None, "it has no positions any more"
