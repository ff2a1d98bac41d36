"""What clients cost that come back to what they missed, beside clients that just come.

N clients in R rooms come, W on their way at once, each with a cookie and a requestId of its own: without `since`, with
`since: null`, which asks for positions alone, and with a position behind which each room got K publications. Those they
must have got in their order, once. Meanwhile one publisher posts on a schedule to a room of a hundred others: how late
are its publications? `x time` is the time until all have joined beside that without `since`, `x CPU` what each cost the
server beside the same, `x p99` the p99 of the other room beside that with `since: null`, all in one run. The cases
change their order from run to run.
"""

import argparse
import dataclasses
import re
from collections.abc import Sequence

from msgspec import UNSET

from bench import options
from bench.check import FAULTS, check
from bench.connect import join_all
from bench.load import Client, Load, connect
from bench.phase import Figures, crowd, publications, publish
from bench.process import pin_generator
from bench.publisher import Publication, Publisher
from bench.report import Column, Report
from bench.target import PATIENT, Target, gateway, join_script, settle
from bench.wire import data_of
from trio_templar.core.dialects import Since

COLUMNS = (
    Column("seconds", "seconds", 2),
    Column("x_time", "x time", 3),
    Column("ms_each", "CPU ms each", 3),
    Column("x_cpu", "x CPU", 3),
    Column("live_p50_ms", "live p50 ms", 1),
    Column("live_p99_ms", "live p99 ms", 1),
    Column("x_p99", "x p99", 2),
    Column("refused", "refused", 0),
    Column("server_busy", "server busy", 2),
    Column("generator_busy", "generator busy", 2),
)
_LIVE, _LISTENERS = 0, 100
_MOST_LIVE_SECONDS = 300
_WITHOUT, _POSITIONS = "without since", "since: null"


def asking(target: Target, since: Since) -> Target:
    """Return `target` with clients that subscribe with `since`."""
    return dataclasses.replace(target, script=join_script(target.websocket, since=since))


def position(target: Target) -> str:
    """Return where the gateway is now, as a client is told."""
    load = Load()
    [client] = crowd(load, asking(target, None), [_LIVE])
    connect(load, [client], window=1)
    client.close()
    said = re.search(rb'"at": "([^"]+)"', client.answer)
    assert said is not None, client.answer
    return said[1].decode()


def miss(target: Target, args: argparse.Namespace) -> list[Publication]:
    """Publish to each of the rooms while nobody is there; return what was published."""
    missed = [
        Publication(target.request(room, data_of(0, number, args.size)), (f"00-{number:06d}",), room)
        for number in range(args.missed * args.rooms)
        for room in [_room(number, args)]
    ]
    load = Load()
    publisher = Publisher(load, target.trigger, missed)
    publish(load, [publisher], 0)
    assert publisher.statuses[200] == len(missed), publisher.statuses
    return missed


def storm(target: Target, args: argparse.Namespace, since: Since, missed: Sequence[Publication]) -> Figures:
    """Have all come at once, beside the room that is published to; return the figures."""
    load = Load()
    listeners = crowd(load, target, [_LIVE] * _LISTENERS, first=10 * args.clients)
    connect(load, listeners, window=16)
    posts = publications(target, 1, round(args.rate * _MOST_LIVE_SECONDS), args.size)
    publisher = Publisher(load, target.trigger, posts, 1 / args.rate)
    comers = crowd(load, asking(target, since), [_room(number, args) for number in range(args.clients)])
    publisher.start()
    figures = join_all(target, load, comers, args.window)
    goal = _end(publisher) * _LISTENERS + (args.missed * args.clients if missed else 0)
    load.run_until(lambda: publisher.done and load.marks >= goal)
    publisher.close()
    figures |= _judged(listeners, publisher, comers, missed)
    for client in comers + listeners:
        client.close()
    settle(target)
    return figures


def _room(number: int, args: argparse.Namespace) -> int:
    """Return the room of a client, or of what it missed."""
    return _LIVE + 1 + number % int(args.rooms)


def _end(publisher: Publisher) -> int:
    """Let `publisher` post only one more; return how many that makes."""
    posted = sum(1 for one in publisher.publications if one.at)
    del publisher.publications[posted + 1 :]
    return len(publisher.publications)


def _judged(
    listeners: list[Client], publisher: Publisher, comers: list[Client], missed: Sequence[Publication]
) -> Figures:
    """Return how late what was live was, and the faults of both."""
    live, past = check(listeners, publisher.publications), check(comers, missed)
    return {
        "live_p50_ms": live.quantile(0.5) * 1e3,
        "live_p99_ms": live.quantile(0.99) * 1e3,
        **{name: getattr(live, name) + getattr(past, name) for name in FAULTS},
        "refused_posts": publisher.statuses.total() - publisher.statuses[200],
    }


def compared(target: Target, args: argparse.Namespace, number: int) -> dict[str, Figures]:
    """Run each case once, the one whose turn it is first; return their figures, by case."""
    cases = [_WITHOUT, _POSITIONS, f"{args.missed} missed"]
    turn = number % len(cases)
    found: dict[str, Figures] = {}
    for case in cases[turn:] + cases[:turn]:
        if case == _WITHOUT:
            found[case] = storm(target, args, UNSET, ())
        elif case == _POSITIONS:
            found[case] = storm(target, args, None, ())
        else:
            at = position(target)
            found[case] = storm(target, args, at, miss(target, args))
    for figures in found.values():
        figures["x_time"] = figures["seconds"] / found[_WITHOUT]["seconds"]
        figures["x_cpu"] = figures["ms_each"] / (found[_WITHOUT]["ms_each"] or float("nan"))
        figures["x_p99"] = figures["live_p99_ms"] / found[_POSITIONS]["live_p99_ms"]
    return {case: found[case] for case in cases}


def run(args: argparse.Namespace) -> Report:
    """Run the rounds on one gateway, after a small warm-up."""
    pin_generator()
    report = Report("recover", vars(args), COLUMNS, args.runs * 3)
    with gateway(args.clients + _LISTENERS, settings=PATIENT) as target:
        compared(target, argparse.Namespace(**{**vars(args), "clients": min(args.clients, 100)}), 0)
        for number in range(args.runs):
            for case, figures in compared(target, args, number).items():
                report.add(case, figures)
    report.finish(args.json)
    return report


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__, runs=3)
    parser.add_argument("--clients", type=options.positive, default=10_000, help="clients (default %(default)s)")
    parser.add_argument("--window", type=options.positive, default=1000, help="joining at once (default %(default)s)")
    parser.add_argument("--rooms", type=options.positive, default=1, help="their rooms (default %(default)s)")
    parser.add_argument("--missed", type=options.positive, default=10, help="in each room (default %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="posts a second meanwhile (default %(default)s)")
    options.add_size(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
