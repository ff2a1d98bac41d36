"""The pure parts of the gateway, without sockets: what a regression would show first.

Each case is one call in a loop, in this process, on the core of the server: microseconds of CPU per call. `publish` is
a pass over a room of 1000 subscriptions whose receivers throw everything away, per delivery. `log` is a trigger on its
way through the log of the gateway, to the same; and with a history that is full, so that each makes it forget the
oldest. `recovery` is what is done before the write, and an unsubscribe. `collector` is a full collection of a history
that is full, of publications to a thousand rooms.
"""

import argparse
import gc
import itertools
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from inspect import iscoroutinefunction

import trio

from bench import options
from bench.process import SERVER_CORE
from bench.report import Column, Report
from bench.target import room, trigger
from bench.wire import canonical, data_of
from trio_templar.core.dialects import Dialect2
from trio_templar.core.frames import Batch, text_frame
from trio_templar.core.history import OFF, History, Span
from trio_templar.core.hub import Hub, Subscription
from trio_templar.core.policies import Policy
from trio_templar.core.position import Positions
from trio_templar.core.recovery import Recovery
from trio_templar.core.rooms import is_allowed, room_key
from trio_templar.core.session import Rules, Session
from trio_templar.core.triggers import Trigger, TriggerReader
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.bus import LocalBus
from trio_templar.delivery.entrance import Bounds
from trio_templar.delivery.fanout import Fanout
from trio_templar.delivery.follower import Follower

COLUMNS = (Column("us", "CPU µs/call", 3),)
_SUBSCRIBERS = 1000
_MANY_ROOMS = 100_000  # more than a history remembers
_MISSED = 10
_WARM_UP_SECONDS = 0.0001


class Nowhere:
    """A receiver that renders what it gets, and forgets it."""

    def put(self, subscription: Subscription, batch: Batch) -> None:
        """Do what an outbox with a free socket does, without the socket."""
        batch.render(subscription.request_id, subscription.epoch)

    def reply(self, frame: bytes) -> None:
        """Forget it."""

    def void(self, subscription: Subscription) -> None:
        """Have nothing to give up."""

    def crash(self) -> None:
        """Have nothing to end."""

    def spare(self, policy: Policy) -> tuple[int, int]:
        """Take everything."""
        return 1_000_000, 10_000

    def first_waiting(self, subscription: Subscription) -> int | None:
        """Let nothing wait."""


Call = Callable[[], object] | Callable[[], Awaitable[object]]
Case = tuple[str, Call, int]


def cases(size: int, span: Span, nursery: trio.Nursery) -> Iterator[Case]:
    """Yield (name, call, how much one call does)."""
    yield from frame_cases(size)
    yield from room_cases()
    yield from message_cases(size)
    yield from publish_cases(size)
    for one in (OFF, span):
        yield from log_cases(size, one, nursery)
    yield from recovery_cases(size, span, nursery)


def frame_cases(size: int) -> Iterator[Case]:
    """Frames: a text frame; a publish frame; one where requestIds are equal, so that it is built once."""
    publication = Dialect2().publication(data_of(0, 0, size).encode())
    request_ids = [f'"{uuid.uuid4()}"'.encode() for _ in range(_SUBSCRIBERS)]
    yield "frames: text frame", lambda: text_frame(b"pong"), 1

    def render(ids: list[bytes]) -> None:
        batch = Batch([publication])
        for request_id in ids:
            batch.render(request_id)

    yield "frames: publish frame", lambda: render(request_ids), _SUBSCRIBERS
    yield "frames: publish frame, equal requestIds", lambda: render(request_ids[:1] * _SUBSCRIBERS), _SUBSCRIBERS


def room_cases() -> Iterator[Case]:
    """Rooms: the key of one, and permission among twenty."""
    wanted = {"target": "car", "car": 1, "company": "acme"}
    allowed = [{"target": "other", "id": number} for number in range(19)] + [
        {"target": "car", "car": "*", "company": "*"}
    ]
    yield "rooms: key", lambda: room_key(wanted), 1
    yield "rooms: permission, last of 20", lambda: is_allowed(wanted, allowed), 1


def message_cases(size: int) -> Iterator[Case]:
    """Messages: subscribe and unsubscribe, ping, and a trigger."""
    session = Session(Rules(Dialect2(), Hub(), 200, 2048, 128), [{"target": "room", "id": "*"}], Nowhere(), "bench")
    subscribe = canonical({"type": "subscribe", "requestId": str(uuid.uuid4()), "room": room(1)})
    unsubscribe = subscribe.replace('"subscribe"', '"unsubscribe"')
    body = trigger(1, data_of(0, 0, size)).encode()
    reader = TriggerReader(Dialect2(), 1_000_000)
    yield "session: subscribe + unsubscribe", lambda: (session.receive(subscribe), session.receive(unsubscribe)), 1
    yield "session: ping", lambda: session.receive("ping"), 1
    yield "triggers: read one", lambda: reader.read(body), 1


def publish_cases(size: int) -> Iterator[Case]:
    """Publish: hand a publication to everyone in a room."""
    hub = Hub()
    for _ in range(_SUBSCRIBERS):
        hub.subscribe(room_key(room(1)), Nowhere(), f'"{uuid.uuid4()}"'.encode())
    publication = Dialect2().publication(data_of(0, 0, size).encode())

    def publish() -> None:
        batch = Batch([publication])
        for subscription in hub.rooms[room_key(room(1))].subscriptions:
            subscription.receiver.put(subscription, batch)

    yield "publish: per subscriber", publish, _SUBSCRIBERS


class Log:
    """The log of a gateway that is alone, with a history of `span`, and what is appended to it next."""

    def __init__(self, nursery: trio.Nursery, span: Span, room_numbers: Iterable[int], size: int) -> None:
        self.hub = Hub()
        self.history = History(Positions(wall=time.time), span)
        self.recovery = Recovery(self.history, trio.current_time)
        bounds = Bounds(room_publications=10_000, room_bytes=2**24, max_triggers_waiting=100, wait_seconds=1.0)
        fanout = Fanout(self.hub, nursery, Budget(2**30, self.history), bounds)
        self._bus = LocalBus(Follower(self.history, self.hub, fanout), fanout)
        publication = Dialect2().publication(data_of(0, 0, size).encode())
        self._triggers = itertools.cycle([[Trigger([room_key(room(each))], publication)] for each in room_numbers])

    def append(self) -> None:
        """Publish to the room whose turn it is."""
        self._bus.append_nowait(next(self._triggers))

    def fill(self) -> None:
        """Append until the history is full, and all of that is forgotten; nothing, if nothing is kept."""
        kept = -1
        while len(self.history) > kept:
            kept = len(self.history)
            self.append()
        for _ in range(kept):
            self.append()


def log_cases(size: int, span: Span, nursery: trio.Nursery) -> Iterator[Case]:
    """Log: a trigger into an empty room, a small one, and many in turn; a delivery in a large one."""
    said = "history" if span.on else "no history"
    for name, rooms, subscribers in (("empty room", 1, 0), ("room of one", 1, 1), ("rooms in turn", _MANY_ROOMS, 0)):
        log = Log(nursery, span, range(rooms), size)
        log.fill()
        for _ in range(subscribers):
            log.hub.subscribe(room_key(room(0)), Nowhere(), f'"{uuid.uuid4()}"'.encode())
        yield f"log: {name}, {said}", log.append, 1
    yield f"log: per subscriber, {said}", _delivery(Log(nursery, span, [0], size)), _SUBSCRIBERS


def _delivery(log: Log) -> Call:
    """Return a pass over a large room, which ends with the last subscriber."""

    class Last(Nowhere):
        done: trio.Event

        def put(self, subscription: Subscription, batch: Batch) -> None:
            super().put(subscription, batch)
            self.done.set()

    last = Last()
    log.fill()
    for number in range(_SUBSCRIBERS):
        receiver = last if number == _SUBSCRIBERS - 1 else Nowhere()
        log.hub.subscribe(room_key(room(0)), receiver, f'"{uuid.uuid4()}"'.encode())

    async def deliver() -> None:
        last.done = trio.Event()
        log.append()
        await last.done.wait()

    return deliver


def recovery_cases(size: int, span: Span, nursery: trio.Nursery) -> Iterator[Case]:
    """Recovery: of a client that knows no positions, asks for them, or missed some; of that one alone and of many."""
    log, receiver = Log(nursery, span, [1], size), Nowhere()
    log.fill()
    since = log.history.positions.token(log.history.positions.last)
    for _ in range(_MISSED):
        log.append()
    rules = Rules(Dialect2(), log.hub, 200, 2048, 128, recovery=log.recovery)
    session = Session(rules, [{"target": "room", "id": "*"}], receiver, "bench")
    command = {"type": "subscribe", "requestId": str(uuid.uuid4()), "room": room(1)}
    unsubscribe = canonical({**command, "type": "unsubscribe"})

    def come(asked: dict[str, object], *, alone: bool = False) -> Call:
        subscribe = canonical({**command, **asked})

        def call() -> None:
            reply = session.receive(subscribe)
            text_frame(reply.text.encode())
            if reply.replay is not None:
                receiver.put(*reply.replay)
            session.receive(unsubscribe)
            if alone:
                log.recovery.tidy()

        return call

    yield "recovery: without since", come({}), 1
    yield "recovery: since null", come({"since": None}), 1
    yield f"recovery: {_MISSED} missed", come({"since": since}, alone=True), 1
    yield f"recovery: {_MISSED} missed, as by others", come({"since": since}), 1


def collector_cases(size: int, span: Span, nursery: trio.Nursery) -> Iterator[Case]:
    """Collector: a full collection of a history that is full, and of nothing that was there before."""
    gc.collect()
    gc.freeze()
    log = Log(nursery, span, range(1000), size)
    log.fill()

    def collect() -> int:
        gc.collect()
        return len(log.history)  # which is still there

    yield "collector: full history", collect, 1


async def measure(call: Call, amount: int, seconds: float) -> float:
    """Return the microseconds of CPU that a unit of `call` costs, called for about `seconds`."""
    count, spent = 1, 0.0
    while spent < seconds:
        count = max(count + 1, min(count * 10, int(count * seconds / spent * 1.1) if spent else count * 10))
        begin = time.process_time()
        if iscoroutinefunction(call):
            for _ in range(count):
                await call()
        else:
            for _ in range(count):
                call()
        spent = time.process_time() - begin
    return spent / count / amount * 1e6


async def measure_all(args: argparse.Namespace) -> Report:
    """Run all the cases in turn, `runs` times; the first measurement of each is its warm-up."""
    report = Report("core", vars(args), COLUMNS)
    async with trio.open_nursery() as nursery:
        for make in (collector_cases, cases):  # the collector first, or it would see what the others make
            made = list(make(args.size, Span(3600, args.kept * 2**20), nursery))
            report.expected_runs += args.runs * len(made)
            for number in range(args.runs + 1):
                for name, call, amount in made:
                    us = await measure(call, amount, args.seconds if number else _WARM_UP_SECONDS)
                    if number:
                        report.add(name, {"us": us})
    return report


def run(args: argparse.Namespace) -> Report:
    """Measure on the core of the server."""
    os.sched_setaffinity(0, {SERVER_CORE})
    report = trio.run(measure_all, args)
    report.finish(args.json)
    return report


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="CPU time of one measurement (default %(default)s)")
    parser.add_argument("--kept", type=options.positive, default=32, help="MB of a history (default %(default)s)")
    options.add_size(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
