"""Positions: they only grow, and of all texts only those that we have told a client are read."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.conftest import Now
from trio_templar.core.position import EPOCH_BYTES, Positions, new_epoch

EPOCH = b"0123456789ab"


def positions(at: float = 1_800_000_000.0) -> Positions:
    """Return positions whose first is told as `0123456789ab.1a3185c5000`."""
    wall = Now()
    wall.time = at
    return Positions(epoch=EPOCH, wall=wall)


def test_a_position_is_the_wall_clock_in_milliseconds() -> None:
    wall = Now()
    wall.time = 1_800_000_000.1239
    given = Positions(epoch=EPOCH, wall=wall)
    assert given.last == 1_800_000_000_123
    wall.time += 1
    assert given.next() == 1_800_000_001_123


def test_what_was_only_looked_at_is_not_given_away() -> None:
    given = positions()
    assert given.next() == given.next() == given.last + 1


@pytest.mark.parametrize("wall", [0.0, -1e9, 1_799_999_999.0, 1_800_000_000.0])
def test_a_wall_clock_that_stands_or_goes_back_leaves_them_growing_by_one(wall: float) -> None:
    now = Now()
    now.time = 1_800_000_000.0
    given = Positions(epoch=EPOCH, wall=now)
    first = given.last
    now.time = wall
    for index in range(1, 4):
        given.last = given.next()
        assert given.last == first + index


def test_they_stay_ahead_of_a_clock_that_was_ahead_and_was_put_right() -> None:
    now = Now()
    now.time = 1_900_000_000.0
    given = Positions(epoch=EPOCH, wall=now)
    ahead = given.last
    now.time = 1_800_000_000.0
    assert given.next() == ahead + 1
    now.time = 1_900_000_001.0
    assert given.next() == ahead + 1000


@given(st.lists(st.floats(-1e9, 4e9), min_size=1, max_size=20))
def test_whatever_the_clock_does_they_grow(walls: list[float]) -> None:
    now = Now()
    now.time = walls[0]
    known = Positions(epoch=EPOCH, wall=now)
    assert known.last > 0
    for wall in walls:
        now.time = wall
        before, known.last = known.last, known.next()
        assert known.last > before


def test_an_epoch_is_another_at_each_start() -> None:
    epochs = {new_epoch() for _ in range(100)}
    assert len(epochs) == 100
    assert {len(epoch) for epoch in epochs} == {2 * EPOCH_BYTES}
    assert Positions(wall=Now()).epoch != Positions(wall=Now()).epoch


def test_a_token_is_what_it_always_was() -> None:
    assert positions().token(1_800_000_000_000) == "0123456789ab.1a3185c5000"
    assert positions().token(0) == "0123456789ab.0"


@given(st.integers(0, 2**62))
@example(0)
def test_a_token_that_was_told_is_read_as_the_same_position(position: int) -> None:
    known = Positions(wall=time.time)
    known.last = max(known.last, position)
    token = known.token(position)
    assert known.read(token) == position
    assert token.isascii()
    assert json.dumps(token) == f'"{token}"', "no character needs an escape"


def test_the_last_is_read_and_the_future_is_not() -> None:
    known = positions()
    assert known.read(known.token(known.last)) == known.last
    assert known.read(known.token(known.last + 1)) is None
    known.last += 1
    assert known.read(known.token(known.last)) == known.last


def test_another_epoch_is_not_read() -> None:
    known = positions()
    assert known.read(Positions(epoch=b"0123456789ac", wall=Now()).token(1)) is None
    assert known.read(Positions(epoch=EPOCH[:-1], wall=Now()).token(1)) is None
    assert known.read(Positions(epoch=EPOCH + b"0", wall=Now()).token(1)) is None


def shown(text: str) -> str:
    return f"{text[:30]!a}, {len(text)}"


NUMBERS = [
    *("", " ", "-1", "+1", "-0", "00", "01", "0x1", "1_0", "1 ", " 1", "1\n", "\n1", "1\0", "1.", ".1", "1.0", "g"),
    *("A", "1A", "１", "٣", "²", "nan", "inf", "f" * 16, "f" * 17, "f" * 1_000_000, "0" * 1_000_000),
]


@pytest.mark.parametrize("number", NUMBERS, ids=shown)
def test_a_number_that_is_written_in_another_way_is_not_read(number: str) -> None:
    assert positions().read(f"0123456789ab.{number}") is None


@pytest.mark.parametrize(
    "token",
    [
        *("", ".", "..", "\n", "0", "1a3185c5000", ".1", "0123456789ab", "0123456789ab.", "0123456789AB.1"),
        *("0123456789ab:1", "0123456789ab 1", " 0123456789ab.1", "\n0123456789ab.1", "0123456789ab.1\n"),
        *("0123456789ab\n.1", "０123456789ab.1", "0123456789ab.1.1", "0123456789ab.0123456789ab.1", "null", "[]"),
        *("\ud800", "0123456789ab.\ud800", "\0", "a" * 1_000_000, "." * 1_000_000, "0123456789ab." * 100_000),
    ],
    ids=shown,
)
def test_nonsense_is_not_read(token: str) -> None:
    assert positions().read(token) is None


@given(st.text(max_size=30) | st.from_regex(r"\A0123456789ab\.[0-9a-fA-F_+ -]{0,12}\n?\Z"))
def test_what_is_read_was_told(token: str) -> None:
    known = positions()
    position = known.read(token)
    assert position is None or (0 <= position <= known.last and known.token(position) == token)


def test_a_long_text_costs_no_more_than_reading_it() -> None:
    known = positions()
    start = time.process_time()
    for token in ("a" * 1_000_000, "a" * 999_990 + ".1", "0123456789ab." + "1" * 1_000_000):
        assert known.read(token) is None
    assert time.process_time() - start < 1, "it takes some milliseconds"
