"""`GET /tree`: the tasks that run, as a tree of nurseries, where many that are alike are one with a count."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio

from trio_templar.http.app import Request, Response, Routes, json_answer, route_of
from trio_templar.http.input import NoQuery, read_query

NamedTask = tuple[trio.lowlevel.Task, str]

# More tasks than these that are alike, below one parent, are one node with a count.
ALIKE: Final = 8
# How many tasks are looked at before other tasks get their turn.
TURN_TASKS: Final = 200
# How deep the tree is followed: the gateway may run in a program that has a deep one of its own.
DEPTH: Final = 40

# Trio names tasks after their functions; these names say less than they could.
_PLAIN: Final = {
    "<init>": "trio.run",
    "<TrioToken.run_sync_soon task>": "calls from threads",
    "trio_websocket._impl.WebSocketConnection._reader_task": "trio-websocket's reader",
}
_OURS: Final = re.compile(r"^trio_templar\.(?:[\w<>]+\.)*_*(\w+?)_*$")


@dataclass(frozen=True, slots=True)
class Node:
    """A task, a nursery, or `count` tasks that are alike; `kind` is the name without what is the task's own."""

    name: str
    kind: str
    count: int
    children: tuple[Node, ...]

    @property
    def shape(self) -> tuple[Any, ...]:
        """What two nodes that are alike have in common."""
        return self.kind, tuple((child.shape, child.count) for child in self.children)

    def view(self) -> Mapping[str, Any]:
        """Return it as `/tree` shows it."""
        return {"name": self.name, "count": self.count, "children": [child.view() for child in self.children]}


class NurseryTree:
    """The tree of the whole program. `nurseries` and `tasks` have the names that Trio cannot know.

    A task's name begins with what it is: `connection 7f3a…`, `room {…}`; what follows the first space is its own.
    """

    def __init__(self, nurseries: Mapping[trio.Nursery, str], tasks: Iterable[NamedTask]) -> None:
        self._nurseries = nurseries
        self._tasks = dict(tasks)
        self._seen = 0

    async def root(self) -> Node:
        """Return the tree as it is now; of a large one, parts are as they were a moment ago."""
        task = trio.lowlevel.current_root_task()
        assert task is not None  # we run in it
        return await self._of_task(task, DEPTH)

    async def _of_task(self, task: trio.lowlevel.Task, depth: int) -> Node:
        self._seen += 1
        if self._seen % TURN_TASKS == 0:
            await trio.lowlevel.checkpoint()
        name = self._tasks.get(task) or _PLAIN.get(task.name) or _OURS.sub(_spoken, task.name)
        children: list[Node] = []
        for nursery in task.child_nurseries if depth else ():
            alike = Alike()
            for child in nursery.child_tasks:
                alike.add(await self._of_task(child, depth - 1))
            tasks = alike.nodes()
            title = self._nurseries.get(nursery)
            children += [Node(title, title, 1, tasks)] if title else tasks
        kind = name.partition(" ")[0] if name.startswith(("connection ", "room ")) else name
        return Node(name, kind, 1, tuple(children))


class Alike:
    """Siblings, of which those that are alike become one when there are more than `ALIKE`."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Any, ...], list[Node]] = {}

    def add(self, node: Node) -> None:
        """Add one sibling."""
        self._groups.setdefault(node.shape, []).append(node)

    def nodes(self) -> tuple[Node, ...]:
        """Return them by name; for many that are alike, one with a count."""
        folded: list[Node] = []
        for group in self._groups.values():
            first = group[0]
            folded += group if len(group) <= ALIKE else [Node(first.kind, first.kind, len(group), first.children)]
        return tuple(sorted(folded, key=lambda node: node.name))


def _spoken(match: re.Match[str]) -> str:
    return match[1].replace("_", " ")


def tree_routes(nurseries: Mapping[trio.Nursery, str], tasks: Callable[[], Iterable[NamedTask]]) -> Routes:
    """Return the route for `HttpApi.routes`; `nurseries` and `tasks` are as for `NurseryTree`."""

    async def tree(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        read_query(request, NoQuery)
        return json_answer((await NurseryTree(nurseries, tasks()).root()).view())

    return route_of("GET", "/tree", tree)
