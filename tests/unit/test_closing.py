"""How a connection ends: every event in every state, on the table alone, on an outbox, and in time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import product

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import MockClock, lockstep_stream_pair

from tests.unit.conftest import CAR, frames, opcode, parts, quiet, settled
from tests.unit.test_connection import fields
from tests.unit.test_outbox import batch, make_client, reply
from trio_templar.core.frames import close_frame
from trio_templar.delivery.closing import Closing, Do, Event
from trio_templar.errors import CRASHED, DROPPED, GONE, STOPPING, STUCK, Close
from trio_templar.testing import FakeBackend, MemoryGateway, open_gateway

BYE = Close(4000, "bye")


def test_the_laws_of_the_table() -> None:
    for events in product(Event, repeat=4):
        check(events)


def check(events: Sequence[Event]) -> None:
    closing = Closing()
    reasons = [Close(4000 + number, event.name) for number, event in enumerate(events)]
    steps = []
    for event, why in zip(events, reasons, strict=True):
        was_open, was_over, known = closing.open, closing.over, closing.why
        step = closing.on(event, why)
        steps.append(step or Do.NOTHING)
        assert closing.open == (closing.why is None)
        assert closing.why == (known or (None if closing.open else why)), "the first reason wins"
        assert not was_over or (step is None and closing.over), "an end is the last there is"
        assert was_open or Do.SAY not in steps[-1], "only what closes it says so"
        assert Do.DROP not in steps[-1] or event is Event.CUT
        if event in (Event.LOST, Event.CRASHED, Event.CANCELLED) or (event is Event.LATE and not was_open):
            assert closing.over, "nothing is waited for"
    assert sum(Do.SAY in step for step in steps) <= 1, "one close frame"
    assert sum(Do.DROP in step for step in steps) <= 1, "what is left then may be the middle of a frame"
    assert not (closing.all_said and any(Do.GIVE_UP in step for step in steps)), "what is given up was not said"
    assert not closing.over or closing.all_said != any(Do.GIVE_UP in step for step in steps)


class AnyEnd(RuleBasedStateMachine):
    """Whatever happens to a client in whatever state: its bytes are whole frames, the close frame is the last."""

    @initialize(state=st.sampled_from(["open", "waiting", "closing", "closed", "lost"]), first=st.integers(0, 40))
    def begin(self, state: str, first: int) -> None:
        self.client = make_client(max_bytes=2000, max_frames=10)
        self.first: Close | None = None
        self.written: bytes | None = None  # when it was over
        self.ended = False
        match state:
            case "waiting" | "closing":
                self.put([first], 50)
                self.reply([])
                if state == "closing":
                    self.close([], ready=False)
            case "closed":
                self.close([], ready=False)
            case "lost":
                self.lose_the_peer()

    def happen(self, event: Callable[[], object], why: Close) -> None:
        """Let `event` be the end, of which `why` is the reason if it is the first."""
        if self.first is None:
            self.first = self.client.outbox.closed or why  # a bound may have been the first
        event()

    @precondition(lambda self: not self.ended)
    @rule(takes=st.lists(st.integers(0, 100), max_size=2), size=st.integers(0, 100))
    def put(self, takes: list[int], size: int) -> None:
        self.client.transport.takes = takes
        self.client.outbox.put(self.client.subscription, batch("x" * size))
        self.first = self.first or self.client.outbox.closed

    @precondition(lambda self: not self.ended)
    @rule(takes=st.lists(st.integers(0, 10), max_size=2))
    def reply(self, takes: list[int]) -> None:
        self.client.transport.takes = takes
        self.client.outbox.reply(reply("said"))
        self.first = self.first or self.client.outbox.closed

    @rule(size=st.integers(0, 100))
    def write(self, size: int) -> None:
        self.client.write(size)

    @rule(takes=st.lists(st.integers(0, 3), max_size=1), ready=st.booleans())
    def close(self, takes: list[int], ready: bool) -> None:
        self.client.transport.takes = takes
        self.happen(lambda: self.client.outbox.close(BYE, close_frame(BYE) if ready else None), BYE)

    @rule(takes=st.lists(st.integers(0, 3), max_size=1))
    def cut(self, takes: list[int]) -> None:
        self.client.transport.takes = takes
        self.happen(lambda: self.client.outbox.cut(STUCK), STUCK)
        backlog = self.client.outbox._backlog
        assert backlog is None or not backlog.policies, "no publication waits"

    @rule()
    def lose_the_peer(self) -> None:
        written = len(self.client.transport.written)
        self.happen(lambda: self.client.outbox.close(GONE), GONE)
        assert len(self.client.transport.written) == written, "there is nobody to write to"
        assert self.client.outbox.closing.over

    @rule()
    def fail_to_write(self) -> None:
        if not self.client.outbox.idle:
            self.client.transport.error = BrokenPipeError()
            self.happen(self.client.outbox.write_more, GONE)
            self.client.transport.error = None
            assert self.client.outbox.closing.over

    @rule()
    def be_late(self) -> None:
        known = self.client.outbox.closed
        self.client.outbox.give_up()
        assert self.client.outbox.closed == known, "what is open is not late"
        assert self.client.outbox.closing.over == (known is not None)

    @rule(takes=st.lists(st.integers(0, 3), max_size=1), crashed=st.booleans())
    def end(self, takes: list[int], crashed: bool) -> None:
        self.client.transport.takes = takes
        event, why = (Event.CRASHED, CRASHED) if crashed else (Event.CANCELLED, DROPPED)
        could_write = self.client.outbox.closing.open and self.client.outbox.idle and not takes
        self.happen(lambda: self.client.outbox.end(event, why), why)
        self.ended = True
        assert self.client.outbox.closing.over
        if could_write:
            said = self.client.transport.written.endswith(close_frame(CRASHED))
            assert said == crashed, "who was harmed by us is told, if that can be done at once"

    @invariant()
    def the_laws_hold(self) -> None:
        outbox, written = self.client.outbox, bytes(self.client.transport.written)
        assert outbox.closed == self.first, "the first reason wins"
        if outbox.closing.over:
            assert self.written is None or self.written == written, "nothing is written after the end"
            self.written = written
            assert (outbox.idle, self.client.backlogs.bytes, self.client.backlogs.outboxes) == (True, 0, set())
        if outbox.closing.all_said:
            *before, last = [opcode(first) for first, _ in frames(written)]
            assert (8 in before, last) == (False, 8), "one close frame, and nothing after it"

    def teardown(self) -> None:
        self.client.write_all()
        assert self.client.outbox.closing.over == (self.first is not None), "all that closes ends once it is written"
        self.the_laws_hold()


TestAnyEnd = AnyEnd.TestCase
TestAnyEnd.settings = settings(max_examples=300, stateful_step_count=10)


def disconnect(running: MemoryGateway) -> None:
    for connection in parts(running).clients.connections:
        connection.outbox.close(BYE)


def cut(running: MemoryGateway) -> None:
    for connection in parts(running).clients.connections:
        connection.outbox.cut(STUCK)


def send_away(running: MemoryGateway) -> None:
    for connection in parts(running).clients.connections:
        connection.send_away(STOPPING, 0)


@pytest.mark.parametrize("again", [disconnect, cut, send_away])
@pytest.mark.parametrize("first", [disconnect, cut, send_away])
async def test_a_goodbye_has_one_deadline_and_one_line_however_often_it_is_said(
    first: Callable[[MemoryGateway], None],
    again: Callable[[MemoryGateway], None],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway(quiet(goodbye_seconds=3), backend=FakeBackend([CAR])) as running:
        client = await running.connect(make_pair=lockstep_stream_pair)
        await client.receive()
        await client.subscribe(1, CAR)
        await settled()
        await running.gateway.publish([CAR], 1)  # and it never reads this
        first(running)
        await trio.sleep(2)
        again(running)
        await trio.sleep(2)
        assert running.gateway.statistics().connections == 0
    [line] = fields(caplog, "close")
    codes = {"disconnect": 4000, "cut": 1013, "send_away": 1012}
    assert (line["code"], line["seconds"]) == (codes[first.__name__], 3)
