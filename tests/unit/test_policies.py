"""Policies: the first that matches decides, and what makes no sense is refused by name."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given

from tests.unit.conftest import CAR, rooms
from trio_templar import Settings, SettingsError
from trio_templar.core.policies import Policies, Policy, RoomPolicy
from trio_templar.core.rooms import room_key


def policies(*entries: Any) -> Policies:
    return Settings(room_policy=entries, outbox_bytes=1000).policies


def test_the_first_that_matches_decides() -> None:
    found = policies(
        {"match": {"target": "car", "car": 1}, "policy": "drop_oldest", "outbox_bytes": 100},
        {"match": {"target": "car", "car": "*"}, "policy": "conflate", "key": "object.id"},
    )
    assert found.of(room_key({"car": 1, "target": "car"})) == Policy("drop_oldest", 100)
    assert found.of(room_key({"car": 2, "target": "car"})) == Policy("conflate", 1000, ("object", "id"))
    assert found.of(room_key(CAR)) == Policy("disconnect", 1000)


def test_an_entry_without_a_match_is_for_the_rest() -> None:
    found = policies({"match": CAR}, {"policy": "drop_oldest"})
    assert found.of(room_key(CAR)).kind == "disconnect"
    assert found.of(room_key({"other": 1})).kind == "drop_oldest"


@given(rooms)
def test_every_room_has_a_policy_and_matches_itself(room: dict[str, Any]) -> None:
    found = Policies([RoomPolicy(match=room, policy="conflate")], 1000)
    assert found.of(room_key(room)).kind == "conflate"


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([{"match": CAR, "policy": "dropp"}], r"\[0\]\.policy: expected disconnect or drop_oldest or conflate"),
        ([{"match": CAR, "polcy": "conflate"}], r"room_policy\[0\]: there is an unknown field `polcy`"),
        ([{"match": []}], r"room_policy\[0\]\.match: expected a table"),
        ([{"match": CAR}, {"match": CAR}], r"room_policy\[1\]\.match: it matches nothing that room_policy\[0\] leaves"),
        ([{"match": {"a": "*"}}, {"match": {"a": 1}}], r"room_policy\[1\]\.match: it matches nothing"),
        ([{}, {"match": CAR}], r"room_policy\[1\]\.match: it matches nothing"),
        ([{"match": CAR, "outbox_bytes": -1}], r"room_policy\[0\]\.outbox_bytes: expected a whole number >= 64"),
        ([{"match": CAR, "outbox_bytes": 1001}], r"room_policy\[0\]\.outbox_bytes: 1001 is over outbox_bytes, 1000"),
        ([{"match": CAR, "key": "id"}], r"room_policy\[0\]\.key: only the policy conflate has one"),
        ([{"policy": "conflate", "key": "a..b"}], r"room_policy\[0\]\.key: 'a\.\.b' is no path"),
        ([{"policy": "conflate", "key": ""}], r"room_policy\[0\]\.key: expected"),
        (["{"], r"room_policy\[0\]: not JSON"),
        (["1"], r"room_policy\[0\]: expected a table"),
        ("conflate", "room_policy: 'conflate' is not a list"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(entries: Any, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        Settings(room_policy=entries, outbox_bytes=1000)


def test_a_room_that_is_nested_too_deeply_to_be_looked_at_has_the_policy_of_all_others() -> None:
    policies = Policies([RoomPolicy(match={"a": "b"}, policy="conflate")], 1000)
    assert policies.of(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}") == Policy("disconnect", 1000)


def test_policies_that_were_replaced_are_gone_without_the_collector() -> None:
    found = policies({"match": CAR, "history": False})
    assert found.history_seconds(room_key(CAR)) == 0
    gone = weakref.ref(found)
    gc.disable()
    try:
        del found
        assert gone() is None
    finally:
        gc.enable()
