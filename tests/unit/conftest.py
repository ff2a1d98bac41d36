"""What the unit tests share: strategies of JSON, settings without sockets, a transport that takes so much."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import httpx
import hypothesis
import trio
import trio.testing
from hypothesis import strategies as st

from trio_templar import Settings
from trio_templar.core.frames import header
from trio_templar.core.history import History
from trio_templar.core.hub import Hub, Subscription
from trio_templar.core.policies import Policy
from trio_templar.core.position import Positions
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.bus import LocalBus
from trio_templar.delivery.fanout import Fanout
from trio_templar.delivery.follower import Follower
from trio_templar.delivery.outbox import Outbox, Overdue
from trio_templar.gateway import Gateway
from trio_templar.testing import Closed, MemoryGateway, WebsocketClient
from trio_templar.wiring import Parts, http_app_of

hypothesis.settings.register_profile("unit", derandomize=True, deadline=None, database=None, max_examples=60)
hypothesis.settings.load_profile("unit")

CAR = {"target": "car"}
RIDE = {"target": "ride"}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc*", max_size=2), inner, max_size=3),
    max_leaves=6,
)
rooms = st.dictionaries(st.text("abc*", max_size=2), json_values | st.sampled_from(["*", 1, True, 1.0]), max_size=3)


def quiet(**changes: Any) -> Settings:
    """Settings that bind no socket."""
    return Settings(**{"bind": (), "trigger_bind": "", **changes})


def texts(data: bytes) -> list[str]:
    """Cut server frames into the texts they carry; anything but whole text frames is an error."""
    return [payload.decode() for first, payload in frames(data) if opcode(first) == 1]


def opcode(first: int) -> int:
    assert first & 0xF0 == 0x80, f"{first:#x} is no final frame without extensions"
    return first & 0x0F


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Cut server frames into first bytes and payloads; a torn frame at the end is an error."""
    found = []
    while data:
        size, start = data[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start])
        assert data.startswith(header(data[0], size)), "not the shortest header"
        assert len(data) >= start + size, "a torn frame"
        found.append((data[0], data[start : start + size]))
        data = data[start + size :]
    return found


class FakeTransport:
    """Takes the next of `takes` bytes at each write (all of them once `takes` is empty); remembers what it was told."""

    def __init__(self, takes: list[int] | None = None) -> None:
        self.takes = takes or []
        self.written = bytearray()
        self.error: OSError | None = None
        self.writes = self.loops = 0
        self.closings = 0
        self.overdue: Overdue | None = None

    def write_nowait(self, data: bytes | memoryview) -> int:
        if self.error is not None:
            raise self.error
        self.writes += 1
        size = min(self.takes.pop(0), len(data)) if self.takes else len(data)
        self.written += data[:size]
        return size

    def start_writing(self) -> None:
        self.loops += 1

    def on_closing(self) -> None:
        self.closings += 1

    def too_slow(self, overdue: Overdue) -> None:
        assert self.overdue is None, "it is told once"
        self.overdue = overdue


def write_all(outbox: Outbox) -> None:
    """Play the write loop of a client whose socket takes everything."""
    while not outbox.idle:
        outbox.write_more()


class Now:
    """A clock that stands until a test says so; in seconds."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def make_backlogs(
    max_bytes: int = 10**6, max_frames: int = 1000, *, hard_bytes: int = 2**40, now: Callable[[], float] | None = None
) -> Backlogs:
    return Backlogs(max_bytes, max_frames, Budget(hard_bytes), now or Now())


class FakeReceiver:
    """Remembers what was put; `when_put` is called at each."""

    def __init__(self, when_put: Callable[[], object] = lambda: None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.counts: list[int] = []
        self.half = (1_000_000, 1000)  # bytes and frames until it is half full
        self.when_put = when_put
        self.crashed = False

    def put(self, subscription: Subscription, batch: Any) -> None:
        self.counts.append(batch.count)
        self.messages += [json.loads(text) for text in texts(batch.render(subscription.request_id, subscription.epoch))]
        self.when_put()

    def reply(self, frame: bytes) -> None:
        self.messages += [json.loads(text) for text in texts(frame)]

    def void(self, subscription: Subscription) -> None:
        pass

    def crash(self) -> None:
        self.crashed = True

    def spare(self, policy: Policy) -> tuple[int, int]:
        return self.half

    def first_waiting(self, subscription: Subscription) -> int | None:
        return None

    @property
    def data(self) -> list[Any]:
        return [message["data"] for message in self.messages]


def local_bus(hub: Hub, fanout: Fanout, history: History | None = None) -> LocalBus:
    """The log of a gateway that is alone; without `history` it keeps nothing."""
    return LocalBus(Follower(history or History(Positions()), hub, fanout), fanout)


def parts(running: MemoryGateway) -> Parts:
    """What a running gateway is made of: a test takes the part that it tests."""
    return running.gateway._parts


def operator(gateway: Gateway, token: str = "") -> httpx.AsyncClient:
    """Who calls the HTTP API of a running gateway, without a socket."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app=http_app_of(gateway._parts))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8002", headers=headers)


class Steps(trio.abc.Instrument):
    """Remembers by how much `count` grew in each step of a task; between two steps others have their turn."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._last = count()
        self.growth: list[int] = []

    def __enter__(self) -> list[int]:
        trio.lowlevel.add_instrument(self)
        return self.growth

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        before, self._last = self._last, self._count()
        self.growth.append(self._last - before)


async def closing(client: WebsocketClient) -> tuple[int, str]:
    """Read to the end and return the code and reason of the close."""
    try:
        while True:
            await client.receive_text()
    except Closed as closed:
        return closed.close.code, closed.close.reason


async def settled() -> None:
    """Wait until every other task waits for something."""
    await trio.testing.wait_all_tasks_blocked()


def one_line(text: str) -> bool:
    return len(text.splitlines()) == 1


PYTHON = sys.executable
