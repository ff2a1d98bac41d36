"""What a publisher is told over HTTP while one of three clients does not read; a second try changes nothing."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.e2e.api import Api
from tests.e2e.clients import CAR, dial, raw_subscriber, receive, request, reset, subscriber
from tests.e2e.processes import NEVER_LATE, GatewayProcess, gateway

REPORT = {"Accept": "application/json"}
# What a client that reads takes in one write, whatever else it has to do.
SIZE = 3000


class ThreeClients:
    """A gateway with two clients that read and one, `late`, that does not until it is told to."""

    def __init__(self, process: GatewayProcess, stack: ExitStack) -> None:
        self.process = process
        self.readers = [stack.enter_context(subscriber(process.websocket_url)) for _ in range(2)]
        self.late = stack.enter_context(raw_subscriber(process, receive_buffer=4096))
        self.published = 0

    def trigger(self, name: str = "") -> dict[str, Any]:
        self.published += 1
        return {"rooms": [CAR], "data": name or str(self.published) * SIZE}

    def post(self, body: Any, **headers: str) -> tuple[Any, dict[str, str]]:
        """Publish with a report; let those who read do so."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, answer, got = request(self.process.trigger_url, json.dumps(body).encode(), {**REPORT, **named})
        assert status == 200, answer
        return json.loads(answer), {name.lower(): value for name, value in got.items()}

    def read(self, count: int) -> list[Any]:
        """Return the data of the next `count` publications, the same for both."""
        first, second = ([json.loads(receive(reader))["data"] for _ in range(count)] for reader in self.readers)
        assert first == second
        return first

    def fill(self) -> None:
        """Publish until it waits for the late one."""
        while (counts := self.count(self.post(self.trigger())[0]))["queued"] == 0:
            assert counts == told(written=3)
            self.read(1)
        assert counts == told(written=2, queued=1)
        self.read(1)

    @staticmethod
    def count(report: Any) -> dict[str, int]:
        """Return the counts of the one room of a report."""
        (entry,) = report["rooms"]
        assert entry.pop("room") == CAR
        return entry  # type: ignore[no-any-return]  # JSON


def told(**counts: int) -> dict[str, int]:
    return {"subscriptions": 3, "written": 0, "queued": 0, "conflated": 0, "dropped": 0, **counts}


@contextmanager
def three_clients(api: Api, *settings: str) -> Iterator[ThreeClients]:
    with gateway(f"--api-url={api.url}", *NEVER_LATE, *settings) as process, ExitStack() as stack:
        yield ThreeClients(process, stack)


def drain(sock: socket.socket, end: bytes) -> bytes:
    """Read up to `end`, in large pieces."""
    data = bytearray()
    while end not in data:
        chunk = sock.recv(65_536)
        assert chunk, bytes(data[-200:])
        data += chunk
    return bytes(data)


def test_a_report_counts_whom_the_kernel_took_it_from_and_for_whom_it_waits(api: Api) -> None:
    with three_clients(api) as found:
        found.fill()
        report, headers = found.post([found.trigger(), found.trigger()])
        assert [found.count(each) for each in report] == 2 * [told(written=2, queued=1)]
        assert "preference-applied" not in headers


def test_with_prefer_wait_the_answer_says_what_still_waits_when_the_time_is_over(api: Api) -> None:
    with three_clients(api) as found:
        found.fill()
        start = time.monotonic()
        report, headers = found.post(found.trigger(), Prefer="wait=1")
        assert found.count(report) == told(written=2, queued=1, waiting=1)
        assert time.monotonic() - start >= 1
        assert headers["preference-applied"] == "wait=1"


def test_with_prefer_wait_the_answer_comes_as_soon_as_nothing_waits(api: Api) -> None:
    with three_clients(api) as found:
        found.fill()
        answers: list[Any] = []
        body = found.trigger("last")
        poster = threading.Thread(target=lambda: answers.append(found.post(body, Prefer="wait=60")))
        start = time.monotonic()
        poster.start()
        assert found.read(1) == ["last"]  # it waits for the other one now
        drain(found.late, b'"last"}')
        poster.join()
        assert time.monotonic() - start < 60
        ((report, headers),) = answers
        assert found.count(report) == told(written=2, queued=1, waiting=0)
        assert headers["preference-applied"] == "wait=60"


def test_a_report_counts_what_was_conflated(api: Api) -> None:
    with three_clients(api, '--room-policy={"policy": "conflate"}') as found:
        found.fill()
        report, _ = found.post([found.trigger() for _ in range(3)])
        assert [found.count(each) for each in report] == [
            told(written=2, conflated=1),
            told(written=2, conflated=1),
            told(written=2, queued=1),
        ]


def test_a_report_counts_what_was_dropped_with_a_client_that_was_cut(api: Api) -> None:
    with three_clients(api, "--outbox-bytes=20000", "--goodbye-seconds=10") as found:
        found.fill()
        reports: list[dict[str, int]] = []
        while not reports or reports[-1]["dropped"] == 0:
            reports.append(found.count(found.post(found.trigger())[0]))
            found.read(1)
        assert reports[:-1] == [told(written=2, queued=1)] * (len(reports) - 1)
        assert reports[-1] == told(written=2, dropped=1)
        found.process.log.wait("WARNING slow .*too slow: too many bytes wait")


def post_and_leave(found: ThreeClients, body: bytes, *headers: str) -> None:
    """Send a trigger, and reset the connection when the clients have it, without the answer."""
    host, _, port = found.process.http_url.removeprefix("http://").rpartition(":")
    sock = dial((host, int(port)))
    head = ["POST /trigger/ HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}", *headers, "", ""]
    sock.sendall("\r\n".join(head).encode() + body)
    assert found.read(1) == [json.loads(body)["data"]]
    reset(sock)


@pytest.mark.parametrize("prefer", [(), ("Prefer: wait=3",)], ids=["at once", "while the first waits"])
def test_a_request_that_is_sent_again_after_a_lost_answer_publishes_once(api: Api, prefer: tuple[str, ...]) -> None:
    with three_clients(api) as found:
        found.fill()
        body = found.trigger("paid")
        post_and_leave(
            found, json.dumps(body).encode(), "Idempotency-Key: order-17", "Accept: application/json", *prefer
        )
        for _ in range(2):
            report, _ = found.post(body, Idempotency_Key="order-17")
            counts = found.count(report)
            counts.pop("waiting", None)
            assert counts == told(written=2, queued=1), "the first answer"
        found.post(found.trigger("after"))
        assert found.read(1) == ["after"]
        assert drain(found.late, b'"after"}').count(b'"data": "paid"}') == 1


def test_a_key_that_comes_with_something_else_is_refused_and_publishes_nothing(api: Api) -> None:
    with three_clients(api) as found:
        found.post(found.trigger("paid"), Idempotency_Key="order-17")
        url, other = found.process.trigger_url, json.dumps(found.trigger("unpaid")).encode()
        assert request(url, other, {"Idempotency-Key": "order-17"})[0] == 422
        found.post(found.trigger("after"))
        assert found.read(2) == ["paid", "after"]
