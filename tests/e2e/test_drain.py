"""A drain of many clients at once, seen from outside: spread, told, and nothing lost."""

from __future__ import annotations

import json
import signal
import threading
import time
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.e2e.api import Api
from tests.e2e.clients import closing, connect, head, receive, request, seconds_of, subscriber
from tests.e2e.crowd import crowd
from tests.e2e.processes import PATIENCE_SECONDS, GatewayProcess, eventually, gateway
from tests.e2e.readers import descriptors

NEWS = {"target": "news"}
CLIENTS = 2000
DRAIN_SECONDS = 10
CLOSING_SECONDS = 0.75 * DRAIN_SECONDS  # the rest is for goodbyes


class Publisher:
    """Publishes the numbers from 0, one after the other, until it cannot; notes when each was answered with success."""

    def __init__(self, process: GatewayProcess) -> None:
        self.url = process.trigger_url
        self.answered: list[float] = []
        self.thread = threading.Thread(target=self._publish, daemon=True)
        self.thread.start()

    def _publish(self) -> None:
        while True:
            body = json.dumps({"rooms": [NEWS], "data": len(self.answered)}).encode()
            try:
                status, _, _ = request(self.url, body)
            except OSError:
                return
            if status != 200:
                return
            self.answered.append(time.monotonic())
            time.sleep(0.02)  # a pace, not a synchronisation


@pytest.mark.timed  # its promise: they are over in time
def test_2000_clients_drain_over_10_seconds_spread_and_without_a_loss() -> None:
    settings = ["--demo", f"--drain-seconds={DRAIN_SECONDS}", "--log-level=warning"]
    with descriptors(2 * CLIENTS), gateway(*settings) as process:
        with crowd(head(process, path="/ws/?token=ada"), process.address, NEWS, CLIENTS) as clients:
            publisher = Publisher(process)
            eventually(lambda: len(publisher.answered) >= 20)
            start = time.monotonic()
            before = len(publisher.answered)
            process.signal(signal.SIGTERM)
            clients.wait(DRAIN_SECONDS + 5)
            assert process.wait() == 0
            assert seconds_of(start) < DRAIN_SECONDS + 2
            publisher.thread.join()

            ends = [member.ended or 0 for member in clients.members]
            # Each is sent away in its turn, never before: a late machine sends several at once, all of them late.
            for place, end in enumerate(sorted(ends)):
                assert place / CLIENTS <= (end - start) / CLOSING_SECONDS + 0.05
            assert sorted(ends) != ends  # nor in the order in which they came

            assert {member.close_code for member in clients.members} == {1012}
            numbers = [member.data for member in clients.members]
            assert all(heard == list(range(len(heard))) for heard in numbers)
            assert min(map(len, numbers)) >= before
            # Nor did publishing end before the clients did: each quarter of them got more than the one before.
            counts = sorted(map(len, numbers))
            most = [counts[CLIENTS * quarter // 4 - 1] for quarter in (1, 2, 3, 4)]
            assert most == sorted(set(most))
            assert len(publisher.answered) > before + 20
    assert process.log.matching("refused|WARNING|ERROR") == []


def test_posting_to_drain_ends_the_process_as_sigterm_does(api: Api, running: GatewayProcess) -> None:
    with subscriber(running.websocket_url) as client:
        status, body, headers = request(f"{running.http_url}/drain/", b"")
        assert (status, json.loads(body), headers["content-type"]) == (200, {"draining": True}, "application/json")
        assert closing(client) == (1012, "the gateway is stopping")
    assert running.wait() == 0


def test_during_a_drain_new_clients_get_503_and_triggers_are_published(api: Api) -> None:
    # Three turns in the first three quarters: one client is sent away at once, the next after more than our patience.
    with gateway(f"--api-url={api.url}", f"--drain-seconds={6 * PATIENCE_SECONDS}") as process, ExitStack() as stack:
        clients = [stack.enter_context(subscriber(process.websocket_url)) for _ in range(3)]
        process.signal(signal.SIGTERM)
        process.log.wait(" close .* code=1012 ")
        with pytest.raises(InvalidStatus) as refused, connect(process.websocket_url):
            pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "1"
        body = json.dumps({"rooms": [{"target": "car", "car": 1}], "data": "late"}).encode()
        assert request(process.trigger_url, body)[:2] == (200, b"publish success")
        assert sorted(map(next_of, clients)) == ["1012", "late", "late"]
        stack.close()  # when everybody has left it ends
        assert process.wait() == 0


def next_of(client: ClientConnection) -> str:
    """What was published to a client next, or its close code."""
    try:
        return str(json.loads(receive(client))["data"])
    except ConnectionClosed as closed:
        return str(closed.rcvd and closed.rcvd.code)
