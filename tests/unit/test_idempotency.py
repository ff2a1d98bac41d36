"""Keys of publishers: once published is published, and only so long and so many are remembered."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import Now, settled
from trio_templar.delivery.idempotency import ENTRY_BYTES, Claim, IdempotencyCache, KeyReused, claim

ONE = claim("one", [b"content"])
OTHER = claim("one", [b"other content"])


def cache(
    now: Now | None = None, *, seconds: float = 10, entries: int = 100, size: int = 10**6
) -> IdempotencyCache[str]:
    return IdempotencyCache(seconds=seconds, max_entries=entries, max_bytes=size, now=now or Now())


def test_contents_are_told_apart_by_their_pieces() -> None:
    assert claim("k", [b"ab", b"c"]) != claim("k", [b"a", b"bc"])
    assert claim("k", [b"ab"]) == claim("k", [b"ab"])


async def test_a_new_key_is_unknown_and_then_answered() -> None:
    answers = cache()
    assert await answers.known([ONE]) == [None]
    with answers.under_way([ONE]):
        answers.remember(ONE, "first", 5)
    assert await answers.known([ONE]) == ["first"]


async def test_the_same_key_with_something_else_is_refused() -> None:
    answers = cache()
    answers.remember(ONE, "first", 5)
    with pytest.raises(KeyReused, match="'one'"):
        await answers.known([OTHER])


async def test_also_while_the_first_is_under_way() -> None:
    answers = cache()
    with answers.under_way([ONE]), pytest.raises(KeyReused):
        await answers.known([OTHER])


async def test_who_comes_while_the_first_is_under_way_waits_for_its_answer(autojump_clock: MockClock) -> None:
    answers = cache()
    found: list[list[str | None]] = []

    async def ask() -> None:
        found.append(await answers.known([ONE]))

    async with trio.open_nursery() as nursery:
        with answers.under_way([ONE]):
            nursery.start_soon(ask)
            await settled()
            assert found == []
            answers.remember(ONE, "first", 5)
    assert found == [["first"]]


async def test_a_failure_is_not_remembered_and_the_next_is_a_first_one() -> None:
    answers = cache()
    found: list[list[str | None]] = []

    async def ask() -> None:
        found.append(await answers.known([ONE]))

    async with trio.open_nursery() as nursery:
        with suppress(ValueError), answers.under_way([ONE]):
            nursery.start_soon(ask)
            await settled()
            raise ValueError
    assert found == [[None]]


async def test_an_answer_is_forgotten_when_its_time_is_over() -> None:
    now = Now()
    answers = cache(now, seconds=10)
    answers.remember(ONE, "first", 5)
    now.time = 9.9
    assert await answers.known([ONE]) == ["first"]
    now.time = 10
    assert await answers.known([ONE]) == [None]
    assert (len(answers), answers.bytes) == (0, 0)


async def test_the_oldest_is_forgotten_when_there_are_too_many_or_they_are_too_large() -> None:
    for answers in (cache(entries=2), cache(size=2 * (ENTRY_BYTES + 1 + 10))):
        claims = [claim(name, []) for name in "abc"]
        for each in claims:
            answers.remember(each, each.key, 10)
        assert await answers.known(claims) == [None, "b", "c"]
        assert len(answers) == 2


async def test_an_answer_larger_than_all_that_may_be_kept_is_not_kept() -> None:
    answers = cache(size=100)
    answers.remember(ONE, "first", 101)
    assert (len(answers), answers.bytes) == (0, 0)


async def test_remembering_a_key_again_counts_its_bytes_once() -> None:
    answers = cache()
    for size in (5, 50):
        answers.remember(Claim("k", b""), "x", size)
    assert answers.bytes == 50 + 1 + ENTRY_BYTES
