"""One measured phase: clients join, publishers post, everything is delivered; and the figures of it."""

import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.check import check
from bench.load import Client, Load, connect
from bench.process import Cpu, core_busy_seconds
from bench.publisher import Publication, Publisher
from bench.target import Target, settle
from bench.wire import data_of

Figures = dict[str, Any]

# The generator is the bottleneck of a run in which its own core was busier than this.
BUSY = 0.9
# Something else ran on the core of the server for more than this part of the time: the run says less.
DISTURBED = 0.1
WINDOW = 128


class Stopwatch:
    """Wall time, CPU of the server, of others on its core, and of the generator, between `with` and its end."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def __enter__(self) -> "Stopwatch":
        gc.disable()  # the generator keeps millions of small objects; collecting them would show as latency
        self._core = core_busy_seconds()
        self._cpu, self._own, self._wall = self._target.cpu(), time.process_time(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._wall
        self.cpu: Cpu = self._target.cpu() - self._cpu
        self.others_busy = max(0.0, core_busy_seconds() - self._core - self.cpu.total) / self.seconds
        self.generator_busy = (time.process_time() - self._own) / self.seconds
        gc.enable()

    def figures(self) -> Figures:
        """Return what was measured, and whether something else than the server limited it."""
        return {
            "seconds": self.seconds,
            "cpu_user": self.cpu.user,
            "cpu_system": self.cpu.system,
            "server_busy": self.cpu.total / self.seconds,
            "others_busy": self.others_busy,
            "disturbed": self.others_busy > DISTURBED,
            "generator_busy": self.generator_busy,
            "generator_bound": self.generator_busy > BUSY,
        }


@contextmanager
def joined(target: Target, rooms: Sequence[int | None], *, keep: bool = True) -> Iterator[tuple[Load, list[Client]]]:
    """Connect one client for each of `rooms` (None: admitted only); on leaving, disconnect them all."""
    load = Load()
    clients = crowd(load, target, rooms, keep=keep)
    try:
        connect(load, clients, window=WINDOW)
        settle(target)
        yield load, clients
    finally:
        for client in clients:
            if client.joined:
                client.close()


def crowd(
    load: Load, target: Target, rooms: Sequence[int | None], *, keep: bool = True, first: int = 1
) -> list[Client]:
    """Return clients that have not connected yet, one for each of `rooms`; `first` numbers their cookies."""
    return [
        Client(load, target.websocket, target.script(number, room), room or 0, keep=keep)
        for number, room in enumerate(rooms, first)
    ]


def publications(target: Target, publisher: int, count: int, size: int, rooms: int = 1) -> list[Publication]:
    """Prepare single POSTs to the rooms in turn."""
    return [
        Publication(
            target.request(number % rooms, data_of(publisher, number, size)),
            (f"{publisher:02d}-{number:06d}",),
            number % rooms,
        )
        for number in range(count)
    ]


def publish(load: Load, publishers: Iterable[Publisher], expected: int, patience_seconds: float = 10.0) -> None:
    """Start the publishers; return when all is answered and `expected` publications have arrived, or none comes."""
    crowd = list(publishers)
    goal = load.marks + expected
    for publisher in crowd:
        publisher.start()
    load.run_until(lambda: load.marks >= goal and all(publisher.done for publisher in crowd), patience_seconds)
    for publisher in crowd:
        publisher.close()


def one_room(target: Target, load: Load, clients: list[Client], publishers: int, triggers: int, size: int) -> Figures:
    """Publish `triggers` publications to the room all `clients` are in, `publishers` at once, and judge the result."""
    shares = [triggers // publishers + (number < triggers % publishers) for number in range(publishers)]
    prepared = [publications(target, number, share, size) for number, share in enumerate(shares) if share]
    posting = [Publisher(load, target.trigger, some) for some in prepared]
    with Stopwatch(target) as watch:
        publish(load, posting, triggers * len(clients))
    return {**watch.figures(), **delivered(watch, clients, posting)}


def delivered(watch: Stopwatch, clients: list[Client], publishers: list[Publisher]) -> Figures:
    """Return the figures of the deliveries of a phase, and forget what was received."""
    verdict = check(clients, [one for publisher in publishers for one in publisher.publications])
    for client in clients:
        client.clear()
    count = len(verdict.latencies)
    seconds, cpu = watch.seconds, watch.cpu
    return {
        "deliveries": count,
        "us_per_delivery": _per(cpu.total * 1e6, count),
        "us_user": _per(cpu.user * 1e6, count),
        "us_system": _per(cpu.system * 1e6, count),
        "deliveries_per_second": count / seconds,
        "deliveries_per_cpu_second": _per(count, cpu.total),
        "p50_ms": verdict.quantile(0.5) * 1e3,
        "p99_ms": verdict.quantile(0.99) * 1e3,
        "max_ms": verdict.quantile(1.0) * 1e3,
        "frame_bytes": verdict.frame_bytes,
        "lost": verdict.lost,
        "duplicated": verdict.duplicated,
        "disordered": verdict.disordered,
        "strange": verdict.strange,
        "refused_posts": sum(
            count for one in publishers for status, count in one.statuses.items() if not 200 <= status < 300
        ),
    }


def _per(amount: float, count: float) -> float:
    return amount / count if count else float("nan")
