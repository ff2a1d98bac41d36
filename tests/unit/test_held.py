"""The budget counts what is really held: the bytes that can be reached from what waits, each object once."""

from __future__ import annotations

import gc
from types import FunctionType, MethodType, ModuleType

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.conftest import make_backlogs, write_all
from tests.unit.test_backlog import Client
from tests.unit.test_outbox import BYE, reply
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.frames import PUBLICATION_BYTES, Batch, Publication
from trio_templar.core.hub import Subscription
from trio_templar.delivery.backlog import REFERENCE_BYTES
from trio_templar.errors import GONE, STUCK, Close

# Shorter ones are small here: sides without data, requestIds, gaps.
LARGE_BYTES = 400


def held_bytes(*roots: object) -> int:
    """Return the bytes of all large `bytes` that can be reached from `roots`, but for what a test holds itself."""
    seen: dict[int, object] = {}
    left = list(roots)
    while left:
        each = left.pop()
        if id(each) not in seen and not isinstance(each, type | ModuleType | FunctionType | MethodType):
            seen[id(each)] = each
            left += gc.get_referents(each)
    return sum(len(each) for each in seen.values() if isinstance(each, bytes) and len(each) >= LARGE_BYTES)


def publication(size: int) -> Publication:
    return DIALECTS["2"].publication(b'"%b"' % (b"x" * size))


def test_what_waits_for_clients_of_many_rooms_counts_once() -> None:
    backlogs = make_backlogs()
    clients = [Client(backlogs=backlogs) for _ in range(50)]
    shared = publication(100_000)
    before = backlogs.budget.used_bytes
    for client in clients:
        client.outbox.put(client.enter("plain"), Batch([shared]))
    assert backlogs.budget.used_bytes - before == shared.size + 50 * (PUBLICATION_BYTES + REFERENCE_BYTES)
    for client in clients:
        client.read()
    assert backlogs.budget.used_bytes == 0


class Held(RuleBasedStateMachine):
    """Clients in rooms of each policy, who take what they want, leave and are cut; others take their place."""

    KINDS = ("plain", "strict", "recent", "few", "latest", "keyed")
    PLACES = 3

    @initialize(max_bytes=st.sampled_from([6_000, 40_000]), max_frames=st.sampled_from([4, 40]))
    def begin(self, max_bytes: int, max_frames: int) -> None:
        self.backlogs = make_backlogs(max_bytes, max_frames)
        self.clients: list[Client] = []
        self.places = [self.arrive(place) for place in range(self.PLACES)]

    def arrive(self, place: int) -> dict[str, Subscription]:
        client = Client(backlogs=self.backlogs)
        self.clients.append(client)
        return {kind: client.enter(kind, kind + "1" * place) for kind in self.KINDS}

    def at(self, place: int) -> Client:
        """Return the client at `place`, which is open."""
        outbox = self.places[place]["plain"].receiver
        client = next(each for each in self.clients if each.outbox is outbox)
        if client.outbox.closed is None:
            return client
        self.places[place] = self.arrive(place)
        return self.clients[-1]

    @rule(
        sizes=st.lists(st.integers(LARGE_BYTES, 2_000), min_size=1, max_size=6),
        kinds=st.sets(st.sampled_from(KINDS), min_size=1),
    )
    def publish(self, sizes: list[int], kinds: set[str]) -> None:
        publications = [publication(size) for size in sizes]
        for kind in sorted(kinds):
            batch = Batch(publications)
            for subscriptions in self.places:
                if subscriptions[kind].room is not None:
                    subscriptions[kind].receiver.put(subscriptions[kind], batch)
            batch.finish()

    @rule(place=st.integers(0, PLACES - 1))
    def say(self, place: int) -> None:
        self.at(place).outbox.reply(reply("x" * LARGE_BYTES))

    @rule(place=st.integers(0, PLACES - 1), size=st.integers(0, 5_000))
    def write(self, place: int, size: int) -> None:
        client = self.at(place)
        client.transport.takes = [size, 0]
        client.outbox.write_more()

    @rule(place=st.integers(0, PLACES - 1), takes=st.lists(st.integers(0, 5_000), max_size=1))
    def catch_up(self, place: int, takes: list[int]) -> None:
        client = self.at(place)
        client.transport.takes = []
        write_all(client.outbox)
        client.transport.takes = takes

    @rule(place=st.integers(0, PLACES - 1), kind=st.sampled_from(KINDS))
    def unsubscribe(self, place: int, kind: str) -> None:
        self.at(place).hub.unsubscribe(self.places[place][kind])

    @rule(place=st.integers(0, PLACES - 1))
    def drop_stale(self, place: int) -> None:
        self.at(place).outbox.drop_stale(0)

    @rule(place=st.integers(0, PLACES - 1), why=st.sampled_from([STUCK, GONE, BYE]))
    def leave(self, place: int, why: Close) -> None:
        outbox = self.at(place).outbox
        if why is STUCK:
            outbox.cut(why)
        else:
            outbox.close(why)

    @invariant()
    def the_budget_is_what_can_be_reached_and_what_that_takes_beside(self) -> None:
        held = held_bytes(*[client.outbox for client in self.clients])
        used = self.backlogs.budget.used_bytes
        frames = sum(client.outbox.waiting_frames for client in self.clients)
        # Left sides, of which there is one, and gaps or a farewell that a client is being sent.
        small = LARGE_BYTES * (len(self.clients) + 1)
        assert held <= used <= held + (PUBLICATION_BYTES + REFERENCE_BYTES) * frames + small

    def teardown(self) -> None:
        for client in self.clients:
            client.transport.takes = []
            write_all(client.outbox)
        assert self.backlogs.budget.used_bytes == 0


TestHeld = Held.TestCase
TestHeld.settings = settings(max_examples=100, stateful_step_count=40)
