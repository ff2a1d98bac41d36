"""What an answer of the API means: who is refused, who shall come back, and when."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_templar import BackendError, Busy, Refused, Unavailable
from trio_templar.core.answers import as_json, failure, hint_of, read_as_python, retry_seconds

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("status", [408, 425, 429])
def test_come_back_later_is_no_refusal(status: int) -> None:
    error = failure(status, {"retry-after": "7"}, NOW)
    assert isinstance(error, Busy)
    assert (str(error), error.retry_after) == (f"the API asks to come back later (status {status})", 7)


def test_an_api_in_maintenance_says_how_long() -> None:
    error = failure(503, {"retry-after": "120"}, NOW)
    assert isinstance(error, Unavailable)
    assert (str(error), error.retry_after) == ("the API answered 503", 120)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 1),
        ("1", 1),
        ("59", 59),
        ("86400", 3600),
        ("9" * 5000, 3600),
        ("Sat, 31 Jan 2026 12:00:30 GMT", 30),
        ("Sat, 31 Jan 2026 12:00:30 -0000", 30),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 1),
        ("Sun, 01 Feb 2026 12:00:00 GMT", 3600),
        ("Saturday, 31-Jan-26 12:00:30 GMT", 30),
        ("", 1),
        ("soon", 1),
        ("-5", 1),
        ("1.5", 1),
        ("٣", 1),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_bounds(text: str, seconds: int) -> None:
    assert retry_seconds(text, NOW) == seconds


@given(
    st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [A-Z+-]\w*", fullmatch=True)
)
def test_whatever_retry_after_says_it_is_a_time_to_wait(text: str) -> None:
    assert 1 <= retry_seconds(text, NOW) <= 3600


@pytest.mark.parametrize("status", [401, 403])
def test_a_client_that_may_not_enter_is_no_case_for_a_hint(status: int) -> None:
    error = failure(status, {}, NOW)
    assert isinstance(error, Refused)
    assert (error.status, error.hint) == (status, "")


@pytest.mark.parametrize(
    ("status", "location", "words"),
    [
        (201, "", "only 200"),
        (204, "", "only 200"),
        (301, "https://x/", "--connection-header 'X-Forwarded-Proto=fixed:https'"),
        (308, "https://x/", "--connection-header 'X-Forwarded-Proto=fixed:https'"),
        (301, "http://x/bootstrap/", "is api_url complete"),
        (302, "/login/?next=/", "login_required"),
        (302, "https://login.example/", "login_required"),
        (304, "", "a redirect"),
        (400, "", "ALLOWED_HOSTS"),
        (404, "", "bootstrap/ is appended"),
        (405, "", "only 401 and 403"),
        (418, "", "only 401 and 403"),
    ],
)
def test_any_other_refusal_has_a_hint_without_the_words_of_the_api(status: int, location: str, words: str) -> None:
    assert words in hint_of(status, location)
    assert not location or location not in hint_of(status, location)


LENIENT = [
    (b'{"allowed_rooms": [], "mean": NaN}', "mean"),
    (b'{"allowed_rooms": [], "max": -Infinity}', "max"),
    (b'{"allowed_rooms": [], "name": "\\ud83d"}', "name"),
]


@pytest.mark.parametrize(("body", "field"), LENIENT)
def test_what_pythons_parser_takes_is_taken_where_nobody_needs_it(body: bytes, field: str) -> None:
    answer = read_as_python(body)
    assert answer["allowed_rooms"] == []
    as_json("allowed_rooms", answer["allowed_rooms"])
    with pytest.raises(BackendError, match=f"^{field} has NaN, Infinity or half a surrogate pair"):
        as_json(field, answer[field])


def test_a_byte_order_mark_is_no_fault() -> None:
    assert read_as_python(b'\xef\xbb\xbf{"allowed_rooms": []}') == {"allowed_rooms": []}


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"\xff", b"NaN", b"[NaN]", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_nobody_takes_and_what_is_no_object_is_not_json(body: bytes) -> None:
    with pytest.raises(BackendError, match=r"^the bootstrap answer is not JSON"):
        read_as_python(body)


def test_the_place_where_json_ends_to_be_json_is_named_without_what_stands_there() -> None:
    with pytest.raises(BackendError) as caught:
        read_as_python(b'{"user": {"id": 7},\n "token": s3cr3t}')
    assert str(caught.value) == "the bootstrap answer is not JSON: Expecting value: line 2 column 11 (char 30)"


@pytest.mark.parametrize("value", [None, 1, 1.5, "é", [{"car": "*"}], {"a": [True]}], ids=repr)
def test_what_json_can_carry_is_let_through(value: Any) -> None:
    assert as_json("x", value) == (value, json.dumps(value))


OF_A_TEXT: dict[str, Callable[[str], Any]] = {
    "itself": lambda text: text,
    "key": lambda text: {text: 1},
    "foreign": lambda text: [MappingProxyType({"a": text})],
}


@pytest.mark.parametrize("text", ["\ud83d", "x\udc00", "\ude97\ud83d"], ids=ascii)
@pytest.mark.parametrize("of", OF_A_TEXT.values(), ids=OF_A_TEXT)
def test_half_a_surrogate_pair_is_no_json_wherever_it_is(text: str, of: Callable[[str], Any]) -> None:
    with pytest.raises(BackendError, match="half a surrogate pair"):
        as_json("x", of(text))


@pytest.mark.parametrize("text", ["\U0001f697", "\\ud83d", "\\\\ud"])
def test_what_only_looks_like_half_a_pair_is_let_through(text: str) -> None:
    assert as_json("x", text) == (text, json.dumps(text))
