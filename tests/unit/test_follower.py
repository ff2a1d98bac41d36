"""The reading end of the log: what it hands on is kept first, and a hole is told to whom it concerns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.conftest import CAR, RIDE, settled, write_all
from tests.unit.test_bus import Node, running
from trio_templar.core.frames import Publication
from trio_templar.core.history import OFF
from trio_templar.core.policies import RoomPolicy
from trio_templar.core.triggers import Trigger
from trio_templar.delivery.follower import placed
from trio_templar.delivery.tally import Report

# Positions


def test_each_trigger_gets_the_next_position_and_keeps_what_it_is() -> None:
    tallies = Report().tallies(2)
    first = Trigger([b"a", b"b"], Publication(b"l", b"1"), tallies, "key")
    second = Trigger([], Publication(b"l", b"2"))
    assert placed([first, second], 7) == [
        Trigger([b"a", b"b"], Publication(b"l", b"1", None, 7), tallies),
        Trigger([], Publication(b"l", b"2", None, 8)),
    ]


def counts(triggers: list[Trigger]) -> list[tuple[bytes, int]]:
    """Return which room is counted by which tally."""
    return [(key, id(each)) for keys, _, tallies, _ in triggers for key, each in zip(keys, tallies or (), strict=True)]


@given(st.lists(st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=6), max_size=4))
def test_no_room_gets_two_publications_at_one_position_and_each_naming_is_counted(named: list[list[bytes]]) -> None:
    report = Report()
    triggers = [
        Trigger(keys, Publication(b"", b"%d" % index), report.tallies(len(keys))) for index, keys in enumerate(named)
    ]
    found = placed(triggers, 10)
    assert [each.publication.position for each in found] == list(range(10, 10 + len(found)))
    assert all(len(set(each.room_keys)) == len(each.room_keys) for each in found)
    for key in (b"a", b"b", b"c"):
        published = [each.publication.right for each in found if key in each.room_keys]
        assert published == [b"%d" % index for index, keys in enumerate(named) for other in keys if other == key]
    assert sorted(counts(found)) == sorted(counts(triggers))


async def test_what_other_nodes_append_is_kept_and_handed_on() -> None:
    async with running() as node:
        client = node.client()
        client.subscribe(since=None)
        last = node.positions.last
        node.follower.take(placed([node.trigger(1, CAR), node.trigger(2, CAR, RIDE)], last + 5))
        assert [message["at"] for message in client.published] == [node.told(5), node.told(6)]
        assert (node.kept(CAR), node.kept(RIDE)) == ([(5, 1), (6, 2)], [(6, 2)])
        assert node.positions.last == last + 6


async def test_with_history_off_it_is_handed_on_alone() -> None:
    async with running(span=OFF) as node:
        client = node.client()
        client.subscribe()
        node.follower.take([node.trigger(1, CAR)])
        assert (client.data, len(node.history)) == ([1], 0)


# A hole


def hole(node: Node) -> str:
    """Let there be one; return what is told: where everybody stands behind it."""
    node.history.restart()
    node.follower.tell_hole()
    return node.positions.token(node.history.floor)


def gap(at: str, lost: int | None = None) -> dict[str, Any]:
    return {"type": "gap", "requestId": 1, "lost": lost} | ({"at": at} if lost is None else {})


async def test_a_hole_is_told_to_those_with_positions_once() -> None:
    async with running() as node:
        with_positions, without = node.client(), node.client()
        with_positions.subscribe(since=None)
        with_positions.subscribe(RIDE, request_id=2)
        without.subscribe()
        node.publish(0)
        at = hole(node)
        assert [message for message in with_positions.messages if message.get("type") == "gap"] == [gap(at)]
        node.publish(1)
        assert (with_positions.data, without.data) == ([0, 1], [0, 1])
        assert {message.get("type") for message in without.messages} == {None, "publish"}
        node.follower.tell_hole()
        assert [message for message in with_positions.messages if message.get("type") == "gap"] == [gap(at)]


async def test_whoever_was_told_of_a_hole_stands_behind_it() -> None:
    async with running() as node:
        client = node.client()
        client.subscribe(since=None)
        before = node.publish(0)
        at = hole(node)
        assert client.at == at
        after = node.publish(1)
        for since, recovered, data in [(before, False, []), (at, True, [1]), (after, True, [])]:
            back = node.client()
            assert back.subscribe(since=since)["recovered"] is recovered
            assert back.data == data


async def test_one_that_is_ahead_of_a_hole_misses_nothing_and_is_told_nothing() -> None:
    async with running() as node:
        start = node.positions.last
        node.history.add(start + 2, [], Publication(b"", b""), 0.0)  # seen at another node
        client = node.client()
        assert client.subscribe(since=node.told(2))["recovered"] is True
        node.history.floor = start + 1
        node.follower.tell_hole()
        assert len(client.messages) == 1
        node.follower.take(placed([node.trigger(2, CAR), node.trigger(3, CAR)], start + 2))
        assert client.data == [3]


async def test_what_waits_in_a_channel_from_before_a_hole_is_for_those_without_positions() -> None:
    async with running() as node:
        without, *_ = node.crowd()
        client = node.client()
        client.subscribe(since=None)
        node.publish(0)
        at = hole(node)
        node.publish(1)
        await settled()
        assert (without.data, client.data) == ([0, 1], [1])
        assert client.messages[1] == gap(at)


@pytest.mark.parametrize("kind", ["disconnect", "drop_oldest", "conflate"])
async def test_what_waits_in_an_outbox_from_before_a_hole_is_given_up(kind: Any) -> None:
    async with running(RoomPolicy(match=CAR, policy=kind, outbox_bytes=10_000)) as node:
        client, other = (node.client(takes=[10**6, 5, 0]) for _ in range(2))
        client.subscribe(since=None)
        other.subscribe()
        for number in range(4):
            node.publish([number, "x" * 100])
        lost = client.outbox.lost
        at = hole(node)
        node.publish("new")
        write_all(client.outbox)
        write_all(other.outbox)
        assert [data[0] for data in client.data] == [0, "n"], "of the first something was sent already"
        assert [message for message in client.messages if message.get("type") == "gap"] == [gap(at)]
        assert client.messages[2] == gap(at), "and before anything newer"
        assert client.outbox.lost == lost == (2 if kind == "conflate" else 0), "it is no loss by policy"
        assert [data[0] for data in other.data] == ([0, "n"] if kind == "conflate" else [0, 1, 2, 3, "n"])


async def test_a_hole_is_told_in_the_middle_of_a_replay() -> None:
    async with running() as node:
        start = node.at
        for number in range(20):
            node.publish([number, "x" * 1000])
        client = node.client(takes=[10**6, 1500, 0])
        client.subscribe(since=start)
        at = hole(node)
        node.publish(["new"])
        write_all(client.outbox)
        assert client.messages[-2:] == [gap(at), client.published[-1]]
        numbers = [data[0] for data in client.data]
        assert numbers == [*range(len(numbers) - 1), "new"]
