"""Thousands of websocket clients in one thread: bare sockets that only read, taken apart afterwards."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.e2e.clients import masked_text, read_until
from tests.e2e.processes import PATIENCE_SECONDS
from tests.unit.conftest import frames


class Member:
    """One client: what it received, and when its connection ended."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.ended: float | None = None

    @property
    def close_code(self) -> int:
        """The code of the close frame; 1006 if there is none at the end."""
        first, payload = frames(bytes(self.received))[-1]
        return int.from_bytes(payload[:2]) if first == 0x88 else 1006

    @property
    def data(self) -> list[object]:
        """What was published to it, in order."""
        texts = [json.loads(payload) for first, payload in frames(bytes(self.received)) if first == 0x81]
        return [message["data"] for message in texts if message.get("type") == "publish"]


class Crowd:
    """Members that read until they end."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self._selector = selectors.DefaultSelector()
        for member in members:
            member.sock.setblocking(False)
            self._selector.register(member.sock, selectors.EVENT_READ, member)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        left = len(self.members)
        while left:
            for key, _ in self._selector.select(PATIENCE_SECONDS):
                data = b""
                with contextlib.suppress(ConnectionResetError):
                    data = key.data.sock.recv(1_000_000)
                key.data.received += data
                if not data:
                    key.data.ended = time.monotonic()
                    self._selector.unregister(key.fileobj)
                    left -= 1

    def wait(self, seconds: float) -> None:
        """Wait until all have ended."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), sum(member.ended is None for member in self.members)


@contextmanager
def crowd(head: bytes, address: tuple[str, int], room: object, size: int) -> Iterator[Crowd]:
    """Connect `size` clients that ask with `head` and subscribe to `room`; they need as many descriptors."""
    subscribe = masked_text(json.dumps({"type": "subscribe", "requestId": 1, "room": room}))
    with ExitStack() as stack:
        members = []
        for _ in range(size):
            sock = stack.enter_context(socket.create_connection(address, PATIENCE_SECONDS))
            sock.sendall(head)
            members.append(Member(sock))
            if len(members) % 100 == 0:  # fewer at once than may wait for a bootstrap
                _subscribe(members[-100:], subscribe)
        _subscribe(members[len(members) // 100 * 100 :], subscribe)
        yield Crowd(members)


def _subscribe(members: list[Member], message: bytes) -> None:
    for member in members:
        assert read_until(member.sock, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        member.sock.sendall(message)
    for member in members:
        read_until(member.sock, b'"success"}')
