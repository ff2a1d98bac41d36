"""The pure parts of the gateway, without sockets: what a regression would show first.

Each case is one call in a loop, in this process, on the core of the server: microseconds of CPU per call. `publish` is
a pass over a room of 1000 subscriptions whose receivers throw everything away, per delivery.
"""

import argparse
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

from bench import options
from bench.process import SERVER_CORE
from bench.report import Column, Report
from bench.target import room, trigger
from bench.wire import canonical, data_of
from trio_templar.core.dialects import Dialect2
from trio_templar.core.frames import Batch, text_frame
from trio_templar.core.hub import Hub, Subscription
from trio_templar.core.policies import Policy
from trio_templar.core.rooms import is_allowed, room_key
from trio_templar.core.session import Rules, Session
from trio_templar.core.triggers import TriggerReader

COLUMNS = (Column("us", "CPU µs/call", 3),)
_SUBSCRIBERS = 1000


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


Case = tuple[str, Callable[[], object], int]


def cases(size: int) -> Iterator[Case]:
    """Yield (name, call, how much one call does)."""
    yield from frame_cases(size)
    yield from room_cases()
    yield from message_cases(size)
    yield from publish_cases(size)


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


def measure(call: Callable[[], object], amount: int, seconds: float) -> float:
    """Return the microseconds of CPU that a unit of `call` costs, called for about `seconds`."""
    count, spent = 1, 0.0
    while spent < seconds:
        count = max(count + 1, min(count * 10, int(count * seconds / spent * 1.1) if spent else count * 10))
        begin = time.process_time()
        for _ in range(count):
            call()
        spent = time.process_time() - begin
    return spent / count / amount * 1e6


def run(args: argparse.Namespace) -> Report:
    """Run all the cases in turn, `runs` times; the first call of each is its warm-up."""
    os.sched_setaffinity(0, {SERVER_CORE})
    all_cases = list(cases(args.size))
    report = Report("core", vars(args), COLUMNS, args.runs * len(all_cases))
    for _ in range(args.runs):
        for name, call, amount in all_cases:
            call()
            report.add(name, {"us": measure(call, amount, args.seconds)})
    report.finish(args.json)
    return report


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure and print."""
    parser = options.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="CPU time of one measurement (default %(default)s)")
    options.add_size(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
