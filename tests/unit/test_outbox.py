"""The outbox: whatever the socket takes, the bytes are the right frames in the right order, and nothing is torn."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.conftest import FakeTransport, frames, make_backlogs, opcode, texts, write_all
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.frames import Batch, close_frame, read_close, text_frame
from trio_templar.core.hub import Hub, Subscription
from trio_templar.core.policies import Policy
from trio_templar.delivery.backlog import WRITE_BYTES, Backlogs
from trio_templar.delivery.outbox import Outbox
from trio_templar.delivery.tally import Report
from trio_templar.errors import CRASHED, GONE, SLOW_BYTES, SLOW_FRAMES, STUCK, Close
from trio_templar.net.wire import PIECE_BYTES

BYE = Close(1012, "bye")


@dataclass
class Client:
    """One outbox over a transport that takes what it is told, subscribed under the requestId 1."""

    transport: FakeTransport
    backlogs: Backlogs
    outbox: Outbox
    hub: Hub
    subscription: Subscription

    @property
    def said(self) -> list[str]:
        """The texts of all whole frames that were written."""
        return texts(bytes(self.transport.written))

    def write(self, size: int | None = None) -> int:
        """Play one turn of the write loop, whose socket takes `size` bytes; return how many were taken."""
        if size is not None:
            self.transport.takes.insert(0, size)
        return self.outbox.write_more()

    def write_all(self) -> None:
        self.transport.takes.clear()
        write_all(self.outbox)


def make_client(
    *takes: int, max_bytes: int = 100_000, max_frames: int = 1000, now: Callable[[], float] | None = None
) -> Client:
    transport = FakeTransport(list(takes))
    backlogs = make_backlogs(max_bytes, max_frames, now=now)
    outbox = Outbox(transport, transport, backlogs)
    hub = Hub()
    return Client(transport, backlogs, outbox, hub, hub.subscribe(b"room", outbox, b"1"))


def batch(*data: Any) -> Batch:
    return Batch([DIALECTS["2"].publication(json.dumps(each).encode()) for each in data])


def message(data: Any, request_id: Any = 1) -> str:
    return json.dumps({"requestId": request_id, "type": "publish", "data": data})


def reply(text: str) -> bytes:
    return text_frame(text.encode())


def test_what_is_put_into_an_idle_outbox_is_written_at_once() -> None:
    client = make_client()
    client.outbox.put(client.subscription, batch("a", "b"))
    assert client.said == [message("a"), message("b")]
    assert (client.outbox.idle, client.outbox.write_more(), client.transport.loops) == (True, 0, 0)
    assert (client.outbox.publications, client.outbox.sent_bytes) == (2, len(client.transport.written))


def test_what_the_socket_did_not_take_waits_for_one_write_loop() -> None:
    client = make_client(5)
    client.outbox.put(client.subscription, batch("a"))
    client.outbox.put(client.subscription, batch("b"))
    assert (client.outbox.idle, client.transport.loops) == (False, 1)
    client.write_all()
    assert client.said == [message("a"), message("b")]
    assert client.outbox.idle


def test_the_write_loop_may_take_byte_by_byte() -> None:
    client = make_client(0)
    for each in "abc":
        client.outbox.put(client.subscription, batch(each))
    while client.write(1):
        pass
    assert client.said == [message("a"), message("b"), message("c")]


def test_an_outbox_that_is_idle_again_writes_at_once_again() -> None:
    client = make_client(1)
    client.outbox.put(client.subscription, batch("a"))
    client.write_all()
    client.outbox.put(client.subscription, batch("b"))
    assert client.said == [message("a"), message("b")]
    assert client.transport.loops == 1


def test_a_reply_goes_before_publications_that_wait_but_tears_no_frame() -> None:
    client = make_client(5)
    for each in "ab":
        client.outbox.put(client.subscription, batch(each))
    client.outbox.reply(reply("first"))
    client.outbox.reply(reply("second"))
    client.write_all()
    assert client.said == [message("a"), "first", "second", message("b")]


def test_frames_that_wait_are_joined_into_few_writes() -> None:
    client = make_client(0)
    for number in range(100):
        client.outbox.put(client.subscription, batch(number))
    client.write()
    assert client.write() == len(b"".join(reply(message(number)) for number in range(1, 100)))


def test_a_joined_write_is_bounded() -> None:
    client = make_client(0, max_bytes=10**6)
    big = "x" * 10_000
    for _ in range(30):
        client.outbox.put(client.subscription, batch(big))
    client.write()
    assert WRITE_BYTES <= client.write() < WRITE_BYTES + 2 * len(big)


def test_frames_of_a_subscription_that_ended_are_not_sent() -> None:
    client = make_client(0)
    other = client.hub.subscribe(b"other", client.outbox, b"2")
    client.outbox.put(client.subscription, batch("begun"))
    client.outbox.put(client.subscription, batch("never"))
    client.outbox.put(other, batch("other"))
    client.hub.unsubscribe(client.subscription)
    client.outbox.reply(reply("unsubscribed"))
    client.write_all()
    assert client.said == [message("begun"), "unsubscribed", message("other", 2)]
    assert client.outbox.publications == 2


def test_an_outbox_with_only_ended_subscriptions_becomes_idle() -> None:
    client = make_client(0)
    client.outbox.reply(reply("x"))
    client.outbox.put(client.subscription, batch("never"))
    client.hub.unsubscribe(client.subscription)
    client.write_all()
    assert (client.outbox.idle, client.backlogs.bytes, client.backlogs.outboxes) == (True, 0, set())


# The end


def test_a_close_on_an_idle_outbox_is_written_at_once() -> None:
    client = make_client()
    client.outbox.close(BYE)
    assert bytes(client.transport.written) == close_frame(BYE)
    assert (client.outbox.closed, client.outbox.closing.over) == (BYE, True)


def test_a_close_waits_for_what_waits() -> None:
    client = make_client(3)
    for each in "ab":
        client.outbox.put(client.subscription, batch(each))
    client.outbox.close(BYE)
    client.write_all()
    *before, last = frames(bytes(client.transport.written))
    assert [payload.decode() for _, payload in before] == [message("a"), message("b")]
    assert read_close(b"\x88" + bytes([len(last[1])]) + last[1]) == BYE


def test_after_the_first_close_nothing_more_is_sent() -> None:
    client = make_client()
    client.outbox.close(BYE)
    client.outbox.close(STUCK)
    client.outbox.cut(STUCK)
    client.outbox.put(client.subscription, batch("a"))
    client.outbox.reply(reply("b"))
    assert bytes(client.transport.written) == close_frame(BYE)
    assert (client.outbox.closed, client.outbox.closing.over) == (BYE, True)


def test_a_close_frame_that_is_made_already_is_sent_as_it_is() -> None:
    for takes in ([], [0]):
        client = make_client(*takes)
        client.outbox.close(Close(1000, "x"), b"\x88\x02\x03\xe8")
        client.write_all()
        assert bytes(client.transport.written) == b"\x88\x02\x03\xe8"


def test_a_cut_drops_publications_but_keeps_replies_and_tears_no_frame() -> None:
    client = make_client(3)
    for each in "ab":
        client.outbox.put(client.subscription, batch(each))
    client.outbox.reply(reply("said"))
    client.outbox.cut(STUCK)
    assert client.backlogs.bytes == len(reply(message("a"))) - 3 + len(reply("said"))
    client.write_all()
    assert texts(bytes(client.transport.written)) == [message("a"), "said"]
    assert bytes(client.transport.written).endswith(close_frame(STUCK))
    assert client.backlogs.bytes == 0


def test_a_cut_gives_up_frames_that_were_joined_but_are_not_under_way() -> None:
    client = make_client(0, max_bytes=10**6)
    client.outbox.put(client.subscription, batch("first"))
    for number in range(15):
        client.outbox.put(client.subscription, batch([number, "x" * 2000], [number, "y" * 2000]))
    client.write()  # the first
    client.write(10)
    assert client.outbox.waiting_frames == 0, "all others are joined now"
    client.outbox.cut(STUCK)
    assert PIECE_BYTES < client.backlogs.bytes < PIECE_BYTES + 3000
    assert client.backlogs.budget.used_bytes < PIECE_BYTES + 3000
    client.write_all()
    kept = [[0, "x" * 2000], [0, "y" * 2000], [1, "x" * 2000], [1, "y" * 2000]]
    assert client.said == [message("first"), *map(message, kept)]
    assert client.outbox.publications == 5
    assert client.backlogs.losses.dropped["disconnect"] == 26
    assert bytes(client.transport.written).endswith(close_frame(STUCK))
    assert client.backlogs.budget.used_bytes == 0


def test_a_report_counts_what_a_cut_gave_up_of_a_joined_write() -> None:
    client = make_client(0, max_bytes=10**6)
    report = Report()
    (tally,) = report.tallies(1)
    publications = batch(*(str(number) * 4000 for number in range(8))).publications
    tally.offer(8)
    client.outbox.put(client.subscription, Batch([each._replace(tally=tally) for each in publications]))
    client.write(10)
    client.outbox.cut(STUCK)
    counts = tally.counts(waiting=True)
    assert counts == {"subscriptions": 8, "written": 0, "queued": 3, "conflated": 0, "dropped": 5, "waiting": 3}
    client.write_all()
    assert tally.counts(waiting=True)["waiting"] == 0


def test_a_cut_in_the_middle_of_the_handshake_answer_keeps_all_of_it() -> None:
    client = make_client(5)
    opening = b"HTTP/1.1 101 " + b"x" * 10_000 + reply("welcome")
    client.outbox.reply(opening)
    client.outbox.cut(STUCK)
    client.write_all()
    assert bytes(client.transport.written) == opening + close_frame(STUCK)


def test_a_peer_that_is_gone_is_sent_no_close_frame() -> None:
    client = make_client()
    client.outbox.close(GONE)
    assert not client.transport.written
    assert client.outbox.closing.over


@pytest.mark.parametrize("error", [BrokenPipeError(), ConnectionResetError(), OSError(9, "Bad file descriptor")])
def test_a_socket_that_fails_ends_this_connection_and_nothing_else(error: OSError) -> None:
    client = make_client()
    client.transport.error = error
    client.outbox.put(client.subscription, batch("a"))
    assert (client.outbox.closed, client.outbox.closing.over, client.backlogs.outboxes) == (GONE, True, set())


def test_a_socket_that_fails_at_the_close_frame_keeps_the_reason() -> None:
    client = make_client()
    client.transport.error = BrokenPipeError()
    client.outbox.close(BYE)
    assert (client.outbox.closed, client.outbox.closing.over) == (BYE, True)


def test_what_is_given_up_counts_no_more() -> None:
    client = make_client(0)
    client.outbox.put(client.subscription, batch("a"))
    client.outbox.put(client.subscription, batch("b"))
    client.outbox.close(GONE)
    assert (client.backlogs.bytes, client.backlogs.outboxes, client.outbox.idle) == (0, set(), True)
    assert client.outbox.write_more() == 0


@pytest.mark.parametrize("takes", [[], [5]], ids=["nothing waits", "something waits"])
def test_a_crash_is_a_1011_if_that_can_be_said_at_once(takes: list[int]) -> None:
    client = make_client(*takes)
    client.outbox.put(client.subscription, batch("a"))
    client.outbox.crash()
    assert (client.outbox.closed, client.outbox.closing.over) == (CRASHED, True)
    assert bytes(client.transport.written).endswith(close_frame(CRASHED)) == (not takes)
    assert (client.outbox.idle, client.backlogs.budget.used_bytes) == (True, 0)


def test_a_crash_ends_the_client_also_if_what_has_failed_fails_again() -> None:
    client = make_client()

    def fail(_: object) -> int:
        raise RuntimeError("a fault of ours")

    client.transport.write_nowait = fail  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        client.outbox.put(client.subscription, batch("a"))
    client.outbox.crash()
    assert (client.outbox.closed, client.outbox.closing.over, client.transport.closings) == (CRASHED, True, 1)


# Bounds


def test_a_client_over_its_bytes_is_cut() -> None:
    client = make_client(0, max_bytes=100)
    client.outbox.put(client.subscription, batch("x" * 50))  # 93 bytes wait
    client.outbox.put(client.subscription, batch("y" * 50))
    assert client.outbox.closed is None
    client.outbox.put(client.subscription, batch("z"))
    assert client.outbox.closed == SLOW_BYTES
    client.write_all()
    assert client.said == [message("x" * 50)]


def test_one_large_publication_never_cuts_a_client_for_which_little_waits() -> None:
    client = make_client(0, max_bytes=100)
    client.outbox.put(client.subscription, batch("x"))
    client.outbox.put(client.subscription, batch("y" * 10_000))
    assert client.outbox.closed is None
    client.write_all()
    assert client.said == [message("x"), message("y" * 10_000)]


def test_a_client_over_its_frames_is_cut() -> None:
    client = make_client(0, max_frames=3)
    for number in range(4):
        client.outbox.put(client.subscription, batch(number))
    assert client.outbox.closed is None, "one is being written, three wait"
    client.outbox.put(client.subscription, batch(4))
    assert client.outbox.closed == SLOW_FRAMES


def test_replies_count_too() -> None:
    client = make_client(0, max_frames=3)
    for _ in range(4):
        client.outbox.reply(reply("pong"))
    assert client.outbox.closed is None
    client.outbox.reply(reply("pong"))
    assert client.outbox.closed == SLOW_FRAMES


def test_a_frame_is_not_cut_for_what_was_sent_already() -> None:
    client = make_client(0, max_bytes=100)
    for _ in range(50):
        client.outbox.put(client.subscription, batch("x" * 50))
        client.write_all()
        client.transport.takes = [0]
    assert client.outbox.closed is None


class AnySocket(RuleBasedStateMachine):
    """Puts, replies, unsubscribes, partial writes and closes in any order, against a list of what must be read."""

    @initialize(first=st.integers(0, 40))
    def begin(self, first: int) -> None:
        self.client = make_client(first, max_bytes=400, max_frames=6)
        self.subscriptions = {
            request_id: self.client.hub.subscribe(b"room", self.client.outbox, json.dumps(request_id).encode())
            for request_id in ("a", "bb", 3)
        }
        self.count = 0
        self.put: list[str] = []
        self.replied: list[str] = []
        self.void: dict[str, str] = {}  # what need not be sent, and the reply after which it must not

    @property
    def outbox(self) -> Outbox:
        return self.client.outbox

    @rule(
        request_id=st.sampled_from(["a", "bb", 3]),
        count=st.integers(1, 3),
        size=st.sampled_from([0, 5, 130]),
        takes=st.lists(st.integers(0, 200), max_size=1),
    )
    def publish(self, request_id: Any, count: int, size: int, takes: list[int]) -> None:
        subscription = self.subscriptions[request_id]
        if subscription.room is None:
            return
        self.client.transport.takes = takes
        data = [f"{self.count + each}{'x' * size}" for each in range(count)]
        self.count += count
        open_before = self.outbox.closed is None
        self.outbox.put(subscription, batch(*data))
        if open_before and self.outbox.closed is None:
            self.put += [message(each, request_id) for each in data]

    @rule(takes=st.lists(st.integers(0, 50), max_size=1))
    def say(self, takes: list[int]) -> None:
        self.client.transport.takes = takes
        text = f"reply {self.count}"
        self.count += 1
        self.outbox.reply(reply(text))
        if self.outbox.closed is None:
            self.replied.append(text)

    @rule(request_id=st.sampled_from(["a", "bb", 3]))
    def unsubscribe(self, request_id: Any) -> None:
        self.client.hub.unsubscribe(self.subscriptions[request_id])
        self.say([])
        for text in self.put:
            if json.loads(text)["requestId"] == request_id:
                self.void.setdefault(text, f"reply {self.count - 1}")

    @precondition(lambda self: self.outbox.closed is None)
    @rule(request_id=st.sampled_from(["a", "bb", 3]))
    def subscribe_again(self, request_id: Any) -> None:
        if self.subscriptions[request_id].room is None:
            key = json.dumps(request_id).encode()
            self.subscriptions[request_id] = self.client.hub.subscribe(b"room", self.outbox, key)

    @rule(size=st.integers(1, 300))
    def write(self, size: int) -> None:
        self.client.write(size)

    @precondition(lambda self: self.count > 10)
    @rule(how=st.sampled_from(["close", "cut", "peer", "lost"]))
    def end(self, how: str) -> None:
        match how:
            case "close":
                self.outbox.close(BYE)
            case "cut":
                self.outbox.cut(BYE)
            case "peer":
                self.outbox.close(BYE, close_frame(BYE))
            case "lost":
                self.outbox.close(GONE)

    @invariant()
    def bytes_are_counted(self) -> None:
        assert self.client.backlogs.bytes == self.outbox.waiting_bytes >= 0
        waits = self.outbox in self.client.backlogs.outboxes
        assert (self.outbox.waiting_bytes > 0) <= (not self.outbox.idle) == waits
        assert self.outbox.sent_bytes == len(self.client.transport.written)

    def teardown(self) -> None:
        self.client.write_all()
        assert (self.client.backlogs.bytes, self.client.backlogs.outboxes, self.outbox.idle) == (0, set(), True)
        written = bytes(self.client.transport.written)
        if self.outbox.closing.over and not self.outbox.closing.all_said:
            return  # whatever was under way may be torn: there is nobody to read it
        self.read(written)

    def read(self, written: bytes) -> None:
        read = frames(written)
        if self.outbox.closed is not None:
            first, _ = read.pop()
            assert opcode(first) == 8, "the close frame is the last"
        said = [payload.decode() for first, payload in read if opcode(first) == 1]
        assert len(said) == len(read)
        replies = [text for text in said if text.startswith("reply")]
        published = [text for text in said if not text.startswith("reply")]
        assert replies == self.replied
        assert len(set(published)) == len(published)
        order = [text for text in self.put if text in set(published)]
        assert published == order, "in the order they were put"
        for text, answer in self.void.items():
            if text in said and answer in said:
                assert said.index(text) < said.index(answer), "nothing after the unsubscribe was answered"
        missing = set(self.put) - set(published)
        if self.outbox.closed is None:
            assert missing <= set(self.void), "only what was unsubscribed is not sent"
        else:
            kept = [text for text in self.put if text not in self.void]
            heard = [text for text in published if text not in self.void]
            assert heard == kept[: len(heard)], "a cut leaves no hole"


TestAnySocket = AnySocket.TestCase
TestAnySocket.settings = settings(max_examples=40, stateful_step_count=30)


@pytest.mark.parametrize("at_once", [1, 40])
@pytest.mark.parametrize("kind", ["drop_oldest", "conflate"])
def test_what_may_be_left_out_never_cuts_a_client_with_a_small_outbox(
    kind: Literal["drop_oldest", "conflate"], at_once: int
) -> None:
    client = make_client(0, max_bytes=32_768)
    assert client.subscription.room is not None
    key = ("id",) if kind == "conflate" else ()
    client.subscription.room.policy = Policy(kind, 32_768, key)
    for turn in range(5):
        publications = [batch({"id": number, "turn": turn, "text": "x" * 1000}) for number in range(40)]
        if at_once > 1:
            publications = [Batch([each.publications[0] for each in publications])]
        for each in publications:
            client.outbox.put(client.subscription, each)
        client.write(1100)  # the first, and what waits is joined
        for each in publications:
            client.outbox.put(client.subscription, each)
    assert client.outbox.closed is None
    client.write_all()
    assert json.loads(client.said[-1])["type"] in ("publish", "gap")
    assert client.outbox.closed is None


def test_to_cut_a_client_takes_no_longer_than_to_put_what_waits_for_it() -> None:
    put, cut = [], []
    for _ in range(3):
        client = make_client(0, max_bytes=1_000_000, max_frames=10_000)
        start = time.process_time()
        for _ in range(1300):
            client.outbox.put(client.subscription, batch(1))
        put.append(time.process_time() - start)
        client.write()  # the first; the others are joined
        start = time.process_time()
        client.outbox.cut(STUCK)
        cut.append(time.process_time() - start)
    assert min(cut) < 2 * min(put)  # if it were quadratic: ten times


@pytest.mark.parametrize(("size", "writes"), [(1000, 2), (100, 3), (40_000, 4)])
def test_a_pass_that_is_a_little_too_long_for_one_write_takes_as_few_as_it_can(size: int, writes: int) -> None:
    count = {1000: 66, 100: 1100, 40_000: 4}[size]
    batch = Batch([DIALECTS["2"].publication(b'"%s"' % (b"x" * size)) for _ in range(count)])
    client = make_client(max_bytes=1_000_000)
    client.outbox.put(client.subscription, batch)
    assert len(client.said) == count
    assert client.transport.writes == writes
