"""The physical limit: a bare loop of non-blocking sends to N connected sockets.

The same frames, sockets, pinning and reading generator as in `fanout`, and nothing else: no event loop, no websocket
handshake, no trigger. CPU per send of the sending process, user and system. In C where a compiler is found (that is
the limit others are quoted against), and in Python for comparison. A send on loopback carries the work of the
receiving side of TCP too, up to the wakeup of the reader.
"""

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from bench import options
from bench.check import check
from bench.load import Client, Load, connect
from bench.phase import WINDOW, Figures
from bench.process import Process, module, pin_generator, running
from bench.publisher import Publication
from bench.report import Column, Report
from bench.wire import ENVELOPE_BYTES, Step, data_of, server_frame

COLUMNS = (
    Column("us_per_delivery", "CPU µs/send", 2),
    Column("us_user", "user", 2),
    Column("us_system", "system", 2),
    Column("deliveries_per_second", "sends/s", 0),
    Column("full", "socket full", 0),
    Column("generator_busy", "generator busy", 2),
)
_SOURCE = Path(__file__).with_name("limit.c")


@cache
def c_program() -> Path | None:
    """Compile limit.c once; return the program, or None where there is no compiler."""
    if (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        return None
    program = Path(tempfile.gettempdir()) / f"bench-limit-{int(_SOURCE.stat().st_mtime)}"
    if not program.exists():
        subprocess.run([compiler, "-O2", "-o", str(program), str(_SOURCE)], check=True)
    return program


def languages() -> list[str]:
    """Return the loops that can run here; the first is the limit to quote."""
    return ["C", "Python"] if c_program() else ["Python"]


def measure(language: str, clients: int, triggers: int, size: int) -> Figures:
    """Send `triggers` frames, each with `size` bytes of data, to `clients` sockets.

    The next frame is sent when all have read the last, as with one publisher who waits for the answer: each send finds
    an empty socket with a reader that waits.
    """
    with _sender(language, clients) as (process, load, crowd):
        begin, own = time.monotonic(), time.process_time()
        totals = [_send(process, load, _frame(number, size), clients) for number in range(triggers)]
        seconds, busy = time.monotonic() - begin, time.process_time() - own
    user, system, full = (sum(parts) for parts in zip(*totals, strict=True))
    tokens = tuple(f"00-{number:06d}" for number in range(triggers))
    sends = clients * triggers
    return {
        "us_per_delivery": (user + system) / sends * 1e6,
        "us_user": user / sends * 1e6,
        "us_system": system / sends * 1e6,
        "deliveries_per_second": sends / seconds,
        "full": full,
        "lost": check(crowd, [Publication(b"", tokens, rooms=(0,) * triggers, at=begin)]).lost,
        "generator_busy": busy / seconds,
    }


@contextmanager
def _sender(language: str, clients: int) -> Iterator[tuple[Process, Load, list[Client]]]:
    """Run a send loop with `clients` connected to it."""
    program = [str(c_program())] if language == "C" else module("bench.limit_server")
    with running([*program, str(clients)], piped=True) as process:
        assert process.popen.stdout is not None
        load = Load()
        address = ("127.0.0.1", int(process.popen.stdout.readline()))
        crowd = [Client(load, address, (Step(b"", b""),)) for _ in range(clients)]
        connect(load, crowd, window=WINDOW)
        yield process, load, crowd
        for client in crowd:
            client.close()


def _send(process: Process, load: Load, frame: bytes, clients: int) -> tuple[float, ...]:
    """Have `frame` sent to all, and read it; return what the loop says: seconds user, system, times full."""
    stdin, stdout = process.popen.stdin, process.popen.stdout
    assert stdin is not None
    assert stdout is not None
    goal = load.marks + clients
    stdin.write(f"{len(frame)}\n".encode() + frame)
    stdin.flush()
    load.run_until(lambda: load.marks >= goal)
    return tuple(map(float, stdout.readline().split()))


def _frame(number: int, size: int) -> bytes:
    """Return a frame as long as the gateway's with `size` bytes of data."""
    around = "y" * ENVELOPE_BYTES
    return server_frame((around + data_of(0, number, size)).encode())


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__)
    parser.add_argument("--clients", type=options.positive, default=1000, help="sockets (default %(default)s)")
    parser.add_argument("--triggers", type=options.positive, default=200, help="frames (default %(default)s)")
    options.add_size(parser)
    args = parser.parse_args(arguments)
    return run(args)


def run(args: argparse.Namespace) -> Report:
    """Run each loop in turn, `runs` times, after one warm-up."""
    pin_generator()
    report = Report("limit", vars(args), COLUMNS, args.runs * len(languages()))
    for language in languages():
        measure(language, args.clients, min(args.triggers, 20), args.size)
    for _ in range(args.runs):
        for language in languages():
            report.add(f"send loop in {language}", measure(language, args.clients, args.triggers, args.size))
    report.finish(args.json)
    return report


if __name__ == "__main__":
    main()
