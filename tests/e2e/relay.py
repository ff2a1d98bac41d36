"""A way to a gateway over TCP that a test can cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.e2e.clients import dial

Pair = tuple[socket.socket, socket.socket]


class Relay:
    """Takes connections and passes on what comes from either side to the other. `target` may change."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self._pairs: set[Pair] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """The websocket address of the gateway on this way."""
        return f"ws://127.0.0.1:{self._listener.getsockname()[1]}/ws/"

    def cut(self) -> int:
        """Cut all connections, without a word to either side; return how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for sock in pair:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        return len(pairs)

    def end(self) -> None:
        """Take no more connections, and cut those that there are."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = dial(self.target)
                far.settimeout(None)
                with self._lock:
                    self._pairs.add((near, far))
                ends = [False]
                for source, sink in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._pump, args=(source, sink, ends), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, ends: list[bool]) -> None:
        """Pass on until either side ends; the second of both directions closes the sockets."""
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._pairs -= {(source, sink), (sink, source)}
            if ends[0]:
                source.close()
                sink.close()
            ends[0] = True


@contextmanager
def relay(target: tuple[str, int]) -> Iterator[Relay]:
    """Run a relay to `target`."""
    running = Relay(target)
    try:
        yield running
    finally:
        running.end()
