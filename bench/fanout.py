"""One room: what a delivery costs, and how late it is.

N clients subscribe to one room with a uuid each as requestId; P publishers post to it at once, each its next trigger
as soon as the previous one was answered. Server CPU (user, system) per delivery, deliveries per second and per CPU
second, latency from the first byte of a POST to the read that brought the publication. Every client must have got
every publication exactly once, in order for each publisher. The bare send loop (see `limit`) runs in every round, and
`x limit` is the CPU per delivery divided by that of the same round.

The last case is a lone publication: one client, an idle server, a pause between triggers.
"""

import argparse
from collections.abc import Sequence

from bench import limit, options
from bench.phase import Figures, Stopwatch, delivered, joined, one_room, publications, publish
from bench.process import pin_generator
from bench.publisher import Publisher
from bench.report import Column, Report
from bench.target import Target, gateway

COLUMNS = (
    Column("us_per_delivery", "CPU µs/delivery", 2),
    Column("us_user", "user", 2),
    Column("us_system", "system", 2),
    Column("x_limit", "x limit", 2),
    Column("deliveries_per_second", "deliveries/s", 0),
    Column("deliveries_per_cpu_second", "per CPU s", 0),
    Column("p50_ms", "p50 ms", 2),
    Column("p99_ms", "p99 ms", 2),
    Column("max_ms", "max ms", 2),
    Column("generator_busy", "generator busy", 2),
)
_WARM_UP = 20
_PAUSE_SECONDS = 0.02


def lone(target: Target, triggers: int, size: int) -> Figures:
    """Publish to a single client, with a pause after each: how late is a publication when nothing else happens?"""
    with joined(target, [0]) as (load, clients):
        publisher = Publisher(load, target.trigger, publications(target, 0, triggers, size), _PAUSE_SECONDS)
        with Stopwatch(target) as watch:
            publish(load, [publisher], triggers)
        return {**watch.figures(), **delivered(watch, clients, [publisher])}


def room(target: Target, args: argparse.Namespace, report: Report, reference: float) -> None:
    """Run one round of all the cases with a full room."""
    with joined(target, [0] * args.clients) as (load, clients):
        one_room(target, load, clients, 1, min(args.triggers, _WARM_UP), args.size)
        for publishers in args.publishers:
            figures = one_room(target, load, clients, publishers, args.triggers, args.size)
            figures["x_limit"] = figures["us_per_delivery"] / reference
            report.add(f"{args.clients} clients x {publishers}", figures)


def run(args: argparse.Namespace) -> Report:
    """Run the rounds: limit, rooms, lone publication."""
    pin_generator()
    report = Report("fanout", vars(args), COLUMNS, args.runs * (len(args.publishers) + 2))
    language = limit.languages()[0]
    with gateway(args.clients, same_request_id=args.same_request_id) as target:
        for _ in range(args.runs):
            bare = limit.measure(language, args.clients, min(args.triggers, 100), args.size)
            report.add(f"send loop in {language}", {**bare, "x_limit": 1.0})
            room(target, args, report, bare["us_per_delivery"])
            report.add("lone publication", lone(target, min(args.triggers, 100), args.size))
    report.finish(args.json)
    return report


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__)
    options.add_crowd(parser, clients=1000, triggers=400, publishers=(1, 8))
    options.add_size(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
