"""Publishers: keep-alive HTTP connections that post prepared triggers, in the loop of the load generator."""

import socket
import time
from collections import Counter
from dataclasses import dataclass, field

from bench.load import Load
from bench.wire import Address

_CHUNK_BYTES = 1 << 16


@dataclass(slots=True)
class Publication:
    """One prepared request: its bytes, what it publishes, and when it was first sent."""

    request: bytes
    tokens: tuple[str, ...]
    room: int = 0
    rooms: tuple[int, ...] = ()
    at: float = 0.0


@dataclass
class Publisher:
    """One keep-alive HTTP connection that posts its publications one after the other, in a closed loop.

    With `every_seconds` it posts on a schedule instead, and later if an answer is late. Refusals (503) are sent again
    after a pause, and counted. Its socket is a blocking one: requests are small, and reads happen only when readable.
    """

    load: Load
    address: Address
    publications: list[Publication]
    every_seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    done: bool = False

    def start(self) -> None:
        """Connect and post the first."""
        self._next = 0
        self._begin = time.monotonic()
        self._connect()
        self._post()

    def _connect(self) -> None:
        self._answer = b""
        self._sock = socket.create_connection(self.address)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.load.watch(self._sock, self._read, urgent=True)

    def _post(self) -> None:
        publication = self.publications[self._next]
        publication.at = publication.at or time.monotonic()
        self._sock.sendall(publication.request)

    def _read(self) -> None:
        try:
            data = self._sock.recv(_CHUNK_BYTES)
        except OSError:
            data = b""
        self._answer += data
        if not data and self.done:
            self.load.forget(self._sock)
        elif not data:
            self._reconnect()
        elif (length := answer_bytes(self._answer)) and len(self._answer) >= length:
            self._answered(int(self._answer[9:12]))

    def _reconnect(self) -> None:
        """The server closed a keep-alive connection: post again what was not answered, on a new one."""
        self.close()
        self.statuses[0] += 1
        self._connect()
        self._post()

    def _answered(self, status: int) -> None:
        self._answer = b""
        self.statuses[status] += 1
        if status == 503:
            self.load.after(0.1, self._post)
            return
        self._next += 1
        self.done = self._next == len(self.publications)
        if not self.done:
            self._post_in_time()

    def _post_in_time(self) -> None:
        due = self._begin + self._next * self.every_seconds
        if (wait := due - time.monotonic()) > 0 and self.every_seconds:
            self.load.after(wait, self._post)
        else:
            self._post()

    def close(self) -> None:
        """Close the connection."""
        self.load.forget(self._sock)
        self._sock.close()


def answer_bytes(answer: bytes) -> int:
    """Return the length of the HTTP response at the start of `answer`, or 0 if that cannot be told yet."""
    head_end = answer.find(b"\r\n\r\n") + 4
    if head_end == 3:
        return 0
    head = answer[:head_end].lower()
    if b"transfer-encoding: chunked" in head:
        end = answer.find(b"\r\n0\r\n\r\n", head_end - 2)
        return end + 7 if end >= 0 else 0
    _, _, length = head.partition(b"content-length:")
    return head_end + int(length.partition(b"\r")[0]) if length else head_end
