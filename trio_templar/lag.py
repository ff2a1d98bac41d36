"""How late timers fire: what everybody waits for when the event loop is busy."""

from __future__ import annotations

from typing import Final, NoReturn

import trio

from trio_templar.counters import LAG_BOUNDS, Histogram

# How often to look.
LOOK_SECONDS: Final = 0.25


class Lag:
    """Sets a timer again and again, and sees how late it is."""

    def __init__(self) -> None:
        self.histogram = Histogram(LAG_BOUNDS)

    async def lag_loop(self) -> NoReturn:
        """Look, for ever."""
        while True:
            due = trio.current_time() + LOOK_SECONDS
            await trio.sleep_until(due)
            self.histogram.observe(max(0.0, trio.current_time() - due))
