"""How late timers fire: the time that each task loses when the event loop is busy."""

from __future__ import annotations

from typing import Final, NoReturn

import trio

from trio_templar.clock import RunningClock
from trio_templar.counters import LAG_BOUNDS, Histogram

# How often to look.
LOOK_SECONDS: Final = 0.25


class Lag:
    """Sets a timer again and again, and measures how late it fires, also by time that a `RunningClock` leaves out."""

    def __init__(self) -> None:
        clock = trio.lowlevel.current_clock()
        self._real = clock.real if isinstance(clock, RunningClock) else clock.current_time
        self.histogram = Histogram(LAG_BOUNDS)

    async def lag_loop(self) -> NoReturn:
        """Measure until cancelled."""
        while True:
            due = self._real() + LOOK_SECONDS
            await trio.sleep(LOOK_SECONDS)
            self.histogram.observe(max(0.0, self._real() - due))
