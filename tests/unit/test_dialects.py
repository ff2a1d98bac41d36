"""Dialects: byte for byte what `json.dumps` made of High-templar's dicts; any message is a command or a ClientError."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.conftest import json_values, rooms, scalars
from trio_templar.core.dialects import DIALECTS, Command, Dialect, Ping, Status, Subscribe, Unsubscribe, parse
from trio_templar.core.frames import Batch
from trio_templar.errors import ClientError

TWO: Dialect = DIALECTS["2"]
THREE: Dialect = DIALECTS["3"]

# Nearly JSON, so that a parser gets far into it.
messages = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["subscribe", "unsubscribe", "status", "publish", ""]) | json_values,
        "requestId": json_values,
        "room": json_values | rooms,
        "scope": json_values,
        "data": json_values,
    },
)
nearly_json = st.builds(
    lambda text, at, piece: text[: at % (len(text) + 1)] + piece + text[at % (len(text) + 1) :],
    messages.map(json.dumps),
    st.integers(0, 1000),
    st.text('{}[]",:\\u0123456789eE+-.dnaft \x00\x7f\ud800é', max_size=3),
)
any_text = st.text() | messages.map(json.dumps) | nearly_json
any_message = any_text | st.binary() | any_text.map(lambda text: text.encode("utf-8", "surrogatepass"))


def code_of(message: str | bytes, max_bytes: int = 128) -> str:
    with pytest.raises(ClientError) as caught:
        parse(message, max_bytes)
    return caught.value.code


def request_id_of(message: str | bytes) -> str | None:
    with pytest.raises(ClientError) as caught:
        parse(message, 128)
    return caught.value.request_id


def test_ping_is_four_letters_and_no_json() -> None:
    assert parse("ping", 128) == Ping()


@pytest.mark.parametrize(
    "message", [b"ping", "Ping", "ping ", "", b"", "{", '{"type": "ping"', "nope", b"\xff"], ids=repr
)
def test_what_is_not_json_is_said_to_be_so(message: str | bytes) -> None:
    assert code_of(message) == "non-json-message"


def test_a_quoted_ping_is_no_ping() -> None:
    assert code_of('"ping"') == "message-type-not-allowed"


def test_a_subscribe_may_come_as_text_or_binary() -> None:
    text = '{"type":"subscribe","requestId":"a","room":{"x":1},"scope":{},"data":null}'
    assert parse(text, 128) == parse(text.encode(), 128) == Subscribe('"a"', {"x": 1})


def test_an_unsubscribe_needs_no_room() -> None:
    assert parse('{"type":"unsubscribe","requestId":7,"room":5}', 128) == Unsubscribe("7")


def test_a_status_needs_nothing() -> None:
    assert parse('{"type":"status"}', 128) == Status()


@pytest.mark.parametrize("message", ["[]", "1", "null", "[1,2]", '"text"', "{}", '{"type":[]}', '{"type":"publish"}'])
def test_json_that_is_no_command_is_a_type_not_allowed(message: str) -> None:
    assert code_of(message) == "message-type-not-allowed"
    assert request_id_of(message) is None


@pytest.mark.parametrize("type_", ["subscribe", "unsubscribe"])
def test_a_command_without_request_id_says_so(type_: str) -> None:
    assert code_of(json.dumps({"type": type_, "room": {}})) == "no-request-id"


@pytest.mark.parametrize("request_id", [[], {}, [1], {"a": 1}, "x" * 127])
def test_a_request_id_that_is_no_scalar_or_too_long_is_invalid(request_id: Any) -> None:
    message = json.dumps({"type": "subscribe", "requestId": request_id, "room": {}})
    assert code_of(message) == "invalid-request-id"
    assert request_id_of(message) is None


def test_a_request_id_may_have_just_the_bytes_allowed() -> None:
    assert parse(json.dumps({"type": "unsubscribe", "requestId": "x" * 126}), 128) == Unsubscribe(f'"{"x" * 126}"')
    assert code_of(json.dumps({"type": "unsubscribe", "requestId": "é" * 22}), 128) == "invalid-request-id"


@pytest.mark.parametrize("room", [None, [], "room", 1, [{}]])
def test_a_room_that_is_no_object_is_invalid_and_the_request_id_is_echoed(room: Any) -> None:
    message = json.dumps({"type": "subscribe", "requestId": "a", "room": room})
    assert code_of(message) == "invalid-room"
    assert request_id_of(message) == '"a"'


def test_a_missing_room_is_invalid() -> None:
    assert code_of('{"type":"subscribe","requestId":1}') == "invalid-room"


def test_an_unknown_type_echoes_the_request_id() -> None:
    assert request_id_of('{"type":"x","requestId":1.0}') == "1.0"


def test_request_ids_that_python_holds_equal_are_four() -> None:
    texts = [parse(f'{{"type":"unsubscribe","requestId":{each}}}', 128) for each in ("1", '"1"', "true", "1.0", "null")]
    assert all(one != other for one, other in combinations(texts, 2))


@given(scalars)
def test_a_request_id_is_echoed_as_json_dumps_writes_it(request_id: Any) -> None:
    command = parse(json.dumps({"type": "unsubscribe", "requestId": request_id}), 10_000)
    assert command == Unsubscribe(json.dumps(request_id))


@given(any_message)
@example("[" * 100_000)
@example('{"a":' * 100_000)
@example('{"type":"unsubscribe","requestId":' + "9" * 4300 + "}")
@example('{"type":"unsubscribe","requestId":' + "9" * 4301 + "}")
@example('{"type":"unsubscribe","requestId":' + "9" * 60_000 + "}")
@example('{"type":"unsubscribe","requestId":-' + "9" * 4300 + "}")
@example('{"type":"unsubscribe","requestId":1e999}')
@example('{"requestId":' + "[" * 900 + "]" * 900 + "}")
@example('{"type":"subscribe","requestId":"\\ud800","room":{}}')
@example('{"type":"subscribe","requestId":"\ud800","room":{}}')
@example(b'{"type":"subscribe","requestId":"\xed\xa0\x80","room":{}}')
@example(b"\xef\xbb\xbf{}")
@example("NaN")
def test_any_message_is_a_whole_command_or_a_client_error(message: str | bytes) -> None:
    for max_bytes in (1, 128, 1_000_000):
        try:
            command = parse(message, max_bytes)
        except ClientError as error:
            echoed = error.request_id
        else:
            assert isinstance(command, Command)
            echoed = getattr(command, "request_id", None)
        assert echoed is None or len(json.dumps(json.loads(echoed))) <= max_bytes


@given(json_values | st.integers() | st.text())
def test_a_publish_frame_of_dialect_2_is_what_json_dumps_makes_of_it(data: Any) -> None:
    for request_id in ("a", 1, None, True, 1.5, "é\n\"'"):
        publication = TWO.publication(json.dumps(data).encode())
        expected = json.dumps({"requestId": request_id, "type": "publish", "data": data})
        assert publication.left + json.dumps(request_id).encode() + publication.right == expected.encode()


@given(json_values)
def test_a_publish_frame_of_dialect_3_is_what_json_dumps_makes_of_it(data: Any) -> None:
    for request_id in ("a", 1, None, True, 1.5, "é\n\"'"):
        publication = THREE.publication(json.dumps(data).encode())
        expected = json.dumps({"type": "publish", "data": data, "requestId": request_id})
        assert publication.left + json.dumps(request_id).encode() + publication.right == expected.encode()


@pytest.mark.parametrize("dialect", [TWO, THREE])
def test_data_passes_through_as_it_was_written(dialect: Dialect) -> None:
    data = '{ "b":1.50,  "a":"é", "b":2e3 }'.encode()
    assert data in Batch([dialect.publication(data)]).render(b'"a"')


@given(st.lists(rooms, max_size=3))
def test_the_welcome_is_what_json_dumps_makes_of_it(allowed: list[Any]) -> None:
    text = json.dumps(allowed)
    assert TWO.welcome(text) == json.dumps({"allowed_rooms": allowed})
    assert THREE.welcome(text) == json.dumps({"is_authorized": True, "allowed_rooms": allowed})


def test_only_dialect_3_says_its_refusal_in_a_message() -> None:
    assert TWO.refusal() is None
    assert THREE.refusal() == json.dumps({"is_authorized": False})


@given(scalars)
def test_a_success_of_dialect_2_carries_the_request_id(request_id: Any) -> None:
    assert TWO.success(json.dumps(request_id)) == json.dumps({"requestId": request_id, "code": "success"})


def test_a_success_of_dialect_3_does_not() -> None:
    assert THREE.success('"a"') == json.dumps({"code": "success"})


CODES = [
    "room-not-found",
    "not-subscribed",
    "no-request-id",
    "invalid-room",
    "invalid-request-id",
    "request-id-in-use",
    "too-many-subscriptions",
]
UNNAMED = ["non-json-message", "message-type-not-allowed"]


@pytest.mark.parametrize("code", CODES + UNNAMED)
def test_an_error_of_dialect_2_carries_the_request_id_or_null(code: str) -> None:
    said = {"code": "error", "message": code}
    assert TWO.error(ClientError(code, '"a"'), "id") == json.dumps({"requestId": "a", **said})
    assert TWO.error(ClientError(code), "id") == json.dumps({"requestId": None, **said})


@pytest.mark.parametrize("code", CODES)
def test_an_error_of_dialect_3_carries_no_request_id(code: str) -> None:
    assert THREE.error(ClientError(code, '"a"'), "id") == json.dumps({"code": "error", "message": code})


@pytest.mark.parametrize("code", UNNAMED)
def test_two_errors_of_dialect_3_carry_the_id_of_the_connection(code: str) -> None:
    expected = json.dumps({"requestId": "4-2", "code": "error", "message": code})
    assert THREE.error(ClientError(code, '"a"'), "4-2") == expected


@given(st.sampled_from([TWO, THREE]), json_values.map(lambda value: json.dumps(value).encode()) | st.binary())
@example(TWO, b', "type": "publish", "data": 1}')
@example(THREE, b'1, "requestId": ')
def test_the_data_of_a_publication_can_be_cut_out_of_its_frame(dialect: Dialect, data: bytes) -> None:
    left, right, *_ = dialect.publication(data)
    assert dialect.data(left, right) == data


def test_idleness_ends_only_dialect_3() -> None:
    assert (TWO.idle_seconds, THREE.idle_seconds) == (None, 300)


def test_a_status_is_known_to_dialect_3_alone() -> None:
    assert (TWO.allows_status, THREE.allows_status) == (False, True)
