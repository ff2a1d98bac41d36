"""The nursery tree: what runs, in words, however many there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import trio
from trio.testing import MockClock

from tests.unit.conftest import CAR, operator, parts, settled
from tests.unit.test_gateway import stuck_subscriber
from tests.unit.test_views import named, open_gateway_with_rooms, publish_to_many
from trio_templar.http.tree import ALIKE, TURN_TASKS, Alike, Node, NurseryTree
from trio_templar.testing import MemoryGateway


async def tree(running: MemoryGateway) -> Any:
    async with operator(running.gateway) as caller:
        return (await caller.get("/tree")).json()


def below(node: Any, name: str) -> Any:
    """The first node called `name`, at any depth."""
    if node["name"] == name:
        return node
    return next((found for child in node["children"] if (found := below(child, name))), None)


def leaf(name: str) -> Node:
    return Node(name, name.partition(" ")[0], 1, ())


def fold(nodes: Iterable[Node]) -> tuple[Node, ...]:
    alike = Alike()
    for node in nodes:
        alike.add(node)
    return alike.nodes()


async def test_it_is_drawn_as_the_nurseries_are(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        seen = await tree(running)
        assert (seen["name"], seen["count"]) == ("trio.run", 1)
        serve = below(seen, "serve")
        assert {child["name"] for child in serve["children"]} >= {"hooks", "connections", "rooms", "supervisor loop"}
        assert below(serve, "connections")["children"] == []


async def test_a_connection_has_its_name_and_its_loops(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await stuck_subscriber(running)
        (connection,) = parts(running).clients.connections
        for _ in range(2):
            await running.gateway.publish([CAR], "x")
        (seen,) = below(await tree(running), "connections")["children"]
        assert seen["name"] == f"connection {connection.id[:8]}…"
        assert [child["name"] for child in seen["children"]] == ["trio-websocket's reader", "write loop"]


async def test_many_that_are_alike_are_one_with_a_count(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        for number in range(ALIKE + 1):
            await named(running, number)
        reader = {"name": "trio-websocket's reader", "count": 1, "children": []}
        assert below(await tree(running), "connections")["children"] == [
            {"name": "connection", "count": ALIKE + 1, "children": [reader]}
        ]


async def test_a_room_is_there_while_its_publications_wait(autojump_clock: MockClock) -> None:
    async with open_gateway_with_rooms() as running:
        await settled()  # the first canary is back
        publish_to_many(running)
        (room,) = below(await tree(running), "rooms")["children"]
        assert room == {"name": 'room {"target":"car"}', "count": 1, "children": []}


def test_a_few_keep_their_names_and_stand_in_order() -> None:
    few = [leaf(f"room {number}") for number in range(ALIKE)]
    assert fold(reversed(few)) == tuple(few)


def test_those_with_other_children_are_counted_apart() -> None:
    plain = [leaf(f"connection {number}") for number in range(ALIKE + 2)]
    writing = [Node(f"connection w{n}", "connection", 1, (leaf("write loop"),)) for n in range(ALIKE + 3)]
    lone = leaf("accept loop")
    assert [(node.name, node.count, len(node.children)) for node in fold([*plain, *writing, lone])] == [
        ("accept loop", 1, 0),
        ("connection", ALIKE + 2, 0),
        ("connection", ALIKE + 3, 1),
    ]


async def test_a_large_tree_is_looked_at_in_turns(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(8 * TURN_TASKS):
            nursery.start_soon(trio.sleep_forever)
        await settled()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(count)
        await NurseryTree({}, ()).root()
        assert turns >= 2
        nursery.cancel_scope.cancel()
