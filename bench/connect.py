"""How fast clients get in: connect, bootstrap, subscribe.

N clients, each with a cookie and a requestId of its own, join with a window of W on their way at once; the bootstrap is
answered by a fast local API in another process, on the core of the generator. Clients per second, and per second of
server CPU (which is what a second of one core gives when nothing else limits). Then the same while publishers post to a
room, and the reconnect storm: all N are cut at once, and all come back at once. Refused attempts are made again after
half a second, as browsers do, and counted.
"""

import argparse
import time
from collections.abc import Sequence

from bench import options
from bench.load import Client, Load, connect
from bench.phase import Figures, Stopwatch, crowd, publications
from bench.process import pin_generator
from bench.publisher import Publisher
from bench.report import Column, Report
from bench.target import Target, gateway, settle

COLUMNS = (
    Column("clients_per_second", "clients/s", 0),
    Column("clients_per_cpu_second", "per CPU s", 0),
    Column("ms_each", "CPU ms each", 3),
    Column("refused", "refused", 0),
    Column("server_busy", "server busy", 2),
    Column("generator_busy", "generator busy", 2),
    Column("published", "triggers meanwhile", 0),
)
_ROOM, _LISTENERS = 0, 100


def join_all(target: Target, load: Load, clients: list[Client], window: int) -> Figures:
    """Have them all join; return the figures."""
    with Stopwatch(target) as watch:
        joined = connect(load, clients, window=window)
    cpu = watch.cpu.total
    return {
        **watch.figures(),
        "clients_per_second": len(clients) / watch.seconds,
        "clients_per_cpu_second": len(clients) / cpu if cpu else float("nan"),
        "ms_each": cpu / len(clients) * 1e3,
        "refused": joined.refused,
    }


def quiet(target: Target, args: argparse.Namespace, report: Report) -> None:
    """Connect all while nothing else happens; then cut all, and let them all come back at once."""
    load = Load()
    clients = crowd(load, target, [_ROOM] * args.clients)
    report.add("connect", join_all(target, load, clients, args.window))
    settle(target)
    for client in clients:
        client.close()
    again = crowd(load, target, [_ROOM] * args.clients, first=args.clients)
    report.add("reconnect storm", join_all(target, load, again, args.clients))
    for client in again:
        client.close()
    settle(target)


def while_publishing(target: Target, args: argparse.Namespace, report: Report) -> None:
    """Connect all while publishers post, as fast as they are answered, to a room of a hundred others."""
    load = Load()
    listeners = crowd(load, target, [_ROOM] * _LISTENERS, keep=False, first=10 * args.clients)
    connect(load, listeners, window=16)
    publishers = [_endless(load, target, number, args.size) for number in range(args.publishing)]
    for publisher in publishers:
        publisher.start()
    clients = crowd(load, target, [_ROOM + 1] * args.clients)
    figures = join_all(target, load, clients, args.window)
    figures["published"] = sum(publisher.statuses[200] for publisher in publishers)
    report.add(f"connect, {args.publishing} publishing", figures)
    for publisher in publishers:
        publisher.close()
    for client in clients + listeners:
        client.close()
    settle(target)


def _endless(load: Load, target: Target, number: int, size: int) -> Publisher:
    """Return a publisher that has more to post than there will be time for."""
    return Publisher(load, target.trigger, publications(target, number, 1, size) * 1_000_000)


def run(args: argparse.Namespace) -> Report:
    """Run the rounds on one gateway, after a small warm-up."""
    pin_generator()
    report = Report("connect", vars(args), COLUMNS, args.runs * (2 + bool(args.publishing)))
    with gateway(args.clients + _LISTENERS) as target:
        _warm_up(target, min(args.clients, 100))
        for _ in range(args.runs):
            quiet(target, args, report)
            if args.publishing:
                while_publishing(target, args, report)
    report.finish(args.json)
    return report


def _warm_up(target: Target, count: int) -> None:
    load = Load()
    clients = crowd(load, target, [_ROOM] * count)
    connect(load, clients, window=16)
    for client in clients:
        client.close()
    time.sleep(0.1)


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__)
    parser.add_argument("--clients", type=options.positive, default=2000, help="clients (default %(default)s)")
    parser.add_argument("--window", type=options.positive, default=64, help="joining at once (default %(default)s)")
    parser.add_argument("--publishing", type=int, default=2, help="publishers meanwhile; 0: none (default %(default)s)")
    options.add_size(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
