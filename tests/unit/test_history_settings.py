"""How long what is published is kept: by setting and by policy, and what a reload makes longer."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.conftest import CAR, RIDE
from trio_templar import Settings, SettingsError
from trio_templar.core.options import Reload
from trio_templar.core.policies import CACHED_ROOMS, Policies, RoomPolicy
from trio_templar.core.rooms import room_key
from trio_templar.core.settings import options, settings_from


def policies(*entries: Any, **settings: Any) -> Policies:
    return Settings(room_policy=entries, **settings).policies


def kept(found: Policies, *rooms: dict[str, Any]) -> list[float]:
    return [found.history_seconds(room_key(room)) for room in rooms]


def test_a_minute_and_32_mib_are_kept_unless_it_is_said() -> None:
    assert (Settings().history_seconds, Settings().history_bytes) == (60.0, 32 * 1024**2)
    assert not Settings().policies.limits_history
    assert kept(Settings().policies, CAR) == [math.inf], "for as long as the setting says"


def test_both_may_be_0_and_change_at_once() -> None:
    assert Settings(history_seconds=0, history_bytes=0).history_seconds == 0
    reloads = {option.name: option.reload for option in options()}
    assert reloads["history_seconds"] is reloads["history_bytes"] is Reload.AT_ONCE


@pytest.mark.parametrize("name", ["history_seconds", "history_bytes"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "x", "", "1e300", "true"])
def test_a_setting_that_makes_no_sense_is_named_as_its_user_names_it(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=r"^--the-option: "):
        settings_from({name: (value, "--the-option")})


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("history_seconds", -1, r"^history_seconds: expected a number from 0 to 31536000 \(it is -1\)$"),
        ("history_seconds", math.nan, r"^history_seconds: expected a number from 0 to 31536000 \(it is nan\)$"),
        ("history_seconds", math.inf, r"^history_seconds: expected a number from 0 to 31536000 \(it is inf\)$"),
        ("history_bytes", -1, r"^history_bytes: expected a whole number from 0 to 1099511627776 \(it is -1\)$"),
        ("history_bytes", 2**40 + 1, r"^history_bytes: expected a whole number from 0 to 1099511627776 "),
        ("history_bytes", 1.5, r"^history_bytes: expected a whole number from 0 to 1099511627776 "),
    ],
)
def test_a_setting_of_a_program_that_makes_no_sense_is_named(name: str, value: Any, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        Settings(**{name: value})


def test_a_policy_keeps_for_less_or_not_at_all() -> None:
    found = policies({"match": CAR, "history": False}, {"match": RIDE, "history_seconds": 10}, history_seconds=20)
    assert kept(found, CAR, RIDE, {"other": 1}) == [0, 10, math.inf]
    assert found.limits_history
    assert policies({"history_seconds": 20}, history_seconds=20).limits_history
    assert not policies({"match": CAR, "history": True}, {"policy": "conflate"}).limits_history


def test_the_first_that_matches_decides_here_too() -> None:
    found = policies({"match": {"target": "car", "car": 1}}, {"match": {"target": "car", "car": "*"}, "history": False})
    assert kept(found, {"target": "car", "car": 1}, {"target": "car", "car": 2}, CAR) == [math.inf, 0, math.inf]


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (
            [{"match": CAR}, {"match": RIDE, "history_seconds": 20.5}],
            r"^room_policy\[1\]\.history_seconds: 20\.5 is over history_seconds, 20$",
        ),
        (
            [{"history": False, "history_seconds": 1}],
            r"^room_policy\[0\]\.history_seconds: history = false keeps nothing, so leave it out$",
        ),
        ([{"history_seconds": 0}], r"^room_policy\[0\]\.history_seconds: expected a number > 0"),
        ([{"history_seconds": -1}], r"^room_policy\[0\]\.history_seconds: expected a number > 0"),
        ([{"history_seconds": "1"}], r"^room_policy\[0\]\.history_seconds: expected a number \("),
        ([{"history_seconds": True}], r"^room_policy\[0\]\.history_seconds: expected a number \("),
        ([{"history_seconds": math.inf}], r"^room_policy\[0\]\.history_seconds: inf is over history_seconds, 20$"),
        ([{"history_seconds": math.nan}], r"^room_policy\[0\]\.history_seconds: "),
        ([{"history": 0}], r"^room_policy\[0\]\.history: expected true or false \("),
        ([{"history": "no"}], r"^room_policy\[0\]\.history: expected true or false \("),
        ([{"histori": False}], r"^room_policy\[0\]: there is an unknown field `histori`"),
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(entries: Any, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        Settings(room_policy=entries, history_seconds=20)


def test_where_nothing_is_kept_a_policy_may_stay_as_it_is() -> None:
    assert policies({"history_seconds": 100}, history_seconds=0).limits_history
    assert policies({"history_seconds": 20}, history_seconds=20)


def test_unset_is_no_bound_of_its_own() -> None:
    assert policies({"history_seconds": None}, history_seconds=20)
    assert not policies({"history": True, "history_seconds": None}, history_seconds=20).limits_history


# Longer than before

ROOMS: list[dict[str, Any]] = [CAR, RIDE, {"target": "car", "id": 1}, {"other": 1}]
MATCHES = st.lists(st.sampled_from([CAR, RIDE, {"target": "*"}, {"target": "car", "id": 1}, None]), unique_by=str)
SECONDS = st.sampled_from([0, 1, 5, None])


@st.composite
def some_policies(draw: st.DrawFn) -> Policies:
    while True:
        entries = [
            RoomPolicy(match=match, history=seconds != 0, history_seconds=seconds or None)
            for match, seconds in [(match, draw(SECONDS)) for match in draw(MATCHES)]
        ]
        try:
            return Policies(entries, 1000, 60)
        except SettingsError:  # one that another covers
            continue


@given(some_policies(), some_policies())
def test_no_room_is_kept_for_longer_without_being_told(before: Policies, after: Policies) -> None:
    pairs = zip(kept(before, *ROOMS), kept(after, *ROOMS), strict=True)
    if any(now > then for then, now in pairs):
        assert after.keep_longer(before)


@given(some_policies())
@example(Policies([], 1000))
def test_the_same_or_less_is_not_longer(before: Policies) -> None:
    assert not before.keep_longer(before)
    assert not before.keep_longer(Policies([], 1000)), "all was kept for as long as it can be"
    assert not Policies([RoomPolicy(history=False)], 1000).keep_longer(Policies([RoomPolicy(history_seconds=1)], 1000))


@pytest.mark.parametrize(
    ("before", "after", "longer"),
    [
        ({"history_seconds": 1}, {"history_seconds": 2}, True),
        ({"history_seconds": 2}, {"history_seconds": 1}, False),
        ({"history_seconds": 2}, {}, True),
        ({"history": False}, {"history_seconds": 1}, True),
        ({"history_seconds": 1}, {"history": False}, False),
        ({"history_seconds": 1}, {"history_seconds": 1, "policy": "conflate", "outbox_bytes": 64}, False),
        ({"match": CAR, "history": False}, {"match": RIDE, "history": False}, True),
        ({"match": CAR}, {"match": RIDE, "history": False}, False),
    ],
    ids=str,
)
def test_what_a_reload_makes_longer(before: dict[str, Any], after: dict[str, Any], longer: bool) -> None:
    assert policies(after).keep_longer(policies(before)) is longer


# The cache


def test_a_room_is_looked_up_once_while_it_is_asked_for() -> None:
    found = policies({"match": CAR, "history": False})
    for _ in range(10):
        assert kept(found, CAR, RIDE) == [0, math.inf]
    info = found.history_seconds.cache_info()
    assert (info.misses, info.hits, info.maxsize) == (2, 18, CACHED_ROOMS)


def test_so_many_rooms_are_remembered_and_all_have_the_right_answer() -> None:
    found = policies({"match": {"odd": "*"}, "history": False})
    for _ in range(2):
        for index in range(CACHED_ROOMS + 100):
            assert kept(found, {"odd" if index % 2 else "even": index}) == [0 if index % 2 else math.inf]
    assert found.history_seconds.cache_info().currsize == CACHED_ROOMS


def test_new_policies_remember_nothing_of_the_old() -> None:
    assert kept(policies({"match": CAR, "history": False}), CAR) == [0]
    assert kept(policies({"match": CAR, "history_seconds": 5}), CAR) == [5]


def test_a_room_that_is_nested_too_deeply_to_be_looked_at_is_kept() -> None:
    found = policies({"match": CAR, "history": False})
    assert found.history_seconds(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}") == math.inf
