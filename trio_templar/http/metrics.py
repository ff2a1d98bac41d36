"""What `/metrics` says, family by family. The collector, the reference page and the dashboard come from this table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from trio_templar import __version__
from trio_templar.clients.statistics import Statistics
from trio_templar.counters import Distribution

PREFIX: Final = "trio_templar_"
MEMORY_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")

Labels = tuple[str, ...]
Sample = tuple[Labels, float]


class Scrape(NamedTuple):
    """What one scrape reads. `answers` counts those of the HTTP API, by path and status."""

    now: Statistics
    sent_bytes: int
    peak_bytes: int
    answers: Mapping[tuple[str, int], int]


class Family(NamedTuple):
    """One metric. `read` returns its samples (label values, value), or for a histogram its distribution.

    `title` and `unit` say how the dashboard shows it; without a title it does not.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[[Scrape], Any]
    labels: Labels = ()
    title: str = ""
    unit: Literal["short", "bytes", "s"] = "short"

    @property
    def full_name(self) -> str:
        """Its name as it is scraped; of a histogram, without `_bucket`, `_sum` and `_count`."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


def _one(read: Callable[[Scrape], float]) -> Callable[[Scrape], Iterable[Sample]]:
    return lambda scrape: [((), read(scrape))]


def _by(read: Callable[[Scrape], Mapping[Any, float]]) -> Callable[[Scrape], Iterable[Sample]]:
    def samples(scrape: Scrape) -> Iterable[Sample]:
        for key, value in sorted(read(scrape).items()):
            yield (key if isinstance(key, tuple) else (key,)), value

    return samples


def _deliveries(scrape: Scrape) -> Mapping[str, int]:
    return {"written": scrape.now.deliveries - scrape.now.queued, "queued": scrape.now.queued}


def _requests(scrape: Scrape) -> Mapping[Labels, int]:
    return {(path, str(status)): count for (path, status), count in scrape.answers.items()}


def _triggers(scrape: Scrape) -> Mapping[str, int]:
    return {str(status): count for (path, status), count in scrape.answers.items() if path == "/trigger"}


def resident_bytes() -> int:
    """Return the memory of this process as the kernel counts it; 0 where there is no /proc, as on macOS."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * MEMORY_PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def _memory(scrape: Scrape) -> Mapping[str, int]:
    now = scrape.now
    return {"used": now.memory_bytes, "soft": now.memory_soft_bytes, "hard": now.memory_hard_bytes}


FAMILIES: Final = (
    Family("info", "gauge", "Always 1; the label has the version.", _by(lambda _: {__version__: 1}), ("version",)),
    Family("connections", "gauge", "Clients connected now.", _one(lambda s: s.now.connections), title="Connections"),
    Family(
        "connections_opened",
        "counter",
        "Clients that were admitted and got a websocket.",
        _one(lambda s: s.now.opened),
        title="Opened",
    ),
    Family(
        "connections_closed",
        "counter",
        "Connections that ended, by close code; codes 3000 to 3999 are 3xxx, and 4000 to 4999 are 4xxx.",
        _by(lambda s: s.now.closed),
        ("code",),
        title="Closed",
    ),
    Family(
        "slow_closed",
        "counter",
        "Clients that were closed because they were too slow, by cause.",
        _by(lambda s: s.now.drops),
        ("cause",),
        title="Closed for being slow",
    ),
    Family(
        "handshakes_refused",
        "counter",
        "Clients that were refused a websocket, by cause.",
        _by(lambda s: s.now.refused),
        ("cause",),
        title="Refused",
    ),
    Family(
        "client_errors",
        "counter",
        "Error replies to clients, by message; room-not-found is a refused subscription.",
        _by(lambda s: s.now.client_errors),
        ("error",),
        title="Errors to clients",
    ),
    Family(
        "bootstraps",
        "counter",
        "Bootstrap calls, by outcome: admitted, refused, busy, unavailable, nonsense, or left (the client left).",
        _by(lambda s: s.now.bootstraps),
        ("status",),
        title="Bootstraps",
    ),
    Family(
        "bootstrap_seconds",
        "histogram",
        "Time that the API took to answer a bootstrap call.",
        lambda s: s.now.bootstrap_seconds,
        title="Bootstrap",
        unit="s",
    ),
    Family("rooms", "gauge", "Rooms that have a subscriber now.", _one(lambda s: s.now.rooms), title="Rooms"),
    Family("subscriptions", "gauge", "Subscriptions now.", _one(lambda s: s.now.subscriptions), title="Subscriptions"),
    Family(
        "triggers",
        "counter",
        "Triggers that were published; each item of an array and each line of a stream counts.",
        _one(lambda s: s.now.triggers),
        title="Triggers",
    ),
    Family(
        "trigger_requests",
        "counter",
        "Requests to /trigger/, by status.",
        _by(_triggers),
        ("status",),
        title="Trigger requests",
    ),
    Family(
        "http_requests",
        "counter",
        "Requests to the HTTP API, by path and status; `other` stands for all unknown paths.",
        _by(_requests),
        ("path", "status"),
        title="HTTP requests",
    ),
    Family(
        "publications",
        "counter",
        "Publications: a trigger counts once for each of its rooms that has a subscriber.",
        _one(lambda s: s.now.publications),
        title="Publications",
    ),
    Family(
        "deliveries",
        "counter",
        "Deliveries, one for each publication and subscription: written at once, or queued because a socket was full.",
        _by(_deliveries),
        ("how",),
        title="Deliveries",
    ),
    Family(
        "conflated",
        "counter",
        "Queued deliveries that a newer one replaced.",
        _one(lambda s: s.now.conflated),
        title="Conflated",
    ),
    Family(
        "dropped",
        "counter",
        "Queued deliveries that were given up, by the policy of their room.",
        _by(lambda s: s.now.dropped),
        ("policy",),
        title="Dropped",
    ),
    Family(
        "publication_seconds",
        "histogram",
        "Time from an accepted trigger to the last write to a client whose socket was free.",
        lambda s: s.now.publication_seconds,
        title="From trigger to the last write",
        unit="s",
    ),
    Family(
        "sent_bytes", "counter", "Bytes written to clients.", _one(lambda s: s.sent_bytes), title="Sent", unit="bytes"
    ),
    Family(
        "outbox_bytes",
        "gauge",
        "Bytes in all backlogs; shared bytes count for each client.",
        _one(lambda s: s.now.waiting_bytes),
        title="Waiting for clients",
        unit="bytes",
    ),
    Family(
        "outbox_peak_bytes",
        "gauge",
        "Largest backlog that one client ever had.",
        _one(lambda s: s.peak_bytes),
        title="Most for one client",
        unit="bytes",
    ),
    Family(
        "slow_connections",
        "gauge",
        "Clients that have a backlog now.",
        _one(lambda s: s.now.slow_connections),
        title="Clients that are behind",
    ),
    Family(
        "room_channel_bytes",
        "gauge",
        "Bytes of publications that wait for a pass over their room.",
        _one(lambda s: s.now.in_flight_bytes),
        title="Waiting in rooms",
        unit="bytes",
    ),
    Family(
        "memory_bytes",
        "gauge",
        "The budget: bytes used now, where shared bytes count once, and the two marks of --memory-bytes.",
        _by(_memory),
        ("mark",),
        title="Memory that waits",
        unit="bytes",
    ),
    Family(
        "history_bytes",
        "gauge",
        "Memory of what is kept for clients that come back; it gives way to what waits.",
        _one(lambda s: s.now.history_bytes),
        title="Memory of what is kept",
        unit="bytes",
    ),
    Family(
        "history_publications",
        "gauge",
        "Publications that are kept for clients that come back.",
        _one(lambda s: s.now.history_publications),
        title="Publications that are kept",
    ),
    Family(
        "history_span_seconds",
        "gauge",
        "Age of the oldest publication that is kept; 0 if there is none.",
        _one(lambda s: s.now.history_span_seconds),
        title="Age of what is kept",
        unit="s",
    ),
    Family(
        "recoveries",
        "counter",
        "Subscriptions that came back with a position, by outcome: recovered, unknown (not provable) or too large.",
        _by(lambda s: s.now.recoveries),
        ("outcome",),
        title="Subscriptions that come back",
    ),
    Family(
        "replayed",
        "counter",
        "Publications that clients which came back had missed, and got.",
        _one(lambda s: s.now.replayed),
        title="Sent to those that came back",
    ),
    Family(
        "resident_bytes",
        "gauge",
        "Memory of the process as the kernel counts it.",
        _one(lambda _: resident_bytes()),
        title="Memory of the process",
        unit="bytes",
    ),
    Family(
        "lag_seconds",
        "histogram",
        "How late a timer fires; everything waits this long while the event loop is busy.",
        lambda s: s.now.lag_seconds,
        title="Event loop lag",
        unit="s",
    ),
    Family(
        "draining",
        "gauge",
        "1 while the gateway drains and admits no client.",
        _one(lambda s: int(s.now.draining)),
        title="Draining",
    ),
)


def buckets(distribution: Distribution) -> list[tuple[str, float]]:
    """Return the cumulative buckets of `distribution` as Prometheus wants them."""
    bounds = [*map(str, distribution.bounds), "+Inf"]
    return list(zip(bounds, accumulate(distribution.counts), strict=True))
