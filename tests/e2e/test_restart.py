"""Socket activation: whoever holds the listening sockets can restart the gateway, and nobody is refused."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack

from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.e2e.api import Api
from tests.e2e.clients import connect, receive, request, subscriber
from tests.e2e.processes import PATIENCE_SECONDS, SLOWNESS, Process, eventually

# What systemd does between fork and exec: the sockets become 3 and 4, and the environment says whose they are.
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 13); os.dup2(int(sys.argv[2]), 14)
os.dup2(13, 3); os.dup2(14, 4); os.close(13); os.close(14)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "websocket:trigger"}
os.execv(sys.executable, [sys.executable, "-m", "trio_templar", "serve", *sys.argv[3:]])
"""


class Holder:
    """Holds both sockets of a gateway, as systemd does for a .socket unit."""

    def __init__(self, *arguments: str) -> None:
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(2)]
        self._arguments = arguments
        websocket, trigger = (sock.getsockname()[1] for sock in self._sockets)
        self.websocket_url = f"ws://127.0.0.1:{websocket}/ws/"
        self.trigger_url = f"http://127.0.0.1:{trigger}/trigger/"

    @contextlib.contextmanager
    def run(self) -> Iterator[Process]:
        numbers = [sock.fileno() for sock in self._sockets]
        process = Process([sys.executable, "-c", LAUNCH, *map(str, numbers), *self._arguments], descriptors=numbers)
        try:
            yield process
        finally:
            process.end()

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


class Visitors:
    """Connect again and again, stay for the welcome, and remember each that was refused."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self.welcomed = 0
        self.refused: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._visit, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _visit(self) -> None:
        while not self._over.is_set():
            try:
                with connect(self._url) as client, contextlib.suppress(ConnectionClosed):
                    receive(client)
                    self.welcomed += 1
            except (WebSocketException, OSError) as error:
                self.refused.append(repr(error))

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_a_restart_under_a_stream_of_clients_refuses_nobody(api: Api) -> None:
    holder = Holder(f"--api-url={api.url}", f"--drain-seconds={2 * SLOWNESS}")
    with ExitStack() as stack:
        stack.callback(holder.close)
        running = stack.enter_context(holder.run())
        running.log.wait("^trio-templar: ready on ws://.*, http://")
        visitors = Visitors(holder.websocket_url, 4)
        stack.callback(visitors.end)
        for _ in range(2):
            seen = visitors.welcomed
            eventually(lambda seen=seen: visitors.welcomed > seen + 50)  # type: ignore[misc]
            running.signal(signal.SIGTERM)
            assert running.wait() == 0
            assert running.log.matching("refused|WARNING|Traceback") == []
            running = stack.enter_context(holder.run())
        seen = visitors.welcomed
        eventually(lambda: visitors.welcomed > seen + 50)
        visitors.end()
        assert visitors.refused == []
        with subscriber(holder.websocket_url) as client:
            body = json.dumps({"rooms": [{"target": "car", "car": 1}], "data": 1}).encode()
            assert request(holder.trigger_url, body)[:2] == (200, b"publish success")
            assert json.loads(receive(client))["data"] == 1


def test_a_client_that_is_being_asked_about_is_let_in_before_it_is_sent_to_the_next(api: Api) -> None:
    may_answer = threading.Event()
    admit = api.answer
    api.answer = lambda call: admit(call) if may_answer.wait(PATIENCE_SECONDS) else (500, b"")
    holder = Holder(f"--api-url={api.url}", f"--drain-seconds={PATIENCE_SECONDS}")
    with ExitStack() as stack:
        stack.callback(holder.close)
        running = stack.enter_context(holder.run())
        visitors = Visitors(holder.websocket_url, 1)
        api.called("/bootstrap/")
        running.signal(signal.SIGTERM)
        running.log.wait("INFO drain connections=0 ")
        may_answer.set()
        eventually(lambda: visitors.welcomed == 1)
        assert running.wait() == 0
        with holder.run():
            eventually(lambda: visitors.welcomed > 2)
            visitors.end()
        assert visitors.refused == []
