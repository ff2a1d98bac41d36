"""The budget: shared bytes count once, and each mark wakes who waits for it."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.conftest import settled
from trio_templar.delivery.budget import Budget


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_what_is_held_counts_once_until_nobody_holds_it(steps: list[tuple[int, bool]]) -> None:
    budget = Budget(1000)
    shared = [b"a" * size for size in (1, 20, 300, 4000)]
    held = [0, 0, 0, 0]
    for index, more in steps:
        if more:
            budget.hold(shared[index])
            held[index] += 1
        elif held[index]:
            budget.release(shared[index])
            held[index] -= 1
        assert budget.used_bytes == sum(len(data) for data, count in zip(shared, held, strict=True) if count)


def test_publications_fit_up_to_half_of_it() -> None:
    budget = Budget(1000)
    assert (budget.fits(500), budget.fits(501)) == (True, False)
    budget.take(100)
    assert (budget.fits(400), budget.fits(401)) == (True, False)


async def test_waiting_publishers_are_woken_when_there_is_room_and_not_before() -> None:
    budget = Budget(1000)
    budget.take(700)
    woken: list[int] = []

    async def publisher(number: int) -> None:
        await budget.publishers.wait()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(publisher, number)
            await settled()
        budget.give(199)
        await settled()
        assert woken == []
        budget.give(1)
        await settled()
        assert woken == [0, 1], "the second is woken by the first"


async def test_the_alarm_rings_above_the_mark() -> None:
    budget = Budget(1000)
    rung = False

    async def listen() -> None:
        nonlocal rung
        await budget.alarm.park()
        rung = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await settled()
        budget.take(1000)
        await settled()
        assert not rung
        budget.take(1)
    assert rung
