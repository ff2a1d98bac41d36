"""Do slow clients cost the others anything?

N clients in one room, publications of 4 kB on a schedule; once all read, once a tenth of them stops reading before the
first. p99 of the healthy with slow ones, and divided by that of the run just before without; what the healthy lost (0
is the only good answer); how many slow ones the server has cut by the end; RSS at start, highest, and at the end. The
JSON file has RSS over time.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial

from bench import options
from bench.load import Client, Load
from bench.phase import Figures, Stopwatch, delivered, joined, publications, publish
from bench.process import pin_generator
from bench.publisher import Publisher
from bench.report import Column, Report
from bench.target import Target, gateway

COLUMNS = (
    Column("p50_ms", "p50 ms", 2),
    Column("p99_ms", "p99 ms", 2),
    Column("max_ms", "max ms", 2),
    Column("x_healthy", "x p99 without slow", 2),
    Column("lost", "lost", 0),
    Column("cut", "slow cut", 0),
    Column("us_per_delivery", "CPU µs/delivery", 2),
    Column("rss_first_mb", "MB first"),
    Column("rss_top_mb", "MB top"),
    Column("rss_last_mb", "MB last"),
    Column("generator_busy", "generator busy", 2),
)
_SAMPLE_SECONDS = 0.25


def measure(target: Target, clients: int, slow: int, args: argparse.Namespace) -> Figures:
    """Publish on schedule to a room in which `slow` of the clients do not read."""
    with joined(target, [0] * clients) as (load, everyone):
        stalled, healthy = everyone[:slow], everyone[slow:]
        for client in stalled:
            client.stall()
        rss: list[tuple[float, float]] = []
        _sample(load, target, rss, time.monotonic())
        prepared = publications(target, 0, args.triggers, args.size)
        publisher = Publisher(load, target.trigger, prepared, 1 / args.rate)
        with Stopwatch(target) as watch:
            publish(load, [publisher], args.triggers * len(healthy))
        cut = sum(map(_was_cut, stalled))
        figures = {**watch.figures(), **delivered(watch, healthy, [publisher])}
    sizes = [size for _, size in rss]
    return {
        **figures,
        "cut": cut,
        "rss_first_mb": sizes[0],
        "rss_top_mb": max(sizes),
        "rss_last_mb": sizes[-1],
        "rss_mb_over_time": rss,
    }


def _sample(load: Load, target: Target, rss: list[tuple[float, float]], begin: float) -> None:
    """Note the memory of the server, now and again and again."""
    rss.append((round(time.monotonic() - begin, 2), round(target.rss_bytes() / 2**20, 1)))
    load.after(_SAMPLE_SECONDS, partial(_sample, load, target, rss, begin))


def _was_cut(client: Client) -> bool:
    """Whether the server has ended this connection: read what waits in the kernel up to its end."""
    try:
        while client.sock.recv(1 << 20):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def run(args: argparse.Namespace) -> Report:
    """Run without and with slow clients in turn."""
    pin_generator()
    report = Report("slow", vars(args), COLUMNS, args.runs * 2)
    slow = max(1, args.clients // 10)
    with gateway(args.clients) as target:
        measure(target, args.clients, 0, argparse.Namespace(**{**vars(args), "triggers": min(args.triggers, 10)}))
        for _ in range(args.runs):
            without = measure(target, args.clients, 0, args)
            report.add(f"{args.clients} clients, none slow", without)
            with_slow = measure(target, args.clients, slow, args)
            with_slow["x_healthy"] = with_slow["p99_ms"] / without["p99_ms"]
            report.add(f"{args.clients} clients, {slow} slow", with_slow)
    report.finish(args.json)
    return report


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__)
    parser.add_argument("--clients", type=options.positive, default=1000, help="clients (default %(default)s)")
    parser.add_argument("--triggers", type=options.positive, default=500, help="publications (default %(default)s)")
    parser.add_argument("--rate", type=float, default=20.0, help="publications a second (default %(default)s)")
    options.add_size(parser, 4096)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
