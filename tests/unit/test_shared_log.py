"""A log that others write too: what it repeats, and what may be missing of it."""

from __future__ import annotations

from tests.unit.conftest import CAR, settled
from tests.unit.test_bus import MINUTE, Node, apply, running
from trio_templar.core.history import OFF
from trio_templar.core.triggers import Trigger

NEXT = b"00000000000f"


def entry(node: Node, data: int, position: int) -> Trigger:
    """Return what the log says at `position`, counted from where the node is."""
    trigger = node.trigger(data, CAR)
    return trigger._replace(publication=trigger.publication._replace(position=position))


async def test_what_the_log_repeats_is_taken_once() -> None:
    async with running() as node:
        client = node.client()
        client.subscribe(since=None)
        start = node.positions.last
        entries = [entry(node, number, start + 10 * number) for number in range(1, 6)]
        for some in (entries[:3], entries[1:3], entries[2:], [], entries):
            node.follower.read(some)
        assert client.data == [data for _, data in node.kept()] == [1, 2, 3, 4, 5]
        assert node.positions.last == start + 50


async def test_what_is_not_kept_is_taken_once_too() -> None:
    async with running(span=OFF) as node:
        client = node.client()
        client.subscribe()
        first = entry(node, 1, node.positions.last + 1)
        node.follower.read([first])
        node.follower.read([first])
        assert client.data == [1]


async def test_behind_a_hole_everybody_with_positions_is_told_and_all_goes_on() -> None:
    async with running() as node:
        client, old = node.client(), node.client()
        known = client.subscribe(since=None)["at"]
        old.subscribe()
        hole = node.positions.last + 100
        node.follower.restart(NEXT, hole)
        node.follower.read([entry(node, 0, hole), entry(node, 1, hole + 1)])
        at = f"{NEXT.decode()}.{hole:x}"
        assert client.messages[1:] == [
            {"type": "gap", "requestId": 1, "lost": None, "at": at},
            {"requestId": 1, "at": f"{NEXT.decode()}.{hole + 1:x}", "type": "publish", "data": 1},
        ]
        assert (old.data, "at" in old.published[0]) == ([1], False)
        assert node.client().subscribe(since=known)["recovered"] is False
        back = node.client()
        assert back.subscribe(since=at)["recovered"] is True
        assert back.data == [1]


async def test_who_comes_while_something_from_before_a_hole_waits_is_told_what_is_behind_it() -> None:
    async with running() as node:
        crowd = node.crowd()
        node.follower.read([entry(node, 0, node.positions.last + 1)])
        hole = node.positions.last + 100
        node.follower.restart(NEXT, hole)
        node.follower.read([entry(node, 1, hole + 1)])
        new = node.client()
        assert new.subscribe(since=None)["at"] == f"{NEXT.decode()}.{hole:x}", "at the entry before it is not here"
        await settled()
        assert (crowd[0].data, new.data) == ([0, 1], [1])


async def test_who_comes_after_a_reload_is_not_sent_what_is_before_its_position() -> None:
    async with running(span=MINUTE) as node:
        crowd = node.crowd()
        node.publish(0)
        apply(node, OFF)
        apply(node, MINUTE)
        new = node.client()
        at = new.subscribe(since=None)["at"]
        node.publish(1)
        await settled()
        assert (crowd[0].data, new.data) == ([0, 1], [1])
        back = node.client()
        assert back.subscribe(since=at)["recovered"] is True
        assert back.data == [1]
