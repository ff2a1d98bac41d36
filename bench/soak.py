"""Does anything grow? Steady publishing, clients that come and go, some of which stop reading.

Each client stays for up to a minute, subscribes to some rooms, and reads; one in ten stops reading after a while, one
in ten leaves without a goodbye. A publisher posts to random rooms on a schedule, with a report now and then. Memory,
tasks, descriptors and timers of the gateway are noted each second; compared are the medians of the quiet after a
warm-up and of the quiet at the end, when all clients have left, and those of the first and the last tenth under load.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import trio

from bench import options
from bench.report import Column, Report
from trio_templar.client import Closed, WebsocketClient

ROOMS = 50
STAY_SECONDS = 60.0
POLICIES = [{"match": {"room": 1}, "policy": "conflate"}, {"match": {"room": 2}, "policy": "drop_oldest"}]
HELD = ("rss_kb", "tasks", "descriptors", "timers")
COLUMNS = tuple(Column(name, name.replace("rss_kb", "RSS KB"), 0) for name in HELD)


class Soak:
    """One run: its gateway, and what was noted of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._random = random.Random(args.seed)
        self._notes: list[dict[str, Any]] = []
        self.received = self.clients = self.posts = 0
        self.course: list[int] = []

    async def run(self) -> dict[str, dict[str, float]]:
        """Warm up, be quiet, load, be quiet; return the medians by phase."""
        seconds = self._args.seconds
        async with self._gateway():
            await self._load(min(30.0, seconds / 4))
            before = await self._quiet()
            start = len(self._notes)
            await self._load(seconds)
            loaded = self._notes[start:]
            after = await self._quiet()
        tenth = max(1, len(loaded) // 10)
        self.course = [round(_medians(loaded[at : at + tenth])["rss_kb"]) for at in range(0, len(loaded), tenth)]
        return {
            "quiet, before": before,
            "load, first tenth": _medians(loaded[:tenth]),
            "load, last tenth": _medians(loaded[-tenth:]),
            "quiet, after": after,
        }

    @property
    def last(self) -> dict[str, Any]:
        """What the gateway said last."""
        return self._notes[-1]

    @asynccontextmanager
    async def _gateway(self) -> AsyncIterator[None]:
        command = [sys.executable, "-m", "bench.soak_server", json.dumps(POLICIES)]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(trio.run_process, command, stdin=None, stdout=subprocess.PIPE, check=False)
            )
            assert process.stdout is not None
            lines = _lines(process.stdout)
            urls = json.loads(await anext(lines))
            self._websocket, self._trigger = urlsplit(urls["websocket"]), urlsplit(urls["trigger"])
            nursery.start_soon(self._note, lines)
            yield
            nursery.cancel_scope.cancel()

    async def _note(self, lines: AsyncIterator[bytes]) -> None:
        async for line in lines:
            self._notes.append(json.loads(line))

    async def _quiet(self) -> dict[str, float]:
        await trio.sleep(self._args.quiet_seconds)
        return _medians(self._notes[-5:])

    async def _load(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._publisher)
                for _ in range(self._args.clients):
                    nursery.start_soon(self._clients, seconds)

    async def _clients(self, seconds: float) -> None:
        """Be one client after another."""
        while True:
            await trio.sleep(self._random.uniform(0, 2))
            with trio.move_on_after(self._random.uniform(1, min(STAY_SECONDS, seconds))):
                await self._client()

    async def _client(self) -> None:
        stream = await trio.open_tcp_stream(self._websocket.hostname or "", self._websocket.port or 0)
        async with stream:
            client = WebsocketClient(stream)
            try:
                await client.open(self._websocket.path)
                self.clients += 1
                for request_id in range(self._random.randint(1, 5)):
                    room = {"room": self._random.randrange(ROOMS)}
                    await client.send({"type": "subscribe", "requestId": request_id, "room": room})
                stalls = self._random.random() < 0.1
                for _ in range(self._random.randrange(20, 2000)):
                    await client.receive_text()
                    self.received += 1
                if stalls:
                    await trio.sleep_forever()
                if self._random.random() < 0.9:
                    await client.aclose()
            except (Closed, trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _publisher(self) -> None:
        async with await trio.open_tcp_stream(self._trigger.hostname or "", self._trigger.port or 0) as stream:
            while True:
                await trio.sleep(1 / self._args.rate)
                rooms = [{"room": self._random.randrange(ROOMS)} for _ in range(3)]
                body = json.dumps({"rooms": rooms, "data": "x" * self._random.randrange(100, 4000)}).encode()
                accept = "application/json" if self._random.random() < 0.1 else "*/*"
                head = (
                    f"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nContent-Length: {len(body)}\r\n"
                )
                await stream.send_all(head.encode() + b"\r\n" + body)
                if not (answer := await stream.receive_some(65_536)).startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")):
                    raise RuntimeError(f"the gateway answered {bytes(answer)!r}")
                self.posts += 1


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:  # noqa: ASYNC900  # holds nothing
    rest = b""
    while data := await stream.receive_some():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line


def _medians(notes: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(note[name] for note in notes) for name in HELD}


def run(args: argparse.Namespace) -> Report:
    """Soak once for each run."""
    report = Report("soak", vars(args), COLUMNS, args.runs)
    for _ in range(args.runs):
        soak = Soak(args)
        for phase, medians in trio.run(soak.run).items():
            report.add(phase, medians)
        drops = {cause: count for cause, count in soak.last["drops"].items() if count}
        report.notes.append(
            f"{soak.clients} clients, {soak.posts} posts, {soak.last['deliveries']} deliveries, "
            f"{soak.last['conflated']} conflated, dropped clients: {drops}\n"
            f"RSS KB in each tenth of the load: {soak.course}"
        )
    report.finish(args.json)
    return report


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__, runs=1)
    parser.add_argument("--seconds", type=float, default=600.0, help="under load (default %(default)s)")
    parser.add_argument("--clients", type=options.positive, default=200, help="at once (default %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="publications a second (default %(default)s)")
    parser.add_argument("--quiet-seconds", type=float, default=12.0, help="before and after (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what clients do (default %(default)s)")
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
