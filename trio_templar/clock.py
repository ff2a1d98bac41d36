"""The time that peers are judged by: it stands still while this process did not run.

After a SIGSTOP, a suspended machine or a long collection every deadline would be over, and nobody is at fault.
"""

from __future__ import annotations

import trio


class Clock:
    """Trio's time without the time that was forgiven. Seconds."""

    __slots__ = ("_forgiven",)

    def __init__(self) -> None:
        self._forgiven = 0.0

    def now(self) -> float:
        """Return the time, to be compared with other times of this clock alone."""
        return trio.current_time() - self._forgiven

    def forgive(self, seconds: float) -> None:
        """Let `seconds` that are over not have been."""
        self._forgiven += seconds
