"""Many rooms with one client each: how many triggers a second the HTTP side takes.

R rooms, a client in each, P publishers at once. Triggers go to the rooms in turn: one by one as single POSTs, then as
arrays of B triggers in one POST, then as NDJSON with B lines in one POST. Triggers per second, per second of server
CPU, and the latency of their delivery; every client must have got all of its room, once and in order.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence

from bench import options
from bench.phase import Figures, Stopwatch, delivered, joined, publish
from bench.process import pin_generator
from bench.publisher import Publication, Publisher
from bench.report import Column, Report
from bench.target import Target, gateway, trigger
from bench.wire import data_of, post

COLUMNS = (
    Column("triggers_per_second", "triggers/s", 0),
    Column("triggers_per_cpu_second", "per CPU s", 0),
    Column("us_per_delivery", "CPU µs/trigger", 2),
    Column("us_user", "user", 2),
    Column("us_system", "system", 2),
    Column("p50_ms", "p50 ms", 2),
    Column("p99_ms", "p99 ms", 2),
    Column("generator_busy", "generator busy", 2),
)
_WAYS: dict[str, tuple[Callable[[list[str]], str], str]] = {
    "single": ("".join, "application/json"),
    "array": (lambda triggers: f"[{','.join(triggers)}]", "application/json"),
    "ndjson": (lambda triggers: "".join(f"{line}\n" for line in triggers), "application/x-ndjson"),
}


def batches(target: Target, way: str, publisher: int, args: argparse.Namespace) -> Iterator[Publication]:
    """Prepare the POSTs of one publisher, starting at a room of its own."""
    join, content_type = _WAYS[way]
    batch = 1 if way == "single" else args.batch
    count = (args.triggers if way == "single" else args.batched_triggers) // args.publishers
    first = publisher * args.rooms // args.publishers
    for start in range(0, count, batch):
        numbers = range(start, min(start + batch, count))
        rooms = tuple((first + number) % args.rooms for number in numbers)
        triggers = [
            trigger(room, data_of(publisher, number, args.size)) for room, number in zip(rooms, numbers, strict=True)
        ]
        tokens = tuple(f"{publisher:02d}-{number:06d}" for number in numbers)
        request = post(target.trigger, "/trigger/", join(triggers).encode(), content_type)
        yield Publication(request, tokens, rooms=rooms)


def measure(target: Target, way: str, args: argparse.Namespace) -> Figures:
    """Publish in one of the ways; one trigger is one delivery here."""
    with joined(target, list(range(args.rooms))) as (load, clients):
        prepared = [list(batches(target, way, number, args)) for number in range(args.publishers)]
        publishers = [Publisher(load, target.trigger, some) for some in prepared if some]
        expected = sum(len(one.tokens) for some in prepared for one in some)
        with Stopwatch(target) as watch:
            publish(load, publishers, expected)
        figures = {**watch.figures(), **delivered(watch, clients, publishers)}
    figures["triggers_per_second"] = figures["deliveries_per_second"]
    figures["triggers_per_cpu_second"] = figures["deliveries_per_cpu_second"]
    return figures


def run(args: argparse.Namespace) -> Report:
    """Run each way in turn, `runs` times."""
    pin_generator()
    report = Report("rooms", vars(args), COLUMNS, args.runs * len(_WAYS))
    with gateway(args.rooms) as target:
        for way in _WAYS:  # warm-up
            measure(target, way, argparse.Namespace(**{**vars(args), "triggers": 200, "batched_triggers": 200}))
        for _ in range(args.runs):
            for way in _WAYS:
                named = way if way == "single" else f"{way} of {args.batch}"
                report.add(f"{args.rooms} rooms, {args.publishers} publishers, {named}", measure(target, way, args))
    report.finish(args.json)
    return report


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__)
    parser.add_argument("--rooms", type=options.positive, default=1000, help="rooms (default %(default)s)")
    parser.add_argument("--publishers", type=options.positive, default=8, help="at once (default %(default)s)")
    parser.add_argument("--triggers", type=options.positive, default=4000, help="as single POSTs (default %(default)s)")
    parser.add_argument(
        "--batched-triggers", type=options.positive, default=80_000, help="as arrays or NDJSON (default %(default)s)"
    )
    parser.add_argument("--batch", type=options.positive, default=500, help="triggers in a POST (default %(default)s)")
    options.add_size(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
