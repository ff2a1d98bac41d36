"""Time that stands still while this process does not run.

After a SIGSTOP, or on a machine that was suspended, every deadline would have passed although no peer is at fault. Time
in which the process was busy, as its CPU time shows, counts: a gateway with too much to do must not get more patient.
In a process of our own, time that does not count is left out for everything that runs on Trio (`RunningClock`). Inside
another program's Trio the supervisor forgives it to the clients that are connected (`Clock`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import trio

logger = logging.getLogger("trio_templar.clock")

# Nothing we do on purpose takes so long without a look at the clock; a longer gap is time without running.
GRACE_SECONDS: Final = 1.0
# How often to ask for the CPU time: it is a system call, and Trio asks for the time on every turn. So work is known
# up to this much, which is little beside GRACE_SECONDS.
SAMPLE_SECONDS: Final = 0.1


class Clock:
    """Trio's time without the seconds that were forgiven."""

    __slots__ = ("_forgiven",)

    def __init__(self) -> None:
        self._forgiven = 0.0

    def now(self) -> float:
        """Return the time in seconds, which compares only with other times of this clock."""
        return trio.current_time() - self._forgiven

    def forgive(self, seconds: float) -> None:
        """Take `seconds` that have passed out of this clock's time: it goes back by so much."""
        self._forgiven += seconds


def utc(seconds_ago: float) -> str:
    """Return the time of day `seconds_ago`, as ISO 8601 in UTC."""
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(timespec="milliseconds")


class RunningClock(trio.abc.Clock):
    """A clock for `trio.run`. It leaves out time that passes beyond what Trio meant to sleep, and logs how much."""

    def __init__(
        self, real: Callable[[], float] = time.perf_counter, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self.real = real
        self._cpu = cpu
        self._looked = self._sampled = real()
        self._worked = cpu()
        self._left_out = self._looked
        self._asleep = 0.0

    def start_clock(self) -> None:
        """Start at 0."""
        self._looked = self._left_out = self._sampled = self.real()
        self._worked = self._cpu()

    def current_time(self) -> float:
        """Return the seconds since the start in which the process ran, or slept because Trio meant to."""
        now = self.real()
        if now - self._looked - self._asleep > GRACE_SECONDS:
            self._leave_out(now)
        if now - self._sampled > SAMPLE_SECONDS:
            self._sampled, self._worked = now, self._cpu()
        self._looked, self._asleep = now, 0.0
        return now - self._left_out

    def _leave_out(self, now: float) -> None:
        """Leave out the time since the last look, but not what was sleep on purpose or work."""
        missed = now - self._looked - max(self._asleep, self._cpu() - self._worked)
        if missed > GRACE_SECONDS:
            self._left_out += missed
            logger.warning("did not run for %.1f s; all deadlines are put off as long", missed)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long to sleep until `deadline`, and allow that much time until the next look."""
        seconds = deadline - self.current_time()
        self._asleep = max(0.0, seconds)
        return seconds
