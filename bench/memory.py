"""What a connection costs in memory while nothing happens.

A fresh gateway for each case. RSS after the clients have joined and all is quiet, minus RSS before, divided by their
number. By then others have joined, as many at once as ever will be, and stay: what a server allocates for its first
clients, and for many on their way at once, is not charged to those who come later.
Cases: admitted only; subscribed to a room all share; subscribed to a room of its own. Kernel memory of sockets is not
in the RSS of anybody.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from bench import options
from bench.load import Load, connect
from bench.phase import WINDOW, Figures, crowd
from bench.process import pin_generator
from bench.report import Column, Report
from bench.target import Target, gateway, settle

COLUMNS = (
    Column("kb_per_connection", "KB/connection", 2),
    Column("rss_before_mb", "MB before", 1),
    Column("rss_after_mb", "MB after", 1),
)
_SETTLE_SECONDS = 0.5


def rooms_of(case: str, clients: int) -> list[int | None]:
    """Return the room of each client: none, one for all, or its own."""
    if case == "own room":
        return list(range(1, clients + 1))
    return [None if case == "admitted" else 1] * clients


def measure(start: Callable[[int], AbstractContextManager[Target]], case: str, clients: int) -> Figures:
    """Start a server, connect `clients` to it, and return what each has added to its memory."""
    earlier = min(WINDOW, clients)
    with start(clients + earlier) as target, _earlier(target, case, earlier) as load:
        before = target.rss_bytes()
        later = crowd(load, target, rooms_of(case, clients), first=earlier + 1)
        connect(load, later, window=WINDOW)
        settle(target)
        time.sleep(_SETTLE_SECONDS)
        after = target.rss_bytes()
        for client in later:
            client.close()
    return {
        "kb_per_connection": (after - before) / clients / 1024,
        "rss_before_mb": before / 2**20,
        "rss_after_mb": after / 2**20,
    }


@contextmanager
def _earlier(target: Target, case: str, count: int) -> Iterator[Load]:
    """Have clients be there already who came all at once."""
    load = Load()
    clients = crowd(load, target, rooms_of(case, count))
    connect(load, clients, window=WINDOW)
    settle(target)
    time.sleep(_SETTLE_SECONDS)
    yield load
    for client in clients:
        client.close()


def run(args: argparse.Namespace) -> Report:
    """Measure every case at every size."""
    pin_generator()
    cases = [(case, clients) for clients in args.clients for case in args.cases]
    report = Report("memory", vars(args), COLUMNS, args.runs * len(cases))
    for _ in range(args.runs):
        for case, clients in cases:
            report.add(f"{clients} clients, {case}", measure(gateway, case, clients))
    report.finish(args.json)
    return report


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__)
    parser.add_argument(
        "--clients", type=options.positives, default=[1000, 10_000], metavar="N,N", help="sizes (default 1000,10000)"
    )
    cases = ["admitted", "shared room", "own room"]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases, help="which cases (default: all)")
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
