"""What is kept of a room, page by page: nothing twice, nothing left out, and never more than is wanted."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.conftest import CAR, RIDE, Now, json_values
from trio_templar import Forgotten, NotFound, RequestError
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.history import OFF, History, Span
from trio_templar.core.policies import Policies, RoomPolicy
from trio_templar.core.position import Positions, is_token
from trio_templar.core.room_history import ANSWER_BYTES, MAX_LIMIT, KeptPublication, RoomHistories, RoomHistory
from trio_templar.core.rooms import room_key

MINUTE = Span(60, 100_000_000)


class Log:
    """A history that is published to, and is asked; its clock stands until a test says so."""

    def __init__(self, dialect: Any = "2", span: Span = MINUTE, *policies: RoomPolicy) -> None:
        self.now = Now()
        self.positions = Positions(b"e", Now())
        self.history = History(self.positions, span, Policies(policies, 10**6).history_seconds)
        self._dialect = DIALECTS[dialect]
        self._histories = RoomHistories(self.history, self._dialect, self.now)

    @property
    def at(self) -> str:
        return self.positions.token(self.positions.last)

    def publish(self, room: Any, data: Any) -> str:
        """Publish `data`, which is JSON already if it is bytes; return the position."""
        text = data if isinstance(data, bytes) else json.dumps(data).encode()
        position = self.positions.next()
        self.history.add(position, [room_key(room)], self._dialect.publication(text), self.now())
        return self.at

    def ask(self, room: Any = CAR, since: str | None = None, limit: int = 100) -> RoomHistory:
        return self._histories.of(room_key(room), since, limit)


def data(found: RoomHistory) -> list[Any]:
    return [msgspec.json.decode(publication.data) for publication in found.publications]


@pytest.mark.parametrize("dialect", ["2", "3"])
def test_the_newest_come_in_order_with_their_positions_and_the_bytes_that_were_published(dialect: str) -> None:
    log = Log(dialect)
    first = log.publish(CAR, b'{"a" :\n 1e999}')
    log.publish(RIDE, 2)
    third = log.publish(CAR, b'"\xc3\xa9"')
    here = log.publish(RIDE, 4)
    assert log.ask() == RoomHistory(
        [
            KeptPublication(first, msgspec.Raw(b'{"a" :\n 1e999}')),
            KeptPublication(third, msgspec.Raw(b'"\xc3\xa9"')),
        ],
        here,
        more=False,
    )


def test_of_a_room_in_which_nothing_was_said_there_is_nothing_and_a_position() -> None:
    log = Log()
    log.publish(RIDE, 1)
    assert log.ask() == RoomHistory([], log.at, more=False)
    assert log.ask(since=log.at) == RoomHistory([], log.at, more=False)


def test_without_a_position_it_is_said_whether_older_ones_are_left_out() -> None:
    log = Log()
    for number in range(5):
        log.publish(CAR, number)
    log.publish(RIDE, 0)
    assert (data(log.ask(limit=4)), log.ask(limit=4).more) == ([1, 2, 3, 4], True)
    assert (data(log.ask(limit=5)), log.ask(limit=5).more) == ([0, 1, 2, 3, 4], False)
    assert log.ask(limit=4).at == log.at, "nothing came behind them"


def test_behind_a_position_the_oldest_come_first_and_the_next_question_goes_on() -> None:
    log = Log()
    start = log.at
    sent = [log.publish(CAR, number) for number in range(5)]
    log.publish(RIDE, 0)
    page = log.ask(since=start, limit=2)
    assert (data(page), page.more, page.at) == ([0, 1], True, sent[1])
    page = log.ask(since=page.at, limit=3)
    assert (data(page), page.more, page.at) == ([2, 3, 4], False, log.at)


@given(st.data(), st.sampled_from(["2", "3"]), st.lists(st.tuples(st.sampled_from([CAR, RIDE]), json_values)))
def test_whoever_asks_on_gets_each_publication_once(choose: st.DataObject, dialect: str, said: Any) -> None:
    log = Log(dialect)
    at = log.at
    heard: list[Any] = []
    for room, value in said:
        log.publish(room, value)
        while choose.draw(st.booleans()):
            page = log.ask(since=at, limit=choose.draw(st.integers(1, 3)))
            at, heard = page.at, heard + data(page)
    page = log.ask(since=at, limit=MAX_LIMIT)
    assert heard + data(page) == [value for room, value in said if room == CAR]
    assert data(log.ask(limit=MAX_LIMIT)) == [value for room, value in said if room == CAR]


def test_long_publications_make_a_page_shorter_but_never_empty() -> None:
    log = Log()
    at = start = log.at
    long = "x" * (ANSWER_BYTES // 3)
    for number in range(7):
        log.publish(CAR, [number, long])
    newest = log.ask()
    assert ([number for number, _ in data(newest)], newest.more, newest.at) == ([4, 5, 6], True, log.at)
    pages = []
    more = True
    while more:
        page = log.ask(since=at)
        at, more = page.at, page.more
        pages.append([number for number, _ in data(page)])
    assert pages == [[0, 1, 2], [3, 4, 5], [6]]
    log.publish(CAR, "x" * ANSWER_BYTES)
    assert len(log.ask(since=start).publications) == 3
    assert len(log.ask().publications) == 1


def test_a_position_that_proves_nothing_is_answered_by_where_to_go_on() -> None:
    log, other = Log(), Log()
    other.positions.epoch = b"f"
    start = log.at
    log.publish(CAR, 1)
    for since in (other.at, "e.ffffffffffff", "e.1.2", "0.0", "k3f9.mix2q1a0.4", "e.01"):
        with pytest.raises(Forgotten) as caught:
            log.ask(since=since)
        assert (caught.value.at, caught.value.status) == (log.at, 410)
    log.now.time = 100
    log.history.trim(100)
    with pytest.raises(Forgotten, match="go on from"):
        log.ask(since=start)
    assert log.ask(since=log.at).publications == []
    assert log.ask(RIDE, since=start).publications == [], "a quiet room is known for ever"
    assert data(log.ask()) == []


@pytest.mark.parametrize(
    "since",
    ["", "null", "undefined", "5", "-1", "e", "e.", ".5", "e.5 ", " e.5", "E.5", "e.5\n", "é.5", "e..5", "e.-5"],
)
def test_what_can_be_no_position_is_a_mistake_of_the_caller(since: str) -> None:
    with pytest.raises(RequestError, match=r"^since: not a position") as caught:
        Log().ask(since=since)
    assert type(caught.value) is RequestError


def test_a_text_that_is_too_long_for_a_position_is_none() -> None:
    assert is_token("e." + "5" * 98)
    assert not is_token("e." + "5" * 99)
    with pytest.raises(RequestError):
        Log().ask(since="e." * 500_000)


@given(st.binary(min_size=1, max_size=12).map(lambda epoch: epoch.hex().encode()), st.integers(0, 2**63))
def test_what_a_gateway_says_is_a_position(epoch: bytes, position: int) -> None:
    assert is_token(Positions(epoch).token(position))


@pytest.mark.parametrize("limit", [-1, 0, MAX_LIMIT + 1, 2**70])
def test_a_limit_is_1_to_1000(limit: int) -> None:
    with pytest.raises(RequestError, match=r"^limit: expected 1 to 1000$"):
        Log().ask(limit=limit)


def test_where_nothing_is_kept_it_is_said_why() -> None:
    log = Log("2", MINUTE, RoomPolicy(match=CAR, history=False))
    log.publish(CAR, 1)
    with pytest.raises(NotFound, match="history = false"):
        log.ask()
    assert log.ask(RIDE).publications == []
    with pytest.raises(NotFound, match="history_seconds or history_bytes is 0"):
        Log("2", OFF).ask(since="e.0")


def test_a_room_that_is_kept_for_less_forgets_sooner() -> None:
    log = Log("2", MINUTE, RoomPolicy(match=CAR, history_seconds=10))
    start = log.at
    log.publish(CAR, 1)
    log.now.time = 9
    last = log.publish(CAR, 2)
    assert data(log.ask(since=start)) == [1, 2]
    log.now.time = 11
    assert data(log.ask()) == [2]
    assert not log.ask(limit=1).more
    with pytest.raises(Forgotten):
        log.ask(since=start)
    assert log.ask(since=last).publications == []
