"""A thousand clients on one epoll loop: those that keep up compare every byte they get, others are slow on purpose."""

from __future__ import annotations

import heapq
import itertools
import json
import re
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.clients import CAR, dial, head, masked_text, request, reset
from tests.e2e.processes import PATIENCE_SECONDS, GatewayProcess

# With this a client that does not read is full soon; the kernel doubles it.
SMALL_BUFFER = 4096
_CHUNK_BYTES = 1 << 18
_CONNECTING = 64  # clients on their way at once


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Let this process, and those it starts, have `count` descriptors; skip where that may not be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"{count} descriptors are needed and the hard limit is {hard}: raise it with `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(process: GatewayProcess, name: str = "VmRSS") -> int:
    """Return a figure of /proc/PID/status in bytes: `VmRSS` now, `VmHWM` the most since `forget_peak`."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) * 1024


def forget_peak(process: GatewayProcess) -> None:
    """Let the kernel note the highest memory of `process` from now on: no peak is between two samples of it."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


class Script:
    """What is published to car 1, in order, and the bytes that a subscriber must get for it."""

    def __init__(self, count: int, size: int) -> None:
        self._data = [json.dumps({"number": number, "pad": "x" * size}) for number in range(count)]

    def __len__(self) -> int:
        return len(self._data)

    def publish(self, gateway: GatewayProcess, numbers: range) -> int:
        """Publish these numbers of it, all or none, and return the status of the answer."""
        room = json.dumps(CAR)
        triggers = ", ".join(f'{{"rooms": [{room}], "data": {self._data[number]}}}' for number in numbers)
        return request(gateway.trigger_url, f"[{triggers}]".encode())[0]

    def message(self, request_id: str, number: int) -> bytes:
        """Return the text of publication `number` for the subscription `request_id`."""
        return f'{{"requestId": "{request_id}", "type": "publish", "data": {self._data[number]}}}'.encode()

    def frame(self, request_id: str, number: int) -> bytes:
        """Return the same as a frame."""
        payload = self.message(request_id, number)
        assert 126 <= len(payload) < 1 << 16
        return b"\x81\x7e" + len(payload).to_bytes(2) + payload


class Loop:
    """Calls back for sockets that are readable, and at times."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def watch(self, sock: socket.socket, reader: Callable[[], None]) -> None:
        """Call `reader` whenever `sock` is readable."""
        if sock.fileno() not in self._readers:
            self._poll.register(sock.fileno(), select.EPOLLIN)
        self._readers[sock.fileno()] = reader

    def forget(self, sock: socket.socket) -> None:
        """Leave in the kernel what comes from `sock`."""
        del self._readers[sock.fileno()]
        self._poll.unregister(sock.fileno())

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` once."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), call))

    def run_until(self, done: Callable[[], object], what: str, seconds: float = 3 * PATIENCE_SECONDS) -> None:
        """Run until `done()`; fails with `what` when that takes too long."""
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"after {seconds:g} s still not {what}"
            for fd, _ in self._poll.poll(0.02):
                if reader := self._readers.get(fd):
                    reader()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()

    def close(self) -> None:
        self._poll.close()


class Member:
    """A client subscribed to car 1, which then does not read."""

    receive_buffer: int | None = SMALL_BUFFER

    def __init__(self, loop: Loop, script: Script, name: str) -> None:
        self.loop = loop
        self.script = script
        self.name = name  # its requestId
        self.joined = False
        self._answer = b""

    def start(self, gateway: GatewayProcess) -> None:
        """Connect and subscribe in one write."""
        command = json.dumps({"type": "subscribe", "requestId": self.name, "room": CAR})
        self.sock = dial(gateway.address, self.receive_buffer)
        self.port: int = self.sock.getsockname()[1]
        self.sock.sendall(head(gateway) + masked_text(command))
        self.sock.setblocking(False)
        self.loop.watch(self.sock, self._join)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.sock.close()

    def _join(self) -> None:
        self._answer += self.sock.recv(_CHUNK_BYTES)
        assert self._answer.startswith(b"HTTP/1.1 101"[: len(self._answer)]), self._answer
        if self._answer.endswith(b'"code": "success"}'):
            self.joined = True
            self.began()

    def began(self) -> None:
        """Do from now on what this kind of client does."""
        self.loop.forget(self.sock)


class Trickler(Member):
    """Reads a byte a second."""

    def began(self) -> None:
        self.loop.forget(self.sock)
        self.loop.after(1.0, self._read_one)

    def _read_one(self) -> None:
        try:
            if not self.sock.recv(1):
                return
        except BlockingIOError:
            pass
        except ConnectionError:
            return
        self.loop.after(1.0, self._read_one)


class Resetter(Member):
    """Is gone, with a reset, when it has half a frame."""

    gone = False

    def began(self) -> None:
        self._half = len(self.script.frame(self.name, 0)) // 2
        self.loop.watch(self.sock, self._read_half)

    def _read_half(self) -> None:
        self._half -= len(self.sock.recv(self._half))
        if not self._half:
            self.loop.forget(self.sock)
            reset(self.sock)
            self.gone = True


class Reader(Member):
    """Reads what there is, and compares it with what there must be: `got` whole publications, and nothing else."""

    receive_buffer = None

    def began(self) -> None:
        self.got = 0
        self.fault = ""
        self._data = b""
        self.loop.watch(self.sock, self._read)

    def _read(self) -> None:
        try:
            chunk = self.sock.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except ConnectionError as error:
            self._fail(repr(error))
            return
        if not chunk:
            self._fail("end of stream")
            return
        self._data += chunk
        self._compare()

    def _compare(self) -> None:
        start = 0
        while start < len(self._data) and self.got < len(self.script):
            frame = self.script.frame(self.name, self.got)
            if not self._data.startswith(frame, start):
                if not frame.startswith(self._data[start:]):
                    self._fail(f"not publication {self.got} but {self._data[start : start + 100]!r}")
                    return
                break
            start += len(frame)
            self.got += 1
        self._data = self._data[start:]
        if self._data and self.got == len(self.script):
            self._fail(f"more than was published: {self._data[:100]!r}")

    def _fail(self, fault: str) -> None:
        self.fault = f"{self.name} after {self.got}: {fault}"
        self.loop.forget(self.sock)


@contextmanager
def joined(loop: Loop, gateway: GatewayProcess, members: Sequence[Member]) -> Iterator[None]:
    """Connect and subscribe all of `members`, a few at a time."""
    waiting = iter(members)
    started: list[Member] = []

    def all_joined() -> bool:
        on_their_way = sum(not member.joined for member in started)
        for member in itertools.islice(waiting, _CONNECTING - on_their_way):
            member.start(gateway)
            started.append(member)
        return len(started) == len(members) and all(member.joined for member in started)

    try:
        loop.run_until(all_joined, "joined")
        yield
    finally:
        for member in started:
            member.close()
        loop.close()
