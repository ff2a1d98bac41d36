"""Rooms: identity is strict, permission is loose (High-templar 2.5, 1.7)."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from itertools import combinations
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.conftest import json_values, rooms
from trio_templar.core.rooms import RoomIndex, is_allowed, room_key


def identity(room: Any) -> str:
    """How High-templar 2.5 tells rooms apart."""
    return json.dumps(room, sort_keys=True)


def test_one_and_its_lookalikes_are_different_rooms() -> None:
    keys = [room_key({"a": value}) for value in (1, "1", True, 1.0, None, "*", [1], {"1": 1})]
    assert all(one != other for one, other in combinations(keys, 2))


def test_a_room_key_is_short_canonical_json() -> None:
    assert room_key({"b": 1.0, "a": {"d": "ö", "c": None}}) == '{"a":{"c":null,"d":"ö"},"b":1.0}'.encode()


@given(rooms, rooms)
def test_rooms_are_one_room_exactly_when_their_sorted_json_is(one: Any, other: Any) -> None:
    assert (room_key(one) == room_key(other)) == (identity(one) == identity(other))


@given(rooms, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(room: dict[str, Any], random: Any) -> None:
    items = list(room.items())
    random.shuffle(items)
    assert room_key(dict(items)) == room_key(room)


@pytest.mark.parametrize("bad", [{"a": object()}, {"a": "\ud800"}, {"a": {1, "a"}, "b": object()}, {object(): 1}])
def test_a_room_that_json_cannot_carry_is_a_value_error(bad: Any) -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        room_key(bad)


@pytest.mark.parametrize("bad", [None, "target", 7, [], [{"target": "car"}], b"{}"], ids=repr)
def test_what_is_json_but_no_object_is_a_value_error(bad: Any) -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        room_key(bad)


def test_a_room_that_contains_itself_is_a_value_error() -> None:
    room: dict[str, Any] = {}
    room["a"] = room
    with pytest.raises(ValueError, match="not a JSON object"):
        room_key(room)


@pytest.mark.parametrize("value", [1, "1", "*", None, True, [1], {"b": {"c": 1}}], ids=repr)
def test_a_star_in_an_allowed_room_covers_any_value(value: Any) -> None:
    assert is_allowed({"a": value}, [{"a": "*"}])


def test_a_star_in_the_room_itself_is_a_literal() -> None:
    assert not is_allowed({"a": "*"}, [{"a": 1}])
    assert is_allowed({"a": "*"}, [{"a": "*"}])


@pytest.mark.parametrize(
    "room", [{}, {"a": 1}, {"a": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3}, {"A": 1, "b": 2}]
)
def test_the_keys_must_be_the_same(room: dict[str, Any]) -> None:
    assert not is_allowed(room, [{"a": 1, "b": 2}])


def test_nothing_is_allowed_where_no_room_is() -> None:
    assert not is_allowed({}, [])


def test_the_empty_room_allows_only_itself() -> None:
    assert is_allowed({}, [{}])
    assert not is_allowed({"a": "*"}, [{}])


@pytest.mark.parametrize("value", [1, 1.0, True])
@pytest.mark.parametrize("allowed", [1, 1.0, True])
def test_permission_is_equality_as_python_sees_it(value: Any, allowed: Any) -> None:
    assert is_allowed({"a": value}, [{"a": allowed}])
    assert is_allowed({"a": [value]}, [{"a": [allowed]}])


def test_a_text_is_not_the_number_it_looks_like() -> None:
    assert not is_allowed({"a": "1"}, [{"a": 1}])


def test_a_star_deep_inside_is_a_literal() -> None:
    assert not is_allowed({"a": {"b": 1}}, [{"a": {"b": "*"}}])


def test_any_of_the_allowed_rooms_will_do() -> None:
    assert is_allowed({"a": 2}, [{"a": 1}, {"b": "*"}, {"a": 2}])


@given(rooms, st.lists(rooms, max_size=3))
def test_a_room_is_allowed_by_itself_and_by_its_stars(room: dict[str, Any], others: list[dict[str, Any]]) -> None:
    assert is_allowed(room, [*others, room])
    assert is_allowed(room, [*others, dict.fromkeys(room, "*")])


@given(rooms, rooms, json_values)
def test_more_allowed_rooms_never_forbid(room: dict[str, Any], one: dict[str, Any], value: Any) -> None:
    assert is_allowed(room, [one]) <= is_allowed(room, [one, {"more": value}])


# The index


def indexed(allowed: list[Any]) -> RoomIndex:
    index = RoomIndex()
    for room in allowed:
        index.add(room)
    return index


# Few keys and values, so that rooms meet: equal ones of several types, stars, hashes that are the same (`-1` and `-2`,
# `0` and `2**61 - 1`), and values of an embedding program that are equal to texts, numbers or nothing.
class Odd:
    """Equal to any number, and hashed as none."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int)


class Word(str):
    """A text of another type."""

    __slots__ = ()


LIKE_NUMBERS = [0, 1, 1.0, True, False, -1, -2, 2**61 - 1, 2**64 - 1, -0.0, 1e300]
nested = st.lists(st.sampled_from([1, True, "*", [1.0], {"a": "*"}, {"a": 1}]), max_size=2)
of_json = nested | st.sampled_from([*LIKE_NUMBERS, "*", "", "1", None, [], [1], [True], {}, {"a": 1}])
ODD = [Odd(), Word("*"), Word("1"), float("nan"), (1,), Decimal(1), [Odd()], {"a": Odd()}]
of_programs = of_json | st.sampled_from(ODD)
keys = st.sampled_from("ab")


@given(
    st.lists(st.dictionaries(keys, of_programs, max_size=2), max_size=6),
    st.lists(st.dictionaries(keys, of_json, max_size=2), max_size=4),
)
@hypothesis.settings(max_examples=400)
def test_the_index_allows_what_is_allowed_and_nothing_else(allowed: list[Any], asked: list[Any]) -> None:
    index = indexed(allowed)
    for room in [*asked, *allowed]:
        assert index.allows(room) == is_allowed(room, allowed), room


@given(st.lists(rooms, max_size=5), st.lists(rooms, max_size=5))
def test_the_index_is_right_about_any_json(allowed: list[Any], asked: list[Any]) -> None:
    index = indexed(allowed)
    for room in [*asked, *allowed]:
        assert index.allows(room) == is_allowed(room, allowed)


def test_a_room_with_the_hash_of_an_allowed_one_is_not_allowed() -> None:
    assert hash(-1) == hash(-2)
    assert not indexed([{"a": -1}]).allows({"a": -2})
    assert indexed([{"a": -1}, {"a": -2}]).allows({"a": -2})


def test_a_room_that_is_nested_deeply_is_found_all_the_same() -> None:
    deep: Any = []
    for _ in range(sys.getrecursionlimit() * 2 // 3):
        deep = [deep]
    index = indexed([{"a": deep, "b": 1}, {"a": "*", "b": 2}])
    assert index.allows({"a": deep, "b": 1})
    assert index.allows({"a": deep, "b": 2})
    assert not index.allows({"a": deep, "b": 3})
