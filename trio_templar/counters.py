"""Plain numbers that only grow, and histograms. They stand on the path of a message, so counting is `+= 1`. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

# Upper bounds of the histograms, in seconds.
DELIVERY_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BOOTSTRAP_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Close codes that the protocol names. The others are counted by their thousand: clients can send thousands of
# them, and each would be a series in the metrics for good.
NAMED_CODES: Final = frozenset(range(1000, 1016))


class Distribution(NamedTuple):
    """What a histogram had counted at one moment: `counts` for each of `bounds`, and one for what took longer."""

    bounds: Sequence[float]
    counts: Sequence[int]
    seconds: float


class Histogram:
    """How often something took how long. `counts` has one number for each of `bounds`, and one for what took longer."""

    __slots__ = ("bounds", "counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count something that took `seconds`, so many `times`."""
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.seconds += seconds * times

    def now(self) -> Distribution:
        """Return what it has counted until now."""
        return Distribution(self.bounds, tuple(self.counts), self.seconds)


class ConnectionCounts:
    """What became of the connections of a gateway."""

    __slots__ = ("closed", "errors", "opened", "peak_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.opened = 0
        self.closed: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()  # of replies, by their code
        self.sent_bytes = 0  # to connections that are closed
        self.peak_bytes = 0  # the largest backlog that one of them had

    def close(self, code: int, sent_bytes: int, peak_bytes: int) -> None:
        """Count a connection that ended."""
        self.closed[str(code) if code in NAMED_CODES else f"{code // 1000}xxx"] += 1
        self.sent_bytes += sent_bytes
        self.peak_bytes = max(self.peak_bytes, peak_bytes)
