"""A session: a message in, one reply out, whatever the message is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given

from tests.unit.conftest import CAR, RIDE, FakeReceiver
from tests.unit.test_dialects import any_message
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.hub import Hub
from trio_templar.core.session import Bucket, Rules, Session


def session(
    dialect: Any = "2",
    *,
    hub: Hub | None = None,
    allowed: tuple[Any, ...] = (CAR, {"any": "*"}),
    status: Callable[[], str] | None = None,
    max_subscriptions: int = 3,
) -> Session:
    rules = Rules(DIALECTS[dialect], hub or Hub(), max_subscriptions, 100, 30, status)
    return Session(rules, allowed, FakeReceiver(), "id-of-connection")


def subscribe(client: Session, request_id: Any, room: Any) -> str:
    return client.receive(json.dumps({"type": "subscribe", "requestId": request_id, "room": room})).text


def unsubscribe(client: Session, request_id: Any) -> str:
    return client.receive(json.dumps({"type": "unsubscribe", "requestId": request_id})).text


def test_a_ping_is_ponged() -> None:
    assert session().receive("ping").text == "pong"


def test_a_subscription_is_confirmed_and_known_to_the_hub() -> None:
    hub = Hub()
    assert subscribe(session(hub=hub), "a", CAR) == '{"requestId": "a", "code": "success"}'
    assert hub.subscriptions == 1


def test_dialect_3_confirms_without_request_id() -> None:
    assert subscribe(session("3"), "a", CAR) == '{"code": "success"}'


def test_a_room_that_is_not_allowed_is_not_found() -> None:
    hub = Hub()
    client = session(hub=hub)
    assert subscribe(client, "a", RIDE) == '{"requestId": "a", "code": "error", "message": "room-not-found"}'
    assert (hub.rooms, hub.subscriptions) == ({}, 0)


def test_one_room_may_be_subscribed_under_several_request_ids() -> None:
    hub = Hub()
    client = session(hub=hub)
    assert "success" in subscribe(client, 1, CAR)
    assert "success" in subscribe(client, "1", CAR)
    assert [each.request_id for each in next(iter(hub.rooms.values())).subscriptions] == [b"1", b'"1"']


def test_the_same_subscription_again_is_a_success_and_stays_one() -> None:
    hub = Hub()
    client = session(hub=hub)
    assert subscribe(client, 1, CAR) == subscribe(client, 1, dict(reversed(CAR.items())))
    assert hub.subscriptions == 1


def test_a_request_id_in_use_for_another_room_is_an_error() -> None:
    client = session()
    subscribe(client, 1, CAR)
    assert subscribe(client, 1, {"any": 1}) == '{"requestId": 1, "code": "error", "message": "request-id-in-use"}'


def test_rooms_that_are_equal_but_not_identical_are_two() -> None:
    client = session()
    subscribe(client, 1, {"any": 1})
    assert "request-id-in-use" in subscribe(client, 1, {"any": True})


def test_a_request_id_is_free_again_after_unsubscribing() -> None:
    client = session()
    subscribe(client, 1, CAR)
    assert unsubscribe(client, 1) == '{"requestId": 1, "code": "success"}'
    assert "success" in subscribe(client, 1, {"any": 1})
    assert "success" in unsubscribe(client, 1)


def test_who_is_not_subscribed_cannot_unsubscribe() -> None:
    client = session()
    subscribe(client, 1, CAR)
    assert unsubscribe(client, 1.0) == '{"requestId": 1.0, "code": "error", "message": "not-subscribed"}'


def test_null_is_a_request_id() -> None:
    client = session()
    assert subscribe(client, None, CAR) == '{"requestId": null, "code": "success"}'
    assert "success" in unsubscribe(client, None)


def test_one_subscription_too_many_is_an_error_that_names_the_setting() -> None:
    hub = Hub()
    client = session(hub=hub, max_subscriptions=2)
    assert ["success" in subscribe(client, number, CAR) for number in range(2)] == [True, True]
    assert "too-many-subscriptions" in subscribe(client, 2, CAR)
    assert "success" in subscribe(client, 1, CAR), "it is subscribed already"
    assert (client.broken_bound, hub.subscriptions) == ("max_subscriptions", 2)


def test_a_room_over_its_bytes_is_invalid_and_names_the_setting() -> None:
    client = session()
    assert "success" in subscribe(client, 1, {"any": "x" * 90})
    assert client.broken_bound == ""
    assert "invalid-room" in subscribe(client, 2, {"any": "x" * 91})
    assert client.broken_bound == "max_room_bytes"


def test_the_end_leaves_all_rooms() -> None:
    hub = Hub()
    client, other = session(hub=hub), session(hub=hub)
    for request_id in range(3):
        subscribe(client, request_id, {"any": request_id % 2})
    subscribe(other, 1, {"any": 1})
    client.end()
    assert (len(hub.rooms), hub.subscriptions) == (1, 1)


def test_a_status_is_not_allowed_by_default() -> None:
    expected = '{"requestId": "id-of-connection", "code": "error", "message": "message-type-not-allowed"}'
    assert session("3").receive('{"type": "status"}').text == expected


def test_a_status_shows_totals_where_it_is_allowed() -> None:
    assert session("3", status=lambda: '{"open_connections": 1}').receive('{"type":"status"}').text == (
        '{"open_connections": 1}'
    )


@pytest.mark.parametrize("dialect", ["2", "3"])
def test_what_is_not_json_is_answered(dialect: str) -> None:
    reply = json.loads(session(dialect).receive("not json").text)
    assert reply == {
        "requestId": None if dialect == "2" else "id-of-connection",
        "code": "error",
        "message": "non-json-message",
    }


@given(any_message)
@example("[" * 100_000)
@example('{"type":"subscribe","requestId":1,"room":' + '{"a":' * 900 + "1" + "}" * 901)
@example('{"type":"subscribe","requestId":1,"room":{"any":' + "9" * 4300 + "}}")
@example('{"type":"subscribe","requestId":1,"room":{"any":"\\u0000\\ud83d\\ude00"}}')
def test_any_message_gets_one_reply_in_ascii_json(message: str | bytes) -> None:
    for dialect in ("2", "3"):
        client = session(dialect)
        for _ in range(2):
            reply = client.receive(message).text
            assert reply.isascii()
            assert reply == "pong" or json.loads(reply)["code"] in ("success", "error")
        client.end()


# How much it may say


def test_a_burst_may_come_at_once_and_then_so_many_a_second() -> None:
    bucket = Bucket(rate=2, burst=3, now=10)
    assert [bucket.take(10) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(10.25), bucket.take(10.5), bucket.take(10.75), bucket.take(11)] == [False, True, False, True]


def test_silence_saves_up_no_more_than_a_burst() -> None:
    bucket = Bucket(rate=2, burst=3, now=0)
    assert [bucket.take(1000) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_was_set_back_harms_nobody() -> None:
    bucket = Bucket(rate=2, burst=3, now=10)
    assert [bucket.take(9) for _ in range(4)] == [True, True, True, False]
