"""Is a busy room felt elsewhere? A ping on another connection while a large room is published to at full speed.

N clients share a room, P publishers post to it as fast as they are answered, and one more client, in no room, sends
the message `ping` every few milliseconds: time until its `pong`, p50, p99 and maximum. `quiet` is the same with
nobody publishing. With --kept there are two gateways, measured in turn: one without history, and one whose history is
full, so that each publication makes it forget the oldest.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bench import options
from bench.load import Client, Load, connect
from bench.phase import Figures, Stopwatch, joined, publications, publish
from bench.process import pin_generator
from bench.publisher import Publication, Publisher
from bench.report import Column, Report
from bench.target import PATIENT, Target, gateway, trigger
from bench.wire import data_of, post, server_frame, text_frame
from trio_templar.core.history import ENTRY_BYTES

COLUMNS = (
    Column("pings", "pings", 0),
    Column("ping_p50_ms", "p50 ms", 2),
    Column("ping_p99_ms", "p99 ms", 2),
    Column("ping_max_ms", "max ms", 2),
    Column("deliveries_per_second", "deliveries/s", 0),
    Column("us_per_delivery", "CPU µs/delivery", 2),
    Column("generator_busy", "generator busy", 2),
)
_PAUSE_SECONDS = 0.005
_PING, _PONG = text_frame("ping"), server_frame(b"pong")
_FULL_ROOMS, _BATCH = 1000, 500


class Pinger:
    """Sends `ping` on a connection that has joined, a pause after each answer, and keeps how long each took."""

    def __init__(self, load: Load, client: Client) -> None:
        self.seconds: list[float] = []
        self._load = load
        self._sock = client.sock
        load.watch(client.sock, self._answered, urgent=True)
        self._ping()

    def stop(self) -> None:
        """Send no more."""
        self._load.forget(self._sock)

    def _ping(self) -> None:
        if self._sock.fileno() >= 0:
            self._sent = time.monotonic()
            self._sock.send(_PING)

    def _answered(self) -> None:
        if self._sock.recv(1024) == _PONG:
            self.seconds.append(time.monotonic() - self._sent)
            self._load.after(_PAUSE_SECONDS, self._ping)


def measure(target: Target, load: Load, room: int, publishers: list[Publisher], idle_seconds: float) -> Figures:
    """Ping while `publishers` have something to post to a `room` of that size (or, without any, for a while)."""
    alone = Client(load, target.websocket, target.script(0, None))
    connect(load, [alone], window=1)
    pinger = Pinger(load, alone)
    expected = room * sum(len(publisher.publications) for publisher in publishers)
    marks = load.marks
    with Stopwatch(target) as watch:
        if publishers:
            publish(load, publishers, expected)
        else:
            load.run_for(idle_seconds)
    pinger.stop()
    alone.close()
    seconds = sorted(pinger.seconds) or [float("nan")]
    return {
        **watch.figures(),
        "pings": len(pinger.seconds),
        "ping_p50_ms": seconds[len(seconds) // 2] * 1e3,
        "ping_p99_ms": seconds[int(0.99 * len(seconds))] * 1e3,
        "ping_max_ms": seconds[-1] * 1e3,
        "deliveries_per_second": (load.marks - marks) / watch.seconds,
        "us_per_delivery": watch.cpu.total / expected * 1e6 if expected else float("nan"),
        "lost": expected - (load.marks - marks),
    }


def fill(target: Target, megabytes: int, size: int) -> None:
    """Publish more than a history of `megabytes` keeps, to many rooms that nobody is in."""
    load = Load()
    numbers = range(0, megabytes * 2**20 // (ENTRY_BYTES + size), _BATCH)
    bodies = (
        ",".join(trigger(1 + each % _FULL_ROOMS, data_of(0, each, size)) for each in range(first, first + _BATCH))
        for first in numbers
    )
    requests = [Publication(post(target.trigger, "/trigger/", f"[{body}]".encode()), ()) for body in bodies]
    publisher = Publisher(load, target.trigger, requests)
    publish(load, [publisher], 0)
    assert publisher.statuses[200] == len(requests), publisher.statuses


@contextmanager
def crowded(args: argparse.Namespace) -> Iterator[list[tuple[str, Target, Load]]]:
    """Run the gateways that are compared, with a crowd in each; yield what is said of each, and the two."""
    kinds = {", no history": 0, f", {args.kept} MB kept": args.kept} if args.kept else {"": None}
    with ExitStack() as stack:
        found = []
        for said, megabytes in kinds.items():
            settings = {} if megabytes is None else {**PATIENT, "history_bytes": str(megabytes * 2**20)}
            started = gateway(args.clients + 1, same_request_id=args.same_request_id, settings=settings)
            target = stack.enter_context(started)
            if megabytes:
                fill(target, megabytes, args.size)
            load, _ = stack.enter_context(joined(target, [0] * args.clients, keep=False))
            found.append((said, target, load))
        yield found


def run(args: argparse.Namespace) -> Report:
    """Run quiet, then each number of publishers, `runs` times, with one crowd of clients."""
    pin_generator()
    report = Report("ping", vars(args), COLUMNS, args.runs * (1 + len(args.publishers)) * (2 if args.kept else 1))
    with crowded(args) as gateways:
        for number in range(args.runs + 1):
            for count in (0, *args.publishers):
                for said, target, load in gateways:
                    share = (args.triggers if number else 10) // max(1, count)
                    publishers = [
                        Publisher(load, target.trigger, publications(target, each, share, args.size))
                        for each in range(count if share else 0)
                    ]
                    figures = measure(target, load, args.clients, publishers, args.quiet_seconds)
                    if number:  # the first round is the warm-up
                        named = f"{args.clients} clients, {count} publishers" if count else "quiet"
                        report.add(named + said, figures)
    report.finish(args.json)
    return report


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__)
    options.add_crowd(parser, clients=10_000, triggers=400, publishers=(8,))
    parser.add_argument("--quiet-seconds", type=float, default=2.0, help="length of quiet (default %(default)s)")
    parser.add_argument("--kept", type=options.positive, metavar="MB", help="compare a full history with none")
    options.add_size(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
