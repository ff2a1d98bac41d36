"""A model of who is told what: random schedules on the real parts of one node, or of two that read one log.

    python -m tests.unit.log_model 100000    # so many schedules, from seed 0 on
    python -m tests.unit.log_model 1 4711    # one, again

A schedule is drawn from its seed alone: what is published, how far each node reads the log, what its sockets take, how
much of that a client reads before it is cut, what an operator does. What a client has read is judged by `Story`.
"""

from __future__ import annotations

import json
import logging
import random
import re
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final, NamedTuple
from unittest import mock

import trio
import trio.testing

from trio_templar.clients.admission import Admitted
from trio_templar.clients.connection import Connection, Context
from trio_templar.clients.supervisor import Supervisor, Timeouts
from trio_templar.clock import Clock
from trio_templar.core import history as history_module
from trio_templar.core import recovery as recovery_module
from trio_templar.core.answers import BootstrapAnswer
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.forwarding import ClientRequest
from trio_templar.core.frames import frame_ends
from trio_templar.core.history import History, Span
from trio_templar.core.hub import Hub
from trio_templar.core.policies import Policies, RoomPolicy
from trio_templar.core.position import Positions
from trio_templar.core.recovery import Recovery
from trio_templar.core.rooms import room_key
from trio_templar.core.session import Rules
from trio_templar.core.triggers import Trigger
from trio_templar.delivery import fanout as fanout_module
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.bus import LocalBus
from trio_templar.delivery.closing import Event
from trio_templar.delivery.entrance import Bounds, Plan
from trio_templar.delivery.fanout import Fanout
from trio_templar.delivery.follower import Follower, placed
from trio_templar.errors import CRASHED, GONE, Busy, Close, TooLarge

STEPS: Final = 100
LARGE: Final = 10**9
AWAY: Final = Close(1012, "")
CLOSE: Final = 0x88
# By requestId: in the same room, a client may be subscribed twice.
ROOMS: Final = {
    "a": {"exact": 1},
    "b": {"exact": 2},
    "c": {"drop": 1},
    "d": {"conflate": 1},
    "e": {"conflate": 2},
    "f": {"exact": 1},
}
KEYS: Final = {request_id: room_key(room) for request_id, room in ROOMS.items()}
ALL_KEYS: Final = sorted(set(KEYS.values()))
EXACT: Final = {key for key in ALL_KEYS if b"exact" in key}
# How often, one against the other.
DISTURBANCES: Final = {"notice": 8, "remove": 3, "away": 3, "reload": 3, "trim": 3, "failover": 1, "kill": 1}

_number: Final = re.compile(rb'"n":(\d+)')


class Lie(AssertionError):
    """A client was told something that is not so."""


def expect(holds: bool, *what: object) -> None:
    if not holds:
        raise Lie(*what)


class Said(NamedTuple):
    """One publication in one room. Its position is 0 if it was published without one."""

    position: int
    number: int


def number_of(trigger: Trigger) -> int:
    match = _number.search(trigger.publication.left + trigger.publication.right)
    assert match is not None
    return int(match[1])


class Story:
    """What a client has read of one room since it had to fetch, against `said`, all that was published there.

    It knows all up to `at`; the first publication that it reads is one of `said[first : last + 1]`, because nobody can
    tell more of those without a position. A room that is not `exact` may leave some out, if a gap says how many.
    `in_order`: nothing but the order is promised.
    """

    def __init__(self, said: Sequence[Said], at: int | None, published: int, *, exact: bool, in_order: bool) -> None:
        self._said = said
        self._exact, self._in_order = exact, in_order
        self.first = 0 if at is None else self._behind(at)
        self.last = published
        if at is not None:
            behind = (index for index in range(self.first, len(said)) if said[index].position > at)
            self.last = min(next(behind, len(said)), max(self.first, published))
        # These may be offered too, and told as lost.
        self.unsure = self.last - self.first + sum(not each.position for each in said[: self.first])
        self.missing = self.told = self.ignored = self.twin = 0
        self.pinned = False

    def begin(self, at: int) -> None:
        """A subscription begins, with what is behind `at`: all before was read, or told as lost."""
        self.know(at)
        self.missing = self.told = 0
        self.unsure = max(0, self.last - self.first)

    def read(self, number: int, position: int | None) -> None:
        """One publication was read."""
        if not self.pinned and position is None and Said(0, number) in self._said[: self.first]:
            return  # it waited since a time without positions, before those that are known
        if position is not None and position <= self.ignored:
            return
        until = len(self._said)
        if self._exact and not self._in_order:
            next_one = self.first if self.pinned else self.last
            twice = self.pinned and [said.number for said in self._said[next_one : next_one + 1]] == [self.twin]
            until = min(until, next_one + 1 + twice)
        for index in range(self.first, until):
            found = self._said[index]
            if found.number == number and (position is None or found.position == position):
                break
        else:
            raise Lie("read", number, position, "expected one of", self._said[self.first : until][:9])
        if not self._in_order:
            self._leave_out(index)
        if not self.pinned and position is None:
            self.twin = number  # which of two with this number it was, nobody can tell
        self.first, self.pinned = index + 1, True

    def know(self, at: int) -> None:
        """All up to `at` was read, or told as lost."""
        behind = self._behind(at)
        if behind > self.first:
            self._leave_out(behind)
            self.first, self.pinned = behind, self.pinned or behind > self.last

    def gap(self, lost: int) -> None:
        """It was told that it lost so many."""
        expect(lost > 0 and not self._exact, "gap", lost)
        self.told += lost

    def end(self) -> None:
        """All is quiet, and the subscription lives."""
        if self._in_order:
            return
        self._leave_out(len(self._said))
        if not self._exact:
            expect(self.told <= self.missing + self.unsure, "lost", self.missing, "told", self.told)
        self.first, self.pinned = len(self._said), True

    def _leave_out(self, until: int) -> None:
        left_out = until - max(self.first, self.last)
        if left_out <= 0:
            return
        expect(not self._exact, "never read", self._said[self.first : until][:9])
        self.missing += left_out
        expect(self.missing <= self.told, "lost", self.missing, "told", self.told)

    def _behind(self, at: int) -> int:
        """Return the index behind the last publication up to `at`."""
        for index in range(len(self._said), 0, -1):
            if 0 < self._said[index - 1].position <= at:
                return index
        return 0


class Cable:
    """The socket of one client: it takes a random number of bytes, of which the client reads some, then some more."""

    stream: Any = None
    shows_life = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.bytes = bytearray()  # that the client has not read
        self.gone = False
        self.quick = False

    def write_nowait(self, data: bytes | memoryview) -> int:
        if self.gone:
            if self._rng.random() < 0.5:
                raise BrokenPipeError
            return len(data)
        size = len(data)
        if not self.quick:
            size = self._rng.choice((size, size, 0, self._rng.randint(0, size)))
        self.bytes += data[:size]
        return size

    async def writable(self) -> None:
        raise AssertionError("the schedule writes")

    async def read(self) -> bytes:
        raise AssertionError("the schedule reads")


class Link:
    """One connection: the gateway's end, the cable, and the replies that the client waits for."""

    def __init__(self, node: Node, cable: Cable) -> None:
        self.node, self.cable = node, cable
        answer = BootstrapAnswer(list(ROOMS.values()), "[]")
        admitted = Admitted(ClientRequest("/", ()), b"", b"", "", answer, "")
        self.connection = Connection(node.context, mock.NonCallableMock(spec=trio.abc.Stream), admitted)
        self.connection._wire = self.connection.outbox._wire = cable
        self.replies: deque[Callable[[dict[str, Any]], None]] = deque()
        self.removed: set[bytes] = set()  # rooms that an operator ended, which the client may not know yet
        node.links.append(self)

    def write(self) -> None:
        self.connection.outbox.write_more()
        if self.connection.outbox.closing.over:
            self.end()

    def end(self) -> None:
        assert self.connection.session is not None
        self.connection.session.end()
        expect(self.connection.outbox.end(Event.LOST, GONE) != CRASHED, "crashed")
        self.node.links.remove(self)


class Sub:
    """One requestId of one client: what it keeps of it, and what it has read.

    `on`: it has asked to be in. `is_in`: it was told so.
    """

    def __init__(self, request_id: str, *, asks: bool) -> None:
        self.request_id, self.asks = request_id, asks
        self.key = KEYS[request_id]
        self.at: str | None = None
        self.story: Story | None = None
        self.epoch = ""
        self.knows = False  # where it stands in this epoch, and not only the order
        self.on = self.is_in = False
        self.times = 0  # it has left

    def leave(self) -> None:
        self.on = self.is_in = False
        self.times += 1


class Client:
    """A client that keeps positions by the rules, or knows nothing of them."""

    def __init__(self, world: World, *, asks: bool) -> None:
        self.world, self.asks = world, asks
        self.link: Link | None = None
        wanted = world.rng.sample(sorted(ROOMS), world.rng.randint(1, 3))
        self.subs = {request_id: Sub(request_id, asks=asks) for request_id in wanted}

    # What it does

    def connect(self) -> None:
        self.link = Link(self.world.rng.choice(self.world.nodes), Cable(self.world.rng))
        for sub in self.subs.values():
            if self.world.rng.random() < 0.9:
                self.subscribe(sub)

    def subscribe(self, sub: Sub) -> None:
        """Subscribe, or say so again."""
        since, link = sub.at, self.link
        assert link is not None
        message: dict[str, Any] = {"type": "subscribe", "requestId": sub.request_id, "room": ROOMS[sub.request_id]}
        again, sub.on = sub.on, True
        known, floor = link.node.known(sub.key), link.node.follower.history.floor
        if sub.asks:
            message["since"] = since
        times = sub.times

        def on_reply(reply: dict[str, Any]) -> None:
            if sub.times == times:
                self._subscribed(sub, since, known, floor, reply, again=again)

        link.replies.append(on_reply)
        link.connection._hear(json.dumps(message))

    def unsubscribe(self, sub: Sub) -> None:
        assert self.link is not None
        sub.leave()
        self.link.replies.append(lambda *_: None)
        self.link.connection._hear(json.dumps({"type": "unsubscribe", "requestId": sub.request_id}))

    def lose(self) -> None:
        """The connection is gone, with what was not read of it; the gateway may not know yet."""
        assert self.link is not None
        self.link.cable.gone = True
        self.link = None
        for sub in self.subs.values():
            sub.leave()

    def step(self) -> None:
        rng = self.world.rng
        if self.link is None:
            self.connect()
            return
        sub = rng.choice(list(self.subs.values()))
        x = rng.random()
        if x < 0.5:
            self.read(rng.choice((LARGE, rng.randint(0, 200))))
        elif x < 0.58:
            self.lose()
        elif not sub.on:
            self.subscribe(sub)
        elif sub.is_in and x < 0.66:
            self.unsubscribe(sub)
            if rng.random() < 0.5:
                self.subscribe(sub)
        elif sub.is_in and x < 0.92 and sub.key not in self.link.removed:
            self.subscribe(sub)

    def read(self, size: int) -> None:
        """Read so many bytes; what is no whole frame yet waits for more, or is lost."""
        link = self.link
        assert link is not None
        cable, start = link.cable, 0
        for first, end in whole_frames(bytes(cable.bytes[:size])):
            if first == CLOSE:
                self.lose()
                return
            self._read_message(link, json.loads(payload(bytes(cable.bytes[start:end]))))
            start = end
        del cable.bytes[:start]
        if link.connection.outbox.closing.over and size == LARGE:
            self.lose()

    # What it reads

    def _read_message(self, link: Link, message: dict[str, Any]) -> None:
        if "code" in message:
            link.replies.popleft()(message)
            return
        if message["type"] == "position":
            for sub in self.subs.values():
                if sub.is_in and sub.at is not None:
                    sub.at = message["at"]
            return
        sub = self.subs[message["requestId"]]
        if message["type"] == "unsubscribed":
            link.removed.discard(sub.key)
            if sub.is_in:  # else it has asked again already, and this is about the time before
                sub.leave()
            return
        if not sub.is_in:
            return  # from before it unsubscribed
        assert sub.story is not None
        if message["type"] == "gap":
            self._gap(sub, sub.story, message)
            return
        expect(sub.asks or "at" not in message, "at", message)
        position = self._position(sub, message)
        sub.story.read(message["data"]["n"], position)
        sub.at = message.get("at", sub.at)

    def _gap(self, sub: Sub, story: Story, message: dict[str, Any]) -> None:
        if message["lost"] is not None:
            expect("at" not in message, "at", message)
            story.gap(message["lost"])
            self.world.count["gaps with a number"] += 1
            return
        expect(sub.asks, "hole", message)
        self.world.count["holes"] += 1
        self._fetch(sub, message["at"], None)

    def _subscribed(
        self, sub: Sub, since: str | None, known: tuple[str, int], floor: int, reply: dict[str, Any], *, again: bool
    ) -> None:
        expect(reply["code"] == "success", reply)
        at, recovered = reply.get("at"), reply.get("recovered")
        if not sub.asks:
            expect(at is None and recovered is None, reply)
        if again:
            expect(recovered is not True, reply)
            if recovered is None:
                if at is not None:
                    self._begin_to_know(sub, at, floor)
                return
        sub.is_in = True
        if recovered:
            expect(at == since and sub.story is not None, reply)
            assert sub.story is not None
            assert since is not None
            epoch, position = since.split(".")
            expect(epoch == sub.epoch, reply, sub.epoch)
            sub.story.begin(int(position, 16))
            return
        expect((recovered is None) == (since is None), reply, since)
        self._fetch(sub, at, known)

    def _fetch(self, sub: Sub, at: str | None, known: tuple[str, int] | None) -> None:
        """What is before `at` is known from the API now; without positions, what was published before is."""
        if at is None:
            assert known is not None
            epoch, published = known
            said = self.world.said[epoch, sub.key] if self.world.is_local else self.world.heard[sub.key]
            sub.story = Story(said, None, published, exact=sub.key in EXACT, in_order=not self.world.is_local)
            sub.epoch, sub.knows = epoch, self.world.is_local
            if not self.world.is_local:
                sub.at = None  # it would be proved by a node that has other settings
            return
        sub.epoch, position = at.split(".")
        sub.knows = True
        said = self.world.said[sub.epoch, sub.key]
        published = len(said) if known is None or known[0] != sub.epoch else known[1]
        sub.story = Story(said, int(position, 16), published, exact=sub.key in EXACT, in_order=False)
        sub.at = at

    def _begin_to_know(self, sub: Sub, at: str, floor: int) -> None:
        """It asked again. If it was told nothing of positions before, it was told of no hole, which ends at `floor`."""
        epoch = at.split(".")[0]
        if epoch != sub.epoch or not sub.knows:
            said = self.world.said[epoch, sub.key]
            position = max(int(at.split(".")[1], 16), floor)
            sub.story = Story(said, position, len(said), exact=sub.key in EXACT, in_order=False)
            sub.story.ignored, sub.story.unsure = position, LARGE
            sub.epoch, sub.knows = epoch, True
        sub.at = at

    def _position(self, sub: Sub, message: dict[str, Any]) -> int | None:
        if "at" not in message:
            return None
        epoch, position = message["at"].split(".")
        expect(epoch == sub.epoch, "another epoch", message, sub.epoch)
        return int(position, 16)


def whole_frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the first byte of each whole frame in `data`, and the index behind it."""
    start = 0
    while len(data) - start >= 2:
        size, head = data[start + 1], 2
        if size >= 126:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[start + 2 : start + head])
        end = start + head + size
        if end > len(data):
            return
        yield data[start], end
        start = end


def payload(frame: bytes) -> bytes:
    assert list(frame_ends(frame)) == [len(frame)]
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


class ReadPositions(Positions):
    """The positions of a log that other nodes write too: what was read last, and none of one's own."""

    def next(self) -> int:
        return self.last


class Witness(Follower):
    """A follower that says what it takes, before anybody gets it."""

    node: Node

    def take(self, triggers: Sequence[Trigger], plan: Plan | None = None) -> None:
        self.node.witness(triggers)
        super().take(triggers, plan)


class Node:
    """One node: all that delivers, and nothing that listens."""

    def __init__(self, world: World, tasks: trio.Nursery, rooms: trio.Nursery) -> None:
        rng = world.rng
        self.world, self.rooms = world, rooms
        self.tasks = tasks
        self.links: list[Link] = []
        self.hub = Hub(world.policies)
        self.positions = Positions(wall=trio.current_time) if world.is_local else ReadPositions(world.epoch)
        if not world.is_local:
            self.positions.last = world.oldest
        history = History(self.positions, world.span, world.kept_seconds)
        self.budget = Budget(rng.choice((6_000, 30_000, *[LARGE] * 4)), history)
        self.clock = Clock()
        bounds = Bounds(
            room_publications=rng.choice((3, 1000)),
            room_bytes=rng.choice((200, 100_000)),
            max_triggers_waiting=5,
            wait_seconds=3.0,
        )
        self.fanout = Fanout(self.hub, rooms, self.budget, bounds)
        self.follower = Witness(history, self.hub, self.fanout)
        self.follower.node = self
        self.bus = LocalBus(self.follower, self.fanout)
        self.recovery = Recovery(history, trio.current_time)
        size = rng.choice((600, 2_000, 100_000))
        backlogs = Backlogs(size, rng.choice((6, 1000)), self.budget, self.clock.now)
        self.backlogs = backlogs
        rules = Rules(DIALECTS[world.dialect], self.hub, 10, 1000, 100, recovery=self.recovery)
        self.context = Context(
            rules=rules,
            backlogs=backlogs,
            connections=set(),
            hooks=None,
            clock=self.clock,
            max_message_bytes=LARGE,
            messages_per_second=LARGE,
            messages_burst=LARGE,
            goodbye_seconds=1,
        )
        timeouts = Timeouts(slow=8, age=8, ping=LARGE, pong=LARGE, idle=None)
        self.supervisor = Supervisor(timeouts, (), backlogs, self.clock, self.recovery, lambda: trio.current_time())
        tasks.start_soon(self.supervisor.supervisor_loop)
        tasks.start_soon(self.supervisor.relief_loop)

    @classmethod
    async def run(cls, world: World, task_status: trio.TaskStatus[Node]) -> None:
        async with trio.open_nursery() as rooms, trio.open_nursery() as tasks:
            task_status.started(cls(world, tasks, rooms))
            await trio.sleep_forever()

    @property
    def epoch(self) -> str:
        return self.positions.epoch.decode()

    def known(self, key: bytes) -> tuple[str, int]:
        """Return the epoch, and how many publications of the room were published in it; what is unread is behind."""
        if self.world.is_local or self.follower.history.keeps(key):
            return self.epoch, len(self.world.said[self.epoch, key])
        return self.epoch, len(self.world.heard[key])

    def witness(self, triggers: Sequence[Trigger]) -> None:
        if self.world.is_local:
            self.world.note(self.epoch, triggers)

    def read(self, count: int) -> None:
        """Read so many entries of the log that are new, and some once more."""
        world, last = self.world, self.positions.last
        if self.positions.epoch != world.epoch or last < world.oldest:
            self.follower.restart(world.epoch, world.oldest)
            last = world.oldest
        first = next((index for index, (position, _) in enumerate(world.log) if position > last), len(world.log))
        repeated = world.rng.choice((0, 0, 1, 3))
        self.follower.read([trigger for _, trigger in world.log[max(0, first - repeated) : first + count]])

    def reload(self, *, longer: bool) -> None:
        self.hub.apply(self.world.policies)
        self.follower.history.apply(self.world.span, self.world.kept_seconds, trio.current_time(), longer=longer)

    def kill(self) -> None:
        self.rooms.cancel_scope.cancel()

    def count(self) -> None:
        for outcome, count in self.recovery.outcomes.items():
            self.world.count[outcome] += count
        self.world.count["replayed"] += self.recovery.replayed


class World:
    """All there is: the log, nodes, clients, and what was published.

    Everything behind `oldest` of this `epoch` is in the log, unless the one node `is_local` and keeps it itself.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.is_local = rng.random() < 0.4
        self.dialect: Any = rng.choice(("2", "3"))
        self.count = Counter[str]()
        self.said: dict[tuple[str, bytes], list[Said]] = defaultdict(list)  # by epoch and room
        self.heard: dict[bytes, list[Said]] = defaultdict(list)  # by room, in all epochs
        self.numbers = 0
        self.epochs = 0
        self.log: list[tuple[int, Trigger]] = []
        self.last = self.oldest = 1
        self.epoch = b"%012x" % self.epochs
        self.draw_settings()
        self.nodes: list[Node] = []
        self.clients = [Client(self, asks=index != 0) for index in range(rng.randint(2, 5))]

    def draw_settings(self) -> None:
        rng = self.rng
        self.span = Span(rng.choice((0, 1, 4, *[60] * 5)), rng.choice((1_200, 5_000, *[LARGE] * 4)))
        entries = [
            RoomPolicy(match={"exact": 2}, history=rng.random() < 0.8),
            RoomPolicy(match={"drop": "*"}, policy="drop_oldest", outbox_bytes=rng.choice((100, 300))),
            RoomPolicy(match={"conflate": 1}, policy="conflate", key="k"),
            RoomPolicy(match={"conflate": 2}, policy="conflate"),
        ]
        if self.span.seconds > 1 and rng.random() < 0.3:
            entries.insert(0, RoomPolicy(match={"exact": 1}, history_seconds=1))
        self.policies = Policies(entries, 600, self.span.seconds)

    @property
    def kept_seconds(self) -> Callable[[bytes], float] | None:
        return self.policies.history_seconds if self.policies.limits_history else None

    def note(self, epoch: str, triggers: Sequence[Trigger]) -> None:
        for trigger in triggers:
            said = Said(trigger.publication.position, number_of(trigger))
            for key in trigger.room_keys:
                self.said[epoch, key].append(said)
                self.heard[key].append(said)

    # What happens

    async def start(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        for _ in range(1 if self.is_local else 2):
            self.nodes.append(await nursery.start(Node.run, self))

    async def step(self) -> None:
        rng = self.rng
        x = rng.random()
        if x < 0.16:
            self.publish()
        elif x < 0.27:
            rng.choice(self.nodes).read(rng.randint(1, 4)) if not self.is_local else self.publish()
        elif x < 0.37:
            await self.pass_time()
        elif x < 0.49:
            links = [link for node in self.nodes for link in node.links if not link.connection.outbox.idle]
            if links:
                rng.choice(links).write()
        elif x < 0.95:
            rng.choice(self.clients).step()
        else:
            await self.disturb()

    async def disturb(self) -> None:
        rng = self.rng
        node = rng.choice(self.nodes)
        what = rng.choices(list(DISTURBANCES), list(DISTURBANCES.values()))[0]
        self.count[what] += 1
        match what:
            case "notice":
                for link in [link for link in node.links if link.cable.gone]:
                    link.end()
            case "reload":
                before = self.policies
                self.draw_settings()
                for each in self.nodes:
                    each.reload(longer=self.policies.keep_longer(before))
            case "remove" if node.links:
                link, key = rng.choice(node.links), rng.choice(ALL_KEYS)
                if not link.replies and link.connection.outbox.closing.open:
                    link.connection.unsubscribe(key, "")
                    link.removed.add(key)
            case "away" if node.links:
                rng.choice(node.links).connection.send_away(AWAY, 1)
            case "trim" if self.log:
                gone = rng.randint(0, len(self.log) // 2)
                self.oldest = self.log[gone - 1][0] if gone else self.oldest
                del self.log[:gone]
            case "failover" if not self.is_local:
                self.fail_over()
            case "kill":
                await self.kill(node)

    async def pass_time(self) -> None:
        match self.rng.randint(0, 3):
            case 0 | 1:
                await trio.lowlevel.checkpoint()
            case 2:
                await trio.testing.wait_all_tasks_blocked()
            case 3:
                await trio.sleep(self.rng.choice((0.01, 0.3, 0.3, 2)))

    def trigger(self) -> Trigger:
        rng = self.rng
        keys = rng.sample(ALL_KEYS, rng.choice((1, 1, 1, 2, 5)))
        if rng.random() < 0.15:
            keys.insert(rng.randint(0, len(keys)), keys[0])
        self.numbers += 1
        data = b'{"n":%d,"k":%d,"pad":"%b"}' % (self.numbers, rng.randint(0, 1), b"x" * rng.choice((0, 30, 100)))
        return Trigger(keys, DIALECTS[self.dialect].publication(data))

    def publish(self) -> None:
        triggers = [self.trigger() for _ in range(self.rng.choice((1, 1, 1, 3)))]
        if not self.is_local:
            appended = placed(triggers, self.last + self.rng.choice((1, 1, 1, 5)))
            self.note(self.epoch.decode(), appended)
            self.log += [(trigger.publication.position, trigger) for trigger in appended]
            self.last = self.log[-1][0]
        elif self.rng.random() < 0.5:
            self.nodes[0].tasks.start_soon(self.append, self.nodes[0].bus, triggers)
        else:
            try:
                self.nodes[0].bus.append_nowait(triggers)
            except (trio.WouldBlock, Busy, TooLarge):
                self.count["full"] += 1

    async def append(self, bus: LocalBus, triggers: Sequence[Trigger]) -> None:
        try:
            await bus.append(triggers)
        except (Busy, TooLarge):
            self.count["busy"] += 1

    def fail_over(self) -> None:
        """Begin an epoch: what only some nodes have read is lost."""
        self.last += self.rng.randint(1, 3)
        self.oldest = self.last
        self.log.clear()
        self.epochs += 1
        self.epoch = b"%012x" % self.epochs

    async def kill(self, node: Node) -> None:
        for client in self.clients:
            if client.link is not None and client.link.node is node:
                client.lose()
        node.count()
        node.kill()
        self.nodes[self.nodes.index(node)] = await self.nursery.start(Node.run, self)

    # How it ends

    async def end(self) -> None:
        """Let all be delivered and read, judge it, and let go of everything."""
        for _ in range(3):
            for node in self.nodes:
                if not self.is_local:
                    node.read(LARGE)
                node.supervisor.timeouts = Timeouts(slow=LARGE, age=LARGE, ping=LARGE, pong=LARGE, idle=None)
                for link in list(node.links):
                    link.cable.quick = True
                    while link in node.links and not link.connection.outbox.idle:
                        link.write()
            for client in self.clients:
                if client.link is not None:
                    client.read(LARGE)
            await trio.sleep(4)
        for client in self.clients:
            for sub in client.subs.values():
                if sub.is_in and sub.story is not None:
                    sub.story.end()
        await self.let_go()

    async def let_go(self) -> None:
        for node in self.nodes:
            node.count()
            for link in list(node.links):
                link.end()
            node.recovery.tidy()
            expect(not node.rooms.child_tasks, "a room's loop is left")
            left = (node.budget.used_bytes, node.budget._holders, node.backlogs.bytes, node.backlogs.outboxes)
            expect(left == (0, {}, 0, set()), "left", left)
            expect((node.hub.rooms, node.hub.subscriptions) == ({}, 0), "left in the hub")
            expect(node.fanout.in_flight_bytes == 0, "left on the way")
            node.kill()
        await trio.testing.wait_all_tasks_blocked()
        expect(not self.nursery.child_tasks, "left", self.nursery.child_tasks)


async def play(seed: int, count: Counter[str]) -> None:
    world = World(seed)
    with small_bounds(world.rng):
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            for _ in range(STEPS):
                await world.step()
            await world.end()
    count.update(world.count)


@contextmanager
def small_bounds(rng: random.Random) -> Iterator[None]:
    """Bounds that a few clients and publications meet: passes give way, and few quiet rooms are known."""
    changes: dict[ModuleType, dict[str, Any]] = {
        fanout_module: {
            "SMALL_SUBSCRIBERS": rng.choice((0, 1, 16)),
            "PASS_BYTES": rng.choice((150, 65_536)),
            "TURN_DELIVERIES": rng.choice((1, 2, 100)),
            "TURN_BYTES": rng.choice((1, 100, 1_048_576)),
            "DELIVERY_SECONDS": rng.choice((8e-6, 0.05)),
        },
        history_module: {"FORGOTTEN_ROOMS": rng.choice((2, 50_000))},
        recovery_module: {"SHARED_BYTES": rng.choice((100, 1_048_576))},
    }
    before = {module: {name: getattr(module, name) for name in values} for module, values in changes.items()}
    try:
        for module, values in changes.items():
            vars(module).update(values)
        yield
    finally:
        for module, values in before.items():
            vars(module).update(values)


def run(seeds: Iterable[int]) -> Counter[str]:
    """Play the schedules of `seeds`; return what happened, how often. Raises Lie, in a group that notes the seed."""
    count = Counter[str]()
    for seed in seeds:
        core = trio._core._run
        core._r.seed(seed)
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            with mock.patch.object(core, "_ALLOW_DETERMINISTIC_SCHEDULING", True):
                trio.run(play, seed, count, clock=clock)
        except BaseException as error:
            error.add_note(f"again: python -m tests.unit.log_model 1 {seed}")
            raise
    return count


def main() -> None:
    logging.disable()
    schedules, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    count = run(range(first, first + schedules))
    sys.stdout.write(f"{schedules} schedules from seed {first}: {dict(count)}\n")


if __name__ == "__main__":
    main()
