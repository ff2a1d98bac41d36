"""The same load against other servers, side by side.

In every round each server is started anew, alone on its core, and gets: N clients in one room with 1 and with P
publishers at once (CPU per delivery, p99, everything checked as in `fanout`); the memory of those N clients; R rooms
with one client each, single POSTs, P publishers (triggers per second). Data is padded so that all frames are equally
long, whatever a server puts around it. Brokers a server cannot do without (Redis, RabbitMQ) count as part of it.

Peers that are not installed are skipped with a line that says what is missing; `--install` makes the environments of
those written in Python, in the cache folder of the user or in $BENCH_PEERS. Prints a table of medians (minimum and
maximum are in the JSON file) and draws two SVG pictures with `--picture FOLDER`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import limit, options
from bench.load import Client, Load
from bench.peers import broadcast, centrifugo, channels, high_templar_2, high_templar_3, nchan, socketio
from bench.peers.peer import NotInstalledError, Peer
from bench.phase import WINDOW, Figures, Stopwatch, delivered, joined, one_room, publications, publish
from bench.picture import bars
from bench.process import ServerFailedError, pin_generator
from bench.publisher import Publisher
from bench.report import Column, Report
from bench.target import Target, gateway
from bench.wire import ENVELOPE_BYTES

PEERS = {
    "gateway": Peer("trio_templar", gateway),
    "nchan": nchan.PEER,
    "broadcast": broadcast.PEER,
    "socketio": socketio.PEER,
    "centrifugo": centrifugo.PEER,
    "channels": channels.PEER,
    "high-templar-2": high_templar_2.PEER,
    "high-templar-3": high_templar_3.PEER,
}
_WARM_UP, _ELSEWHERE = 10, 999_999


def columns(many: int) -> list[Column]:
    """Return the columns, with `many` publishers at once in the second case."""
    return [
        Column("us_1", "µs/delivery, 1 publisher", 2),
        Column(f"us_{many}", f"{many} publishers", 2),
        Column("x_limit_1", "x limit, 1", 2),
        Column(f"x_limit_{many}", f"x limit, {many}", 2),
        Column("p99_ms_1", "p99 ms, 1"),
        Column(f"p99_ms_{many}", f"p99 ms, {many}"),
        Column("kb_per_connection", "KB/connection"),
        Column("triggers_per_second", "triggers/s, rooms", 0),
        Column("lost", "lost", 0),
    ]


def measure(target: Target, peer: Peer, args: argparse.Namespace, reference: float) -> Figures:
    """Run one round of one server; `reference` is the CPU per send of the bare loop in this round."""
    size = args.size + ENVELOPE_BYTES - target.envelope_bytes
    with joined(target, [_ELSEWHERE] * min(WINDOW, args.clients)):  # as in `memory`: others are there already
        before = target.rss_bytes()
        with joined(target, [0] * args.clients) as (load, clients):
            memory = (target.rss_bytes() - before) / args.clients / 1024
            figures = full_room(target, load, clients, peer, args, size)
    for count in (1, args.publishers):
        figures[f"x_limit_{count}"] = figures[f"us_{count}"] / reference
    rooms = many_rooms(target, peer, args, size)
    return {
        **figures,
        "kb_per_connection": memory,
        "triggers_per_second": rooms["deliveries_per_second"],
        **{fault: figures[fault] + rooms[fault] for fault in ("lost", "duplicated", "disordered", "strange")},
    }


def full_room(
    target: Target, load: Load, clients: list[Client], peer: Peer, args: argparse.Namespace, size: int
) -> Figures:
    """Publish to one room, with one publisher and with many."""
    triggers = max(args.publishers, round(args.triggers * peer.share))
    one_room(target, load, clients, 1, min(_WARM_UP, triggers), size)
    figures: Figures = {"lost": 0, "duplicated": 0, "disordered": 0, "strange": 0, "generator_bound": 0, "disturbed": 0}
    for count in (1, args.publishers):
        run = one_room(target, load, clients, count, triggers, size)
        figures |= {f"us_{count}": run["us_per_delivery"], f"p99_ms_{count}": run["p99_ms"], f"run_{count}": run}
        for fault in ("lost", "duplicated", "disordered", "strange", "generator_bound", "disturbed"):
            figures[fault] += run[fault]
    return figures


def many_rooms(target: Target, peer: Peer, args: argparse.Namespace, size: int) -> Figures:
    """Publish to rooms with one client each, by single POSTs."""
    count = max(1, round(args.room_triggers * peer.share) // args.publishers)
    with joined(target, list(range(args.rooms))) as (load, clients):
        publishers = [
            Publisher(load, target.trigger, publications(target, number, count, size, args.rooms))
            for number in range(args.publishers)
        ]
        with Stopwatch(target) as watch:
            publish(load, publishers, count * args.publishers)
        return delivered(watch, clients, publishers)


def run(args: argparse.Namespace) -> Report:
    """Run all the rounds, server after server in each."""
    pin_generator()
    report = Report("compare", vars(args), columns(args.publishers), args.runs * len(args.peers), ranges=False)
    names = list(args.peers)
    language = limit.languages()[0]
    for _ in range(args.runs):
        bare = limit.measure(language, args.clients, min(args.triggers, 100), args.size)["us_per_delivery"]
        report.add(f"send loop in {language}", {"us_1": bare, "x_limit_1": 1.0})
        for name in list(names):
            try:
                with PEERS[name].start(max(args.clients + WINDOW, args.rooms)) as target:
                    report.add(PEERS[name].name, measure(target, PEERS[name], args, bare))
            except (NotInstalledError, ServerFailedError, TimeoutError) as error:
                names.remove(name)
                report.notes.append(f"skipped {PEERS[name].name}: {error}")
    report.notes.append(f"medians of {args.runs} runs; minimum and maximum are in the JSON file")
    report.finish(args.json)
    return report


def draw(report: Report, folder: Path, many: int) -> None:
    """Write the pictures that README and bench/README.md show."""
    folder.mkdir(parents=True, exist_ok=True)
    cost = [f"us_{many}", "us_1"]
    for name, title, keys, legend in (
        (
            "compare-cpu",
            "Server CPU per delivery, µs (less is better)",
            cost,
            [f"{many} publishers at once", "1 publisher"],
        ),
        ("compare-memory", "Memory per idle connection, KB (less is better)", ["kb_per_connection"], []),
    ):
        rows = [(case, [report.spread(case, key).median for key in keys]) for case in report.cases]
        (folder / f"{name}.svg").write_text(bars(title, rows, legend))


def install(names: Sequence[str]) -> None:
    """Make the environments; say what is left for root to do."""
    for peer in (PEERS[name] for name in names if PEERS[name].requirements):
        print(f"installing {peer.name}", flush=True)
        peer.install()
    if packages := sorted({package for name in names for package in PEERS[name].debian}):
        print("as root, where missing: apt-get install", *packages)


def main(arguments: Sequence[str] | None = None) -> Report | None:
    """Install, or measure, print and draw."""
    parser = options.parser(__doc__)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="which (default: all)")
    parser.add_argument("--install", action="store_true", help="make the environments of the peers, then stop")
    parser.add_argument("--clients", type=options.positive, default=1000, help="in the room (default %(default)s)")
    parser.add_argument("--triggers", type=options.positive, default=400, help="to the room (default %(default)s)")
    parser.add_argument("--publishers", type=options.positive, default=8, help="at once (default %(default)s)")
    parser.add_argument("--rooms", type=options.positive, default=1000, help="rooms of one (default %(default)s)")
    parser.add_argument("--room-triggers", type=options.positive, default=4000, help="to those (default %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FOLDER", help="draw compare-cpu.svg and compare-memory.svg")
    options.add_size(parser)
    args = parser.parse_args(arguments)
    if args.install:
        install(args.peers)
        return None
    report = run(args)
    if args.picture is not None:
        draw(report, args.picture, args.publishers)
    return report


if __name__ == "__main__":
    main()
