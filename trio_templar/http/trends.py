"""`GET /trends`: the last ten minutes, sample by sample. What the dashboard's charts are drawn from.

Kept here and not in the page: an operator who opens it because something is wrong sees what came before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Final, NoReturn

import msgspec
import trio
from msgspec import Meta

from trio_templar.clients.statistics import Statistics
from trio_templar.http.app import Request, Response, Routes, json_answer, route_of
from trio_templar.http.input import read_query

# The last ten minutes, in steps that are short enough to show a burst.
SAMPLE_SECONDS: Final = 2.0
SAMPLES: Final = 300


@dataclass(frozen=True, slots=True)
class _Sample:
    """What is so at the time `at`, and what happened since the sample before, a second."""

    at: float
    connections: int
    waiting_bytes: int
    triggers: float
    publications: float
    deliveries: float
    p50_seconds: float | None
    p99_seconds: float | None


# The columns of the answer. Instead of `at` it has `seconds_ago`: a caller has another clock.
_COLUMNS: Final = tuple(field for field in _Sample.__dataclass_fields__ if field != "at")


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    after: Annotated[int, Meta(ge=0, le=2**53)] = 0


class Trends:
    """Samples of the numbers that `look` returns, from now on; the last SAMPLES of them are kept."""

    def __init__(self, look: Callable[[], Statistics]) -> None:
        self._look = look
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES)
        self._taken = 0
        self._last = look()
        self._at = self._since = trio.current_time()

    async def trends_loop(self) -> NoReturn:
        """Take samples until cancelled."""
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            self.take()

    def take(self) -> None:
        """Take a sample. Must not be called twice at the same time: rates are by the seconds between."""
        at, now, last = trio.current_time(), self._look(), self._last
        seconds = at - self._at
        bounds, before = now.publication_seconds.bounds, last.publication_seconds.counts
        fresh = [count - known for count, known in zip(now.publication_seconds.counts, before, strict=True)]
        sample = _Sample(
            at=at,
            connections=now.connections,
            waiting_bytes=now.waiting_bytes,
            triggers=round((now.triggers - last.triggers) / seconds, 3),
            publications=round((now.publications - last.publications) / seconds, 3),
            deliveries=round((now.deliveries - last.deliveries) / seconds, 3),
            p50_seconds=quantile(0.5, bounds, fresh),
            p99_seconds=quantile(0.99, bounds, fresh),
        )
        self._samples.append(sample)
        self._taken += 1
        self._at, self._last = at, now

    def routes(self) -> Routes:
        """Return its route for `HttpApi.routes`."""
        return route_of("GET", "/trends", self.trends)

    async def trends(self, request: Request) -> Response:
        """`GET /trends`: the samples with a number over `after`, as columns; `next` is the `after` to go on with."""
        await trio.lowlevel.checkpoint()
        return json_answer(self.view(read_query(request, _Query).after))

    def view(self, after: int) -> Mapping[str, Any]:
        """Return what `/trends` answers."""
        now = trio.current_time()
        first = self._taken - len(self._samples)
        samples = list(self._samples)[max(0, after - first) :]
        columns: dict[str, list[Any]] = {name: [getattr(sample, name) for sample in samples] for name in _COLUMNS}
        columns["seconds_ago"] = [round(now - sample.at, 3) for sample in samples]
        return {"uptime_seconds": round(now - self._since, 3), "next": self._taken, "samples": columns}


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """Return below which value `share` of what was counted lies: straight between two bounds, None if nothing was.

    `counts` has one for each of `bounds` (what is at most that, and over the one before) and one for more than all.
    What is more than all is said to be the last bound.
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    below = 0
    for (lower, upper), count in zip(pairwise((0.0, *bounds)), counts, strict=False):
        if below + count >= wanted:
            return lower + (upper - lower) * (wanted - below) / count
        below += count
    return float(bounds[-1])
