"""The load generator: raw non-blocking sockets on epoll, in one loop that also posts the triggers.

It must cost less than what it measures. While the clock runs it only moves bytes: a client appends what it read and
when; a publisher sends its next prepared request as soon as the previous one was answered. What arrived is taken
apart later, by `check`.
"""

import heapq
import itertools
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.wire import MARK, Address, Script

_CHUNK_BYTES = 1 << 16  # below the size from which malloc maps each buffer anew
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER 0: no TIME_WAIT, so ten thousand ports are free again at once
# Publishers and pings are looked at again after so many reads of ordinary clients, or they would wait for all of them.
_BULK_EVENTS = 64


class Load:
    """One epoll loop. `marks` counts the publications received by all its clients."""

    def __init__(self) -> None:
        self.marks = 0
        self.gone = 0
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._urgent = select.epoll()
        self._bulk = select.epoll()
        self._bulk.register(self._urgent.fileno(), select.EPOLLIN)  # so that one poll waits for both
        self._handlers[self._urgent.fileno()] = self._take_urgent

    def watch(
        self, sock: socket.socket, handler: Callable[[], None], *, writable: bool = False, urgent: bool = False
    ) -> None:
        """Call `handler` whenever `sock` is readable (or writable)."""
        self.forget(sock)
        self._handlers[sock.fileno()] = handler
        poll = self._urgent if urgent else self._bulk
        poll.register(sock.fileno(), select.EPOLLOUT if writable else select.EPOLLIN)

    def forget(self, sock: socket.socket) -> None:
        """Stop watching `sock`; what arrives stays in the kernel. Not watched is fine."""
        if self._handlers.pop(sock.fileno(), None) is None:
            return
        for poll in (self._bulk, self._urgent):
            try:
                poll.unregister(sock.fileno())
            except FileNotFoundError:
                continue

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `seconds` from now."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), callback))

    def run_until(self, done: Callable[[], bool], patience_seconds: float = 10.0) -> bool:
        """Run until `done()`; give up, returning False, when nothing at all happened for `patience_seconds`."""
        patience = time.monotonic() + patience_seconds
        while not done():
            events = self._bulk.poll(self._wait_seconds(), _BULK_EVENTS)
            for fd, _ in events:
                if handler := self._handlers.get(fd):  # one that an earlier handler has not closed
                    handler()
            if len(events) == _BULK_EVENTS:
                self._take_urgent()
            if events:
                patience = time.monotonic() + patience_seconds
            elif time.monotonic() > patience:
                return False
            self._run_timers()
        return True

    def run_for(self, seconds: float) -> None:
        """Run for that long, whatever happens."""
        end = time.monotonic() + seconds
        self.after(seconds, lambda: None)  # so that the last poll does not outlast it
        self.run_until(lambda: time.monotonic() >= end, patience_seconds=seconds + 1)

    def _take_urgent(self) -> None:
        for fd, _ in self._urgent.poll(0):
            if handler := self._handlers.get(fd):
                handler()

    def _wait_seconds(self) -> float:
        if not self._timers:
            return 0.1
        return min(0.1, max(0.0, self._timers[0][0] - time.monotonic()))

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()


class Client:
    """One websocket client: joins by its script, then keeps what it receives as (time, bytes).

    `ready` is called once it has joined; `answer` is then what came last of that, with publications right behind it.
    A refused or dropped attempt is made again after `retry_seconds`, as browsers do, and counted.
    """

    retry_seconds = 0.5

    def __init__(self, load: Load, address: Address, script: Script, room: int = 0, *, keep: bool = True) -> None:
        self.room = room
        self.times: list[float] = []
        self.chunks: list[bytes] = []
        self.refused = 0
        self.joined = False
        self.answer = b""
        self._load = load
        self._address = address
        self._script = script
        self._keep = keep

    def start(self, ready: Callable[[], None]) -> None:
        """Begin to connect."""
        self._ready = ready
        self._step = 0
        self.answer = b""
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(self._address)
        self._load.watch(self.sock, self._connected, writable=True)

    def close(self) -> None:
        """Leave at once, with a reset. Having left is fine."""
        if self.sock.fileno() < 0:
            return
        self._load.forget(self.sock)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.sock.close()

    def stall(self) -> None:
        """Stop reading, but stay connected: a slow client."""
        self._load.forget(self.sock)

    def clear(self) -> None:
        """Forget what was received so far."""
        self.times, self.chunks = [], []

    def _connected(self) -> None:
        if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._try_again()
        elif self._script[0].send:
            self._load.watch(self.sock, self._joining)
            self.sock.send(self._script[0].send)
        else:  # the bare send loop has no handshake
            self._join()

    def _joining(self) -> None:
        try:
            data = self.sock.recv(_CHUNK_BYTES)
        except OSError:
            data = b""
        self.answer += data
        if not data or (self._step == 0 and not b"HTTP/1.1 101".startswith(self.answer[:12])):
            self._try_again()
        elif self._script[self._step].until in self.answer:
            self._next_step()

    def _next_step(self) -> None:
        self._step += 1
        if self._step == len(self._script):
            self._join()
        else:
            self.answer = b""
            self.sock.send(self._script[self._step].send)

    def _join(self) -> None:
        self.joined = True
        self._recv = self.sock.recv
        self._load.watch(self.sock, self._receive if self._keep else self._discard)
        if self._keep and MARK in self.answer:
            self.times.append(time.monotonic())
            self.chunks.append(self.answer)
            self._load.marks += self.answer.count(MARK)
        self._ready()

    def _try_again(self) -> None:
        self.refused += 1
        self.close()
        self._load.after(self.retry_seconds, lambda: self.start(self._ready))

    def _receive(self) -> None:
        if data := self._read():
            self.times.append(time.monotonic())
            self.chunks.append(data)
            self._load.marks += data.count(MARK)

    def _discard(self) -> None:
        self._load.marks += self._read().count(MARK)

    def _read(self) -> bytes:
        try:
            data = self._recv(_CHUNK_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._load.gone += 1
            self.close()
        return data


@dataclass
class Connected:
    """What it took to connect a crowd."""

    clients: list[Client]
    seconds: float
    refused: int = 0


def connect(load: Load, clients: Iterable[Client], *, window: int, patience_seconds: float = 20.0) -> Connected:
    """Connect `clients`, at most `window` of them on their way at once.

    Raises:
      TimeoutError: if for `patience_seconds` nothing happens while some have not joined.
    """
    crowd = list(clients)
    waiting = iter(crowd)
    joined = itertools.count(1)
    so_far = 0

    def next_one() -> None:
        if client := next(waiting, None):
            client.start(ready)

    def ready() -> None:
        nonlocal so_far
        so_far = next(joined)
        next_one()

    begin = time.monotonic()
    for _ in range(window):
        next_one()
    if not load.run_until(lambda: so_far == len(crowd), patience_seconds):
        raise TimeoutError(f"{so_far} of {len(crowd)} clients have joined, and nothing happens")
    return Connected(crowd, time.monotonic() - begin, sum(client.refused for client in crowd))
