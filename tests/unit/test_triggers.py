"""Triggers: what is accepted can be shown to any browser; what is not says what is wrong and where."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.unit.conftest import CAR, RIDE, json_values, operator, quiet, rooms
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.rooms import room_key
from trio_templar.core.triggers import Trigger, TriggerReader, to_json
from trio_templar.errors import TooLarge, TriggerError
from trio_templar.testing import open_gateway

READER = TriggerReader(DIALECTS["2"], 10_000)


def published(trigger: Trigger) -> Any:
    """What a browser makes of it; `parse_constant` because JavaScript knows no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    payload = trigger.publication.left + b"1" + trigger.publication.right
    return json.loads(payload.decode(), parse_constant=refuse)["data"]


def complaint(body: bytes | str) -> str:
    with pytest.raises(TriggerError) as caught:
        READER.read(body if isinstance(body, bytes) else body.encode())
    return str(caught.value)


def test_a_trigger_has_the_keys_of_its_rooms_in_order_duplicates_too() -> None:
    (trigger,) = READER.read(json.dumps({"data": 1, "rooms": [RIDE, CAR, RIDE]}).encode())
    assert trigger.room_keys == [room_key(room) for room in (RIDE, CAR, RIDE)]


def test_data_stays_as_the_publisher_wrote_it() -> None:
    data = '{"price": 1.50,"name":  "é", "name": 1e999}'.encode()
    (trigger,) = READER.read(b'{"rooms": [], "data": ' + data + b"}")
    assert trigger.publication.right == b', "type": "publish", "data": ' + data + b"}"


def test_data_may_be_null() -> None:
    assert published(READER.read(b'{"rooms": [], "data": null}')[0]) is None


def test_unknown_keys_are_ignored() -> None:
    assert published(READER.read(b'{"x": [1], "rooms": [], "data": 1}')[0]) == 1


def test_what_is_kept_of_a_body_is_not_the_body() -> None:
    body = b'{"rooms": [], "data": 1, "rest": "' + b"x" * 1000 + b'"}'
    (trigger,) = READER.read(body)
    assert trigger.publication.size < 100


def test_an_array_is_many_triggers_in_order() -> None:
    body = json.dumps([{"rooms": [], "data": number} for number in range(3)])
    assert [published(trigger) for trigger in READER.read(f" \n\t{body}".encode())] == [0, 1, 2]


def test_an_empty_array_is_an_empty_batch() -> None:
    assert READER.read(b"[]") == []


@pytest.mark.parametrize("body", [b"{}", b'{"data": 1}', b'{"room": [], "data": 1}'])
def test_missing_rooms_are_named_first_in_the_words_of_2_5(body: bytes) -> None:
    assert complaint(body) == "rooms not specified"


def test_missing_data_is_named_in_the_words_of_2_5() -> None:
    assert complaint('{"rooms": []}') == "data not specified"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"rooms": [], "data": NaN}', ["not JSON", "byte 22"]),
        ('{"rooms": [], "data": Infinity}', ["not JSON", "byte 22"]),
        ('{"rooms": [], "data": 1} x', ["not JSON", "trailing"]),
        ('{"rooms": [], "data": "a\nb"}', ["not JSON"]),
        ('{"rooms": [], "data": [1,]}', ["not JSON"]),
        ('{"rooms": [], "data": [', ["not JSON", "too early"]),
        ('{"rooms": [], "data": "\\ud800"}', ["not JSON", "surrogate"]),
        ('{"rooms": [{"a": "\\ud800"}], "data": 1}', ["not JSON", "surrogate"]),
        ('\ufeff{"rooms": [], "data": 1}', ["not JSON"]),
    ],
)
def test_a_malformed_trigger_says_what_and_where(body: str, words: list[str]) -> None:
    text = complaint(body)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", 'the body is empty; expected JSON such as {"rooms": [{"target": "car"}], "data": 1}'),
        (" \n", 'the body is empty; expected JSON such as {"rooms": [{"target": "car"}], "data": 1}'),
        ("1", "expected an object, got a number"),
        ('"text"', "expected an object, got a text"),
        ("null", "expected an object, got null"),
        ('{"rooms": null, "data": 1}', "rooms: expected a list, got null"),
        ('{"rooms": {}, "data": 1}', "rooms: expected a list, got an object"),
        ('{"rooms": "abc", "data": 1}', "rooms: expected a list, got a text"),
        ('{"rooms": [{}, 7.5], "data": 1}', "rooms[1]: expected an object, got a number"),
        ('{"rooms": [true], "data": 1}', "rooms[0]: expected an object, got true or false"),
        ("[[]]", "[0]: expected an object, got a list"),
        ('[{}, {"rooms": 1, "data": 1}]', "[1]: rooms: expected a list, got a number"),
        ('[{"rooms": [1], "data": 1}]', "[0]: rooms[0]: expected an object, got a number"),
        ('[{"rooms": [], "data": 1, "key": 1}]', "[0]: key: expected a text, got a number"),
        ('[{"rooms": [], "data": 1, "key": ""}]', "[0]: key: expected a text of 1 to 255 characters"),
    ],
)
def test_what_is_of_the_wrong_kind_is_named_with_what_was_expected_and_what_came(body: str, text: str) -> None:
    assert complaint(body) == text


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b'{"rooms": [], "data": "\xff"}',
        b'{"rooms": [{"a": "\xc3"}], "data": 1}',
        b'{"rooms": [], "data": 1, "unknown": "\xed\xa0\x80"}',
        b'{"rooms": [], "data": 1, "\xff": 1}',
    ],
    ids=repr,
)
def test_a_body_that_is_not_utf_8_anywhere_says_at_which_byte(body: bytes) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        body.decode()
    assert f"at byte {caught.value.start}" in complaint(body)


@pytest.mark.parametrize("where", ["rooms", "data", "other"])
def test_nesting_without_end_is_a_complaint(where: str) -> None:
    parts: dict[str, str] = {"rooms": "[]", "data": "1", "other": "1"}
    deep = "[" * 100_000 + "]" * 100_000
    parts[where] = f'[{{"a": {deep}}}]' if where == "rooms" else deep
    body = ", ".join(f'"{name}": {value}' for name, value in parts.items())
    assert complaint("{" + body + "}") == "nested too deeply"


def test_an_array_of_arrays_without_end_is_a_complaint() -> None:
    assert complaint("[" * 100_000)


@pytest.mark.parametrize("bad", ["7", "[]", "{}", '{"rooms": [{}]}', '{"rooms": [7], "data": 1}'])
def test_a_bad_item_of_an_array_is_named_by_its_index(bad: str) -> None:
    assert "[1]" in complaint(f'[{{"rooms": [], "data": 1}}, {bad}, {{}}]')


def test_data_may_have_just_the_bytes_allowed() -> None:
    body = b'{"rooms": [], "data": "%s"}'
    assert READER.read(body % (b"x" * 9998))
    with pytest.raises(TooLarge, match="10001 bytes, over 10000"):
        READER.read(body % (b"x" * 9999))


def test_data_that_is_too_large_in_an_array_is_named_by_its_index() -> None:
    items = [{"rooms": [], "data": "x" * size} for size in (1, 10_000)]
    with pytest.raises(TooLarge, match=r"\[1\]"):
        READER.read(json.dumps(items).encode())


def test_rooms_of_an_embedding_program_are_checked_too() -> None:
    with pytest.raises(TriggerError, match="rooms: not a JSON object"):
        READER.make([{"a": object()}], b"1")


@given(st.lists(rooms, max_size=3), json_values)
def test_any_well_formed_trigger_is_read(rooms: list[Any], data: Any) -> None:
    body = json.dumps({"rooms": rooms, "data": data})
    for text in (body, f"[{body}]"):
        (trigger,) = READER.read(text.encode())
        assert trigger.room_keys == [room_key(room) for room in rooms]
        assert json.dumps(published(trigger)) == json.dumps(data)


nearly_triggers = st.builds(
    lambda data, at, piece, cut: (lambda body: body[:at] + piece + body[at + cut :])(
        b'{"rooms": [{"a": 1}], "data": ' + json.dumps(data, ensure_ascii=False).encode() + b"}"
    ),
    json_values,
    st.integers(0, 60),
    st.sampled_from(list(b'{}[]",:\\ue+-.0192 \x00\n\x1f\x7f\xff\xc3\xed')).map(lambda byte: bytes([byte]))
    | st.sampled_from([b"", b"NaN", b"\\ud800", b"\\udc00\\ud800", b"1e999", b"\\/", b"01", b"0x1", b"//", b"1_0"])
    | st.binary(max_size=3),
    st.integers(0, 2),
)


@settings(max_examples=300)
@given(nearly_triggers | st.binary(max_size=30))
@example(b'{"rooms": [], "data": "\\ud800"}')
def test_whatever_is_accepted_is_json_to_a_browser(body: bytes) -> None:
    try:
        triggers = READER.read(body)
    except TriggerError:
        return
    for trigger in triggers:
        published(trigger)


def test_data_of_a_program_that_is_no_json_is_no_empty_body() -> None:
    with pytest.raises(TriggerError, match=r"^not JSON: "):
        to_json(msgspec.Raw(b""))


async def test_a_room_over_the_bytes_of_a_room_is_too_large_and_named(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_room_bytes=64)) as running:
        most = {"room": "x" * (64 - len('{"room":""}'))}
        rooms = [CAR, {"room": most["room"] + "x"}]
        body = [{"rooms": [most], "data": 1}, {"rooms": rooms, "data": 1}]
        async with operator(running.gateway) as publisher:
            answer = await publisher.post("/trigger/", json=body)
            assert (answer.status_code, answer.text) == (413, "[1]: rooms[1] has 65 bytes, over 64 (max_room_bytes)")
            assert (await publisher.post("/trigger/", json=body[:1])).status_code == 200
        with pytest.raises(TooLarge, match=r"^rooms\[0\] has 66 bytes"):
            await running.gateway.publish([{"room": most["room"] + "xx"}], 1)
        running.gateway.reload(quiet(max_room_bytes=65))
        await running.gateway.publish(rooms, 1)
        running.gateway.reload(quiet(max_room_bytes=64))  # somebody may have entered a room of 65 bytes
        await running.gateway.publish(rooms, 1)
