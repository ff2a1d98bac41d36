"""Server processes: start one on its own core, read its CPU time and memory, end it with all its children."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Self

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
READY_SECONDS = 30.0

# The server is measured alone on the first core we may use; generator, API and everything else share the last.
_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = _CORES[0], _CORES[-1]


class ServerFailedError(Exception):
    """A server ended, or said nothing, instead of becoming ready. The text holds its last words."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds, resolution one clock tick (10 ms): measure phases of a second or more."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self) -> float:
        """User and system together."""
        return self.user + self.system

    def __sub__(self, other: Self) -> "Cpu":
        return Cpu(self.user - other.user, self.system - other.system)

    def __add__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.user + other.user, self.system + other.system)


class Process:
    """One running server: its process and all descendants (nginx workers, broker children) counted together."""

    def __init__(self, popen: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.popen = popen
        self._log = log

    def cpu(self) -> Cpu:
        """Return the CPU time used so far by the process and its living descendants."""
        return sum((_cpu_of(pid) for pid in family(self.popen.pid)), Cpu())

    def rss_bytes(self) -> int:
        """Return resident memory now. Pages shared between parent and children count once for each."""
        return sum(_rss_of(pid) for pid in family(self.popen.pid))

    def said(self) -> str:
        """Return everything the process has written to stdout and stderr (stdout unless it is piped)."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def wait_said(self, pattern: str, seconds: float = READY_SECONDS) -> re.Match[str]:
        """Wait until the output matches `pattern`.

        Raises:
          ServerFailedError: if the process ends first, or says nothing of the kind in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if match := re.search(pattern, self.said()):
                return match
            if self.popen.poll() is not None:
                break
            time.sleep(0.02)
        raise ServerFailedError(f"no {pattern!r} from {self.popen.args!r}:\n{self.said()[-2000:]}")


@contextmanager
def running(
    command: Sequence[str],
    *,
    core: int = SERVER_CORE,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    piped: bool = False,
) -> Iterator[Process]:
    """Run `command` pinned to `core`; on leaving, end it and its children, gently first.

    Output goes to a temporary file, never to a pipe nobody reads; with `piped`, stdin and stdout are pipes for a
    conversation, and only stderr goes to the file.
    """
    with tempfile.TemporaryFile() as log:
        pipe = subprocess.PIPE if piped else None
        popen = subprocess.Popen(
            command,
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or log,
            stderr=log,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            preexec_fn=partial(os.sched_setaffinity, 0, {core}),  # before its first thread starts
            start_new_session=True,  # Ctrl+C is ours to handle, and the whole group can be ended
        )
        try:
            yield Process(popen, log)
        finally:
            _end(popen)


def core_busy_seconds(core: int = SERVER_CORE) -> float:
    """Return how long `core` has not been idle since the start of the machine, time taken by a hypervisor included."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + softirq + steal) * _TICK_SECONDS


def module(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a Python module with this interpreter."""
    return [sys.executable, "-m", name, *arguments]


def pin_generator() -> None:
    """Keep this process, the load generator, away from the core of the server; let SIGTERM end what it has started."""
    os.sched_setaffinity(0, {LOAD_CORE})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def family(pid: int) -> list[int]:
    """Return `pid` and its living descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    members = [pid]
    for member in members:  # grows while it is walked: children of children
        members.extend(child for child, parent in parents.items() if parent == member)
    return members


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command name, which may hold blanks; [] if it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_of(pid: int) -> Cpu:
    fields = _stat(pid)
    return Cpu(int(fields[11]) * _TICK_SECONDS, int(fields[12]) * _TICK_SECONDS) if fields else Cpu()


def _rss_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # gone, or a server that has given up its rights: statm shows everyone's
        fields = _stat(pid)
        return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") if fields else 0
    match = re.search(r"^Rss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _end(popen: subprocess.Popen[bytes]) -> None:
    for stream in (popen.stdin, popen.stdout):
        if stream is not None:
            stream.close()
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(popen.pid, number)
            popen.wait(seconds)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    popen.wait()
