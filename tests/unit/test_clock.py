"""The clock that peers are judged by."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import Now
from trio_templar.clock import GRACE_SECONDS, Clock, RunningClock


async def test_it_goes_as_trios_does_but_for_what_was_forgiven(autojump_clock: MockClock) -> None:
    clock = Clock()
    await trio.sleep(5)
    assert clock.now() == 5
    clock.forgive(3)
    assert clock.now() == 2
    await trio.sleep(1)
    assert clock.now() == 3


def started(real: Now) -> RunningClock:
    real.time = 100
    clock = RunningClock(real, Now())
    real.time = 500
    clock.start_clock()
    return clock


def test_a_running_clock_starts_at_nought_and_goes_as_the_real_one() -> None:
    real = Now()
    clock = started(real)
    assert clock.current_time() == 0
    for _ in range(100):
        real.time += GRACE_SECONDS
        clock.current_time()
    assert clock.current_time() == 100 * GRACE_SECONDS


def test_sleep_on_purpose_counts_however_long() -> None:
    real = Now()
    clock = started(real)
    assert clock.deadline_to_sleep_time(3600) == 3600
    real.time += 3600
    assert clock.current_time() == 3600


def test_time_beyond_the_sleep_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    real = Now()
    clock = started(real)
    assert clock.deadline_to_sleep_time(2) == 2
    real.time += 62
    assert clock.current_time() == 2
    real.time += 1
    assert clock.current_time() == 3
    assert [record.getMessage() for record in caplog.records] == [
        "did not run for 60.0 s; all deadlines are put off as long"
    ]


def test_a_sleep_that_was_cut_short_earns_nothing() -> None:
    real = Now()
    clock = started(real)
    clock.deadline_to_sleep_time(3600)
    real.time += 1  # something was readable
    assert clock.current_time() == 1
    real.time += 3600
    assert clock.current_time() == 1


def test_a_deadline_that_is_over_is_no_sleep() -> None:
    real = Now()
    clock = started(real)
    assert clock.deadline_to_sleep_time(-5) == -5
    real.time += 10
    assert clock.current_time() == 0


def test_trio_runs_on_it() -> None:
    async def main() -> float:
        begin = trio.current_time()
        with trio.move_on_after(0.01):
            await trio.sleep_forever()
        return trio.current_time() - begin

    assert 0.01 <= trio.run(main, clock=RunningClock()) < GRACE_SECONDS


def test_work_is_no_time_that_is_left_out() -> None:
    real, cpu = Now(), Now()
    clock = RunningClock(real, cpu)
    clock.start_clock()
    real.time, cpu.time = 60, 59.5
    assert clock.current_time() == 60
    real.time, cpu.time = 120, 79.5
    assert clock.current_time() == 80
