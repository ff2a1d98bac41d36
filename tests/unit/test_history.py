"""The history against a list of all that was ever published: it proves what it can, and never too much."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.conftest import Now
from trio_templar.core import history as module
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.frames import Publication
from trio_templar.core.history import CUT_ENTRIES, OFF, Entry, History, Span
from trio_templar.core.position import Positions
from trio_templar.core.rooms import room_key

LARGE = 2**40
MINUTE = Span(60, LARGE)
CAR, RIDE = b'{"target":"car"}', b'{"target":"ride"}'


class Kept(NamedTuple):
    """What the list remembers of a publication."""

    position: int
    keys: tuple[bytes, ...]
    data: bytes
    time: float


class Log:
    """A history, and what a gateway does with it; its clock stands until a test says so."""

    def __init__(self, span: Span = MINUTE, seconds: dict[bytes, float] | None = None) -> None:
        self.now = Now()
        self.wall = Now()
        self.wall.time = 1000.0
        self.positions = Positions(epoch=b"e", wall=self.wall)
        self.history = History(self.positions, span, seconds_of(seconds))

    def publish(self, *keys: bytes, data: bytes = b"0") -> int:
        position = self.positions.last = self.positions.next()
        self.history.add(position, keys, Publication(b"", data), self.now())
        return position

    def since(self, key: bytes, position: int, *, until: int | None = None, most: int = 1000) -> list[int] | None:
        until = self.positions.last if until is None else until
        found = self.history.since(key, position, self.now(), until=until, most=most)
        return None if found is None else [entry[0] for entry in found]

    def newest(self, key: bytes, most: int = 1000) -> list[int]:
        return [entry[0] for entry in self.history.newest(key, self.now(), most=most)]


def seconds_of(seconds: dict[bytes, float] | None) -> Callable[[bytes], float] | None:
    return None if seconds is None else lambda key: seconds.get(key, float("inf"))


# What is asked


def test_what_came_behind_a_position_is_told_in_order_up_to_a_bound() -> None:
    log = Log()
    start = log.positions.last
    first, other, second, third = log.publish(CAR), log.publish(RIDE), log.publish(CAR, RIDE), log.publish(CAR)
    assert log.since(CAR, start) == [first, second, third]
    assert log.since(CAR, first) == [second, third]
    assert log.since(RIDE, start) == [other, second]
    assert log.since(CAR, start, until=second) == [first, second]
    assert log.since(CAR, third, until=first) == [], "a client may be ahead of what was handed on"
    assert log.since(b"{}", start) == []


def test_of_more_than_wanted_the_oldest_are_told_and_one_over() -> None:
    log = Log()
    start = log.positions.last
    sent = [log.publish(CAR) for _ in range(5)]
    assert log.since(CAR, start, most=2) == sent[:3]
    assert log.since(CAR, start, most=0) == sent[:1]
    assert log.since(CAR, start, most=4) == log.since(CAR, start, most=5) == sent
    assert log.newest(CAR, most=2) == sent[2:]
    assert log.newest(CAR, most=5) == sent
    assert log.newest(RIDE) == []


def test_an_entry_is_what_was_published() -> None:
    log = Log()
    position = log.publish(CAR, RIDE, data=b"data")
    (entry,) = log.history.newest(CAR, 0.0, most=10)
    assert entry == (position, (CAR, RIDE), b"", b"data", 0.0)
    assert log.history.newest(RIDE, 0.0, most=10)[0] is entry, "both rooms have the same"
    assert dict(log.history.rooms()) == {CAR: 1, RIDE: 1}
    assert (len(log.history), log.history.oldest) == (1, 0.0)


def test_what_was_there_before_the_start_is_not_proved() -> None:
    log = Log()
    assert log.since(CAR, log.positions.last) == []
    assert log.since(CAR, log.positions.last - 1) is None


def test_what_is_too_old_is_forgotten_and_who_missed_it_is_told() -> None:
    log = Log()
    first = log.publish(CAR)
    log.now.time = 30
    second = log.publish(CAR)
    log.now.time = 59.9
    log.history.trim(log.now())
    assert log.since(CAR, first - 1) == [first, second]
    log.now.time = 60
    log.history.trim(log.now())
    assert log.since(CAR, first - 1) is None
    assert log.since(CAR, first) == [second]
    log.now.time = 90
    log.history.trim(log.now())
    assert (len(log.history), log.history.oldest, list(log.history.rooms())) == (0, None, [])


def test_a_quiet_room_recovers_for_ever() -> None:
    log = Log()
    heard = log.publish(CAR)
    for _ in range(100):
        log.now.time += 61
        log.publish(RIDE)
        log.history.trim(log.now())
    assert log.since(CAR, heard) == []
    assert log.since(CAR, heard - 1) is None
    late = log.publish(CAR)
    assert log.since(CAR, heard) == [late]


def test_a_room_that_nothing_was_published_in_recovers_from_the_start_on() -> None:
    log = Log()
    start = log.positions.last
    for _ in range(100):
        log.now.time += 61
        log.publish(RIDE)
        log.history.trim(log.now())
    assert log.since(CAR, start) == []


def test_of_so_many_quiet_rooms_and_no_more_the_last_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORGOTTEN_ROOMS", 3)
    log = Log()
    heard = {key: log.publish(key) for key in (b"a", b"b", b"c", b"d")}
    log.now.time = 60
    log.history.trim(60)
    assert log.since(b"a", heard[b"a"]) == [], "what fell out is the highest, and its own"
    again = log.publish(b"b")
    log.now.time = 120
    log.history.trim(120)
    assert log.since(b"b", again) == []
    assert [log.since(key, heard[key]) for key in (b"b", b"c", b"d")] == [None, [], []]
    log.publish(b"e")
    log.now.time = 180
    log.history.trim(180)
    assert [log.since(key, heard[key]) for key in (b"a", b"c", b"d")] == [None, [], []], "it was quiet for longest"


def test_of_almost_30_000_quiet_rooms_the_last_is_known_in_a_quarter_of_32_mib() -> None:
    log = Log(Span(60, 33_554_432))
    rooms = [b'{"car": %d, "target": "car"}' % number for number in range(50_000)]
    heard = [log.publish(key) for key in rooms]
    log.now.time = 120
    log.history.trim(log.now())
    assert 29_000 < sum(log.since(*each) == [] for each in zip(rooms, heard, strict=True)) < 31_000


# How much


def test_beyond_its_bytes_the_oldest_are_forgotten() -> None:
    log = Log(Span(60, 100_000))
    sent = [log.publish(CAR, data=b"x" * 1000) for _ in range(1000)]
    assert 98_000 < log.history.bytes <= 100_000
    kept = log.newest(CAR, most=1000)
    assert kept == sent[-len(kept) :]
    assert 75 < len(kept) < 90
    assert log.since(CAR, kept[0] - 1) == kept
    assert log.since(CAR, kept[0] - 2) is None


def test_an_entry_over_all_bytes_is_not_kept_and_breaks_nothing() -> None:
    log = Log(Span(60, 10_000))
    before = log.publish(CAR)
    huge = log.publish(CAR, RIDE, data=b"x" * 10_001)
    assert (len(log.history), list(log.history.rooms())) == (0, [])
    assert log.history.bytes <= 10_000
    assert [log.since(CAR, before), log.since(RIDE, before)] == [None, None]
    assert [log.since(CAR, huge), log.since(RIDE, huge)] == [[], []]
    after = log.publish(CAR)
    assert log.since(CAR, huge) == [after]


def test_one_that_gives_way_frees_so_many_bytes() -> None:
    log = Log()
    sent = [log.publish(CAR, data=b"x" * 1000) for _ in range(100)]
    before = log.history.bytes
    log.history.give_way(10_000)
    assert before - log.history.bytes >= 10_000
    kept = log.newest(CAR)
    assert kept == sent[-len(kept) :]
    assert len(kept) >= 90
    log.history.give_way(0)
    assert log.newest(CAR) == kept
    log.history.give_way(LARGE)
    assert len(log.history) == 0
    log.history.give_way(LARGE)
    assert log.since(CAR, sent[-1]) == []


def test_after_a_restart_it_takes_no_memory_and_proves_nothing_before() -> None:
    log = Log()
    for index in range(100):
        log.publish(b"%d" % index)
        log.now.time += 1
    log.history.trim(log.now())
    last = log.positions.last
    log.history.restart()
    assert (log.history.bytes, len(log.history), list(log.history.rooms())) == (0, 0, [])
    assert not log.history._forgotten
    assert log.since(b"99", last) is None
    assert log.since(b"99", log.positions.last) == []


def test_once_all_is_forgotten_only_the_positions_of_rooms_take_memory() -> None:
    log = Log()
    for index in range(100):
        log.publish(b"%d" % (index % 10), b"x")
    log.now.time = 60
    log.history.trim(60)
    assert log.history.bytes == log.history._forgotten_bytes == 11 * (module.FORGOTTEN_BYTES + 1)


# What a reload changes


def test_a_shorter_span_holds_at_once() -> None:
    log = Log()
    first = log.publish(CAR)
    log.now.time = 20
    second = log.publish(CAR, data=b"x" * 1000)
    log.history.apply(Span(20, LARGE), None, 20, longer=False)
    assert log.newest(CAR) == [second]
    assert log.since(CAR, first) == [second], "and nothing that can be proved is lost"
    log.history.apply(Span(20, 1000), None, 20, longer=False)
    assert log.newest(CAR) == []
    assert log.history.bytes <= 1000


def test_fewer_bytes_hold_at_once_for_what_is_known_of_quiet_rooms_too() -> None:
    log = Log()
    for index in range(1000):
        log.publish(b"%d" % index)
    log.now.time = 60
    log.history.trim(60)
    assert log.history.bytes > 100_000
    last = log.positions.last
    log.history.apply(Span(60, 10_000), None, 60, longer=False)
    assert log.history.bytes <= 10_000
    assert [log.since(b"0", 0), log.since(b"0", last - 999), log.since(b"999", last)] == [None, None, []]


@pytest.mark.parametrize("span", [OFF, Span(0, LARGE), Span(60, 0)])
def test_off_it_keeps_nothing_and_proves_nothing(span: Span) -> None:
    log = Log()
    position = log.publish(CAR)
    log.history.apply(span, None, 0.0, longer=False)
    assert (log.history.on, log.history.keeps(CAR), log.history.bytes, len(log.history)) == (False, False, 0, 0)
    assert log.since(CAR, position) is None
    assert log.newest(CAR) == []
    log.publish(CAR)
    assert (log.history.bytes, len(log.history)) == (0, 0)


@pytest.mark.parametrize("span", [OFF, Span(0, LARGE), Span(60, 0)])
def test_turned_on_again_it_proves_nothing_of_the_time_between(span: Span) -> None:
    log = Log()
    before = log.publish(CAR)
    log.history.apply(span, None, 0.0, longer=False)
    hole = log.positions.last = log.positions.next()
    log.history.apply(MINUTE, None, 0.0, longer=False)
    assert [log.since(CAR, position) for position in (before, hole)] == [None, None]
    assert log.since(CAR, log.positions.last) == []
    after = log.publish(CAR)
    assert log.since(CAR, after - 1) == [after]


@pytest.mark.parametrize("longer", [True, False])
def test_a_room_that_was_not_kept_proves_nothing_of_that_time(longer: bool) -> None:
    log = Log(MINUTE, {CAR: 0})
    start = log.positions.last
    hole = log.publish(CAR, RIDE)
    assert (log.history.keeps(CAR), log.since(CAR, start), log.newest(CAR)) == (False, None, [])
    assert log.since(RIDE, start) == [hole]
    assert log.publish(CAR) > hole
    assert len(log.history) == 1, "what is in no room that is kept is not kept"
    log.history.apply(MINUTE, seconds_of({CAR: 0} if not longer else {}), 0.0, longer=longer)
    assert log.since(CAR, start) is None
    assert log.since(CAR, log.positions.last) == ([] if longer else None)


def test_a_room_may_be_kept_for_less_than_others() -> None:
    log = Log(MINUTE, {CAR: 10})
    start = log.positions.last
    first = log.publish(CAR, RIDE)
    log.now.time = 5
    second = log.publish(CAR, RIDE)
    log.now.time = 9.9
    assert log.since(CAR, start) == log.newest(CAR) == [first, second]
    log.now.time = 10
    assert (log.since(CAR, start), log.newest(CAR)) == (None, [second])
    assert log.since(CAR, first) == [second]
    log.now.time = 15
    assert (log.since(CAR, first), log.since(CAR, second), log.newest(CAR)) == (None, [], [])
    assert log.since(RIDE, start) == log.newest(RIDE) == [first, second]


# Against a list

KEYS = [b"a", b"b", b"c", b"dd"]
SPANS = st.sampled_from(
    [Span(0, LARGE), Span(5, 0), Span(5, LARGE), Span(20, LARGE), Span(20, 3000), Span(20, 1000), Span(5, 300)]
)
SECONDS = st.none() | st.dictionaries(st.sampled_from(KEYS), st.sampled_from([0.0, 3.0, 10.0]))
SOME_KEYS = st.lists(st.sampled_from(KEYS), min_size=1, unique=True)


class Histories(RuleBasedStateMachine):
    """`all` is everything that was published since the start. What is kept is a tail of `added`, the rest of which is
    `forgotten`; both begin anew where there may be a hole.
    """

    @initialize(span=SPANS, seconds=SECONDS, rooms=st.sampled_from([1, 2, 3, 50]))
    def start(self, span: Span, seconds: dict[bytes, float] | None, rooms: int) -> None:
        self.known_rooms, self.module_rooms = rooms, module.FORGOTTEN_ROOMS
        module.FORGOTTEN_ROOMS = rooms  # type: ignore[misc]  # small, so that the bound is met
        self.log = Log(span, seconds)
        self.seconds = seconds or {}
        self.all: list[Kept] = []
        self.begin()

    def teardown(self) -> None:
        module.FORGOTTEN_ROOMS = self.module_rooms  # type: ignore[misc]

    def begin(self) -> None:
        """There may be a hole: nothing before is proved."""
        self.hole = self.log.positions.last
        self.added: list[Kept] = []
        self.forgotten = 0
        self.fell_out = self.hole
        self.quiet: dict[bytes, int] = {}

    @property
    def history(self) -> History:
        return self.log.history

    @property
    def kept(self) -> list[Kept]:
        return self.added[self.forgotten :]

    def keep_seconds(self, key: bytes) -> float:
        return self.seconds.get(key, float("inf"))

    def quiet_bytes(self) -> int:
        return sum(module.FORGOTTEN_BYTES + len(key) for key in self.quiet)

    def size(self) -> int:
        entries = sum(module.ENTRY_BYTES + len(kept.data) + module.PLACE_BYTES * len(kept.keys) for kept in self.kept)
        rooms = {key for kept in self.kept for key in kept.keys}
        return entries + sum(module.ROOM_BYTES + len(key) for key in rooms) + self.quiet_bytes()

    def forget(self) -> None:
        gone = self.kept[0]
        self.forgotten += 1
        for key in gone.keys:
            self.quiet.pop(key, None)
            self.quiet[key] = gone.position
            self.let_fall_out()

    def let_fall_out(self) -> None:
        while len(self.quiet) > self.known_rooms or self.quiet_bytes() > self.history.span.bytes // 4:
            self.fell_out = max(self.fell_out, self.quiet.pop(next(iter(self.quiet))))

    # What happens

    @rule(keys=SOME_KEYS, size=st.sampled_from([0, 1, 100, 1000, 4000]), later=st.sampled_from([0, 0, 0.5, 3]))
    def publish(self, keys: list[bytes], size: int, later: float) -> None:
        self.log.now.time += later
        self.log.wall.time += later - 0.1
        data = b"%d" % len(self.all) + b"x" * size
        position = self.log.publish(*keys, data=data)
        self.all.append(Kept(position, tuple(keys), data, self.log.now()))
        if not self.history.on:
            return
        in_rooms = tuple(key for key in keys if self.keep_seconds(key) > 0)
        if in_rooms:
            self.added.append(Kept(position, in_rooms, data, self.log.now()))
        while self.size() > self.history.span.bytes:
            self.forget()

    @rule(later=st.sampled_from([0, 1, 4, 20]))
    def trim(self, later: float) -> None:
        self.log.now.time += later
        self.history.trim(self.log.now())
        self.forget_old()

    def forget_old(self) -> None:
        while self.kept and self.kept[0].time <= self.log.now() - self.history.span.seconds:
            self.forget()

    @rule(size=st.integers(0, 3000))
    def give_way(self, size: int) -> None:
        self.history.give_way(size)
        wanted = self.size() - size
        while self.kept and self.size() > wanted:
            self.forget()

    @precondition(lambda self: len(self.added) > 5)  # or too little would ever be there to be asked for
    @rule()
    def restart(self) -> None:
        self.history.restart()
        self.begin()

    @precondition(lambda self: len(self.added) > 5 or not self.history.on)
    @rule(span=SPANS, seconds=SECONDS)
    def apply(self, span: Span, seconds: dict[bytes, float] | None) -> None:
        before, self.seconds, old = self.history.span, seconds or {}, self.seconds
        longer = any(self.keep_seconds(key) > old.get(key, float("inf")) for key in KEYS)
        self.history.apply(span, seconds_of(seconds), self.log.now(), longer=longer)
        if longer or not span.on or not before.on or span.seconds > before.seconds:
            self.begin()
        self.forget_old()
        self.let_fall_out()
        while self.kept and self.size() > span.bytes:
            self.forget()

    # What is promised

    def missed(self, key: bytes, position: int, until: int) -> list[Kept]:
        return [kept for kept in self.all if key in kept.keys and position < kept.position <= until]

    def provable(self, key: bytes, position: int) -> bool:
        return position >= max(self.hole, self.quiet.get(key, self.fell_out)) and self.history.keeps(key)

    def positions(self) -> set[int]:
        """Those that clients may come with, and where something changes."""
        told = {kept.position for kept in (*self.kept[:2], *self.all[-3:])} | {self.hole, self.log.positions.last}
        return told | {position - 1 for position in told}

    def check(self, key: bytes, position: int, until: int, most: int) -> None:
        found = self.history.since(key, position, self.log.now(), until=until, most=most)
        missed = self.missed(key, position, until)[: most + 1]
        after = self.log.now() - self.keep_seconds(key)
        if found is not None:
            assert [(entry[0], entry[3]) for entry in found] == [(kept.position, kept.data) for kept in missed]
            assert all(entry[4] > after for entry in found)
        elif self.provable(key, position):
            assert missed, "who missed nothing is never told to fetch"
            assert missed[0].time <= after

    @rule(key=st.sampled_from(KEYS), data=st.data(), most=st.sampled_from([0, 1, 2]))
    def ask(self, key: bytes, data: Any, most: int) -> None:
        known = st.sampled_from(sorted(self.positions()))
        self.check(key, data.draw(known), data.draw(known), most)

    @invariant()
    def whoever_comes_now_is_told_the_truth(self) -> None:
        if hasattr(self, "log"):
            for position in self.positions():
                for key in (*KEYS, b"never"):
                    self.check(key, position, self.log.positions.last, 1000)

    @rule(key=st.sampled_from([*KEYS, b"never"]), most=st.sampled_from([0, 1, 2, 1000]))
    def ask_for_the_newest(self, key: bytes, most: int) -> None:
        found = self.history.newest(key, self.log.now(), most=most)
        after = self.log.now() - self.keep_seconds(key)
        kept = [kept for kept in self.kept if key in kept.keys][-most - 1 :]
        assert [entry[0] for entry in found] == [each.position for each in kept if each.time > after]

    @invariant()
    def it_keeps_what_it_should_and_knows_its_bytes(self) -> None:
        if not hasattr(self, "log"):
            return
        assert len(self.history) == len(self.kept)
        assert self.history.oldest == (self.kept[0].time if self.kept else None)
        counts = {key: sum(key in kept.keys for kept in self.kept) for key in KEYS}
        assert dict(self.history.rooms()) == {key: count for key, count in counts.items() if count}
        assert self.history.bytes == self.size() <= self.history.span.bytes


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=40)


# What it takes


def publications(count: int, rooms: int, spread: int, size: int, target: str) -> Iterator[tuple[Any, Publication]]:
    """Yield rooms' keys and publications as triggers bring them: each a new object, left sides excepted."""
    for index in range(count):
        keys = [room_key({"target": target, "id": (index * spread + each) % rooms}) for each in range(spread)]
        yield keys, DIALECTS["2"].publication(b'{"n":%06d, "x": "%b"}' % (index, b"x" * size))


def taken_by(
    span: Span, count: int, rooms: int, *, spread: int = 1, size: int = 10, target: str = "car"
) -> tuple[int, History]:
    """Return what a history takes in memory, and the history; an entry comes each second."""
    gc.collect()
    tracemalloc.start(1)
    try:
        before, _ = tracemalloc.get_traced_memory()
        log = Log(span)
        for keys, publication in publications(count, rooms, spread, size, target):
            log.now.time += 1.0
            log.positions.last += 1000
            log.history.add(log.positions.last, keys, publication, log.now())
            log.history.trim(log.now())
        del keys, publication
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before, log.history
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("count", "rooms", "spread", "size", "target"),
    [
        pytest.param(4000, 1, 1, 10, "car", id="one hot room"),
        pytest.param(10_000, 10_000, 1, 10, "car", id="rooms of one entry"),
        pytest.param(2000, 100, 5, 10, "car", id="five rooms an entry"),
        pytest.param(1000, 5000, 5, 10, "car", id="five new rooms an entry"),
        pytest.param(500, 10, 1, 4000, "car", id="large data"),
        pytest.param(500, 500, 1, 10, "car" * 500, id="large rooms"),
    ],
)
def test_it_knows_what_its_entries_take(count: int, rooms: int, spread: int, size: int, target: str) -> None:
    taken, history = taken_by(Span(LARGE, LARGE), count, rooms, spread=spread, size=size, target=target)
    assert len(history) == count
    assert taken * 0.85 < history.bytes < taken * 1.15, (taken, history.bytes)


def test_it_knows_what_a_room_takes_of_which_much_is_forgotten() -> None:
    taken, history = taken_by(Span(2000, LARGE), 3990, 1)
    assert len(history) == 2000
    assert taken * 0.85 < history.bytes < taken * 1.15, (taken, history.bytes)


@pytest.mark.parametrize("size", [10, 1000])
@pytest.mark.parametrize("rooms", [50, 1500, 100_000])
def test_a_full_window_with_many_forgotten_rooms_takes_what_it_may(rooms: int, size: int) -> None:
    taken, history = taken_by(Span(LARGE, 500_000), 3000, rooms, size=size)
    assert history.bytes > 500_000 - 2000
    assert taken * 0.85 < history.bytes < taken * 1.15, (taken, history.bytes)


@pytest.mark.parametrize("rooms", [1000, 1500, 2500])
def test_rooms_that_are_quiet_take_no_more_than_is_counted(rooms: int) -> None:
    taken, history = taken_by(Span(1, LARGE), 3000, rooms)  # a dict's share of it depends on how full it is
    assert len(history) == 1
    assert taken * 0.85 < history.bytes < taken * 1.85, (taken, history.bytes)


def test_the_garbage_collector_does_not_look_at_entries() -> None:
    log = Log()
    for index in range(1000):
        log.publish(b"%d" % (index % 7), b"x")
    for _ in range(2):  # the first takes the keys of an entry off its lists, the second the entry
        gc.collect()
    entries: Sequence[Entry] = log.history.newest(b"x", 0.0, most=1000)
    assert len(entries) == 1000
    assert not any(gc.is_tracked(entry) or gc.is_tracked(entry[1]) for entry in entries)


def test_what_was_forgotten_is_held_by_nothing() -> None:
    log = Log()
    log.publish(CAR)
    for _ in range(CUT_ENTRIES - 2):
        log.publish(CAR, data=b"x" * 1000)
    log.now.time = 30
    for _ in range(CUT_ENTRIES * 2):
        log.publish(CAR)
    gc.collect()
    tracemalloc.start(1)
    log.history.trim(60)
    tracemalloc.stop()
    room = log.history._rooms[CAR]
    assert room.gone == CUT_ENTRIES - 1, "the list is not cut yet"
    assert {entry[3] for entry in room.entries} == {b"", b"0"}


@pytest.mark.parametrize("count", [CUT_ENTRIES - 1, CUT_ENTRIES, 1000])
def test_a_hot_room_does_not_grow_with_what_was_forgotten(count: int) -> None:
    log = Log(Span(count, LARGE))
    for _ in range(20 * count):
        log.now.time += 1
        log.publish(CAR)
        log.history.trim(log.now())
    room = log.history._rooms[CAR]
    assert len(room.entries) - room.gone == count
    assert room.gone <= count + CUT_ENTRIES
    assert log.newest(CAR) == [log.positions.last - count + 1 + index for index in range(count)]
