"""Real processes with deadlines: the gateway, the Django site, and what tests look at from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
# How much slower than a machine of its own this one may be; `.ci/run --loaded` sets it. All seconds in which
# something must happen are multiples of one of these two.
SLOWNESS = float(os.environ.get("E2E_SLOWNESS", "1"))
# Far more than anything takes; reached only when something is broken.
PATIENCE_SECONDS = 20.0 * SLOWNESS
# Settings with which nobody is closed for being late, so that a test decides why it is.
NEVER_LATE = [f"--{name}-seconds=86400" for name in ("slow", "outbox", "ping")]

# A line of a gateway that tells of the machine alone, which had no time for it. It may come in any log, and no test is
# about it, so `Lines` leaves it out.
DID_NOT_RUN = "did not run for "


def eventually(look: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first true value of `look`; fails with its last one."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"still {found!r} after {seconds:g} s"
        time.sleep(0.01)
    return found


class Lines:
    """The lines of a pipe, read by a thread as they come."""

    def __init__(self, pipe: IO[str]) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            for line in self._pipe:
                if DID_NOT_RUN in line:
                    continue
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def all(self) -> list[str]:
        """What has come so far."""
        return list(self._lines)

    def matching(self, pattern: str) -> list[str]:
        """The lines so far in which `pattern` is found."""
        return [line for line in self.all if re.search(pattern, line)]

    def wait(self, pattern: str, count: int = 1, seconds: float = PATIENCE_SECONDS) -> list[str]:
        """Return the lines in which `pattern` is found once there are `count`."""

        def enough() -> bool:
            return len(self.matching(pattern)) >= count

        with self._changed:
            self._changed.wait_for(lambda: enough() or self._ended, timeout=seconds)
        assert enough(), f"{len(self.matching(pattern))} of {count} lines with {pattern!r} in:\n" + "\n".join(self.all)
        return self.matching(pattern)

    def rest(self) -> list[str]:
        """Return all lines, once the pipe is closed."""
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        return self.all


@contextmanager
def heeding_signals() -> Iterator[None]:
    """A process started inside is ended by SIGINT and SIGHUP even if this one ignores them, as after `&` and `nohup`.

    What is ignored stays so in children; what is caught does not.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def reserved_address() -> Iterator[str]:
    """An address that is refused until a server is told to listen there; nobody else can get its port meanwhile."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # servers set it too, and so both may have it
        holder.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*holder.getsockname())


class Process:
    """A child that is killed, with a deadline for everything before."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_TEMPLAR_")}
        with heeding_signals():
            self.popen = subprocess.Popen(
                arguments,
                env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=descriptors,
            )
        assert self.popen.stdout is not None
        assert self.popen.stderr is not None
        self.output = Lines(self.popen.stdout)
        self.log = Lines(self.popen.stderr)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Return the exit status. Raises TimeoutExpired: if it takes longer than `seconds`."""
        status = self.popen.wait(seconds)
        self.log.rest()
        self.output.rest()
        return status

    def descriptors(self) -> int:
        """How many descriptors the process has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def sockets(self) -> int:
        """How many of these are sockets: any may be a file that is open for a moment, as /dev/null is by accepting."""
        found = 0
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found += str(descriptor.readlink()).startswith("socket:")
        return found

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()


class GatewayProcess(Process):
    """`python -m trio_templar serve` with these arguments, on free ports of 127.0.0.1."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__([sys.executable, "-m", "trio_templar", "serve", *arguments], environment=environment)

    def wait_ready(self) -> None:
        """Wait for the line that says so."""
        line = self.log.wait('^trio-templar: ready on |"event": "ready"')[0]
        if line.startswith("{"):
            ready = json.loads(line)
            self.places: list[str] = [*ready["websockets"], ready["triggers"]]
        else:
            self.places = line.removeprefix("trio-templar: ready on ").split(", ")
        self._idle_sockets = self.sockets()

    def wait_idle(self, connections: int = 0) -> None:
        """Wait until it has no socket open but those of so many websockets, and those it began with."""
        eventually(lambda: self.sockets() == self._idle_sockets + connections)

    @property
    def websocket_url(self) -> str:
        return next(place for place in self.places if place.startswith(("ws://", "wss://")))

    @property
    def trigger_url(self) -> str:
        return next(place for place in self.places if place.endswith("/trigger/"))

    @property
    def http_url(self) -> str:
        """Where the HTTP API is, as django-binder wants it."""
        return self.trigger_url.removesuffix("/trigger/")

    @property
    def address(self) -> tuple[str, int]:
        """The websocket listener, for a bare socket."""
        host, _, port = self.websocket_url.partition("://")[2].partition("/")[0].rpartition(":")
        return host.strip("[]"), int(port)

    def crashes(self) -> list[str]:
        """Lines that only a fault of the gateway can bring."""
        return self.log.matching("Traceback|crashed|Exception|Warning|never awaited")


FREE_PORTS = ("--bind=127.0.0.1:0", "--trigger-bind=127.0.0.1:0")


@contextmanager
def gateway(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    ports: Sequence[str] = FREE_PORTS,
) -> Iterator[GatewayProcess]:
    """Run a gateway; whatever else a test is about, it must not have crashed."""
    process = GatewayProcess(*ports, *arguments, environment=environment)
    try:
        process.wait_ready()
        yield process
        assert process.crashes() == []
    finally:
        process.end()


class Site:
    """The Django site of tests/djangoproject. Its address is known before it runs, which is when the gateway needs it.

    What comes before it listens waits in the socket's queue.
    """

    def __init__(self, urls: str = "garage.urls", *, https: bool = False) -> None:
        self._settings = {"SITE_URLS": urls, "SITE_HTTPS": "1" if https else ""}
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address: tuple[str, int] = self._socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}/"
        self.api_url = f"{self.url}api/"

    @contextmanager
    def run(self, folder: Path, high_templar_url: str) -> Iterator[Process]:
        descriptor = self._socket.fileno()
        process = Process(
            [sys.executable, str(ROOT / "tests/djangoproject/manage.py"), "serve", "--fd", str(descriptor)],
            environment={
                "GARAGE_DATABASE": str(folder / "garage.sqlite3"),
                "HIGH_TEMPLAR_URL": high_templar_url,
                **self._settings,
                "PYTHONWARNINGS": "ignore",  # django-binder's and Django's are theirs
                "NO_PROXY": "*",
            },
            descriptors=[descriptor],
        )
        try:
            process.output.wait("^ready$")
            yield process
        finally:
            process.end()

    def close(self) -> None:
        self._socket.close()
