"""What a peer is: a name, how to install it, how to start it; and the join script most of them share."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.process import READY_SECONDS, Process, ServerFailedError
from bench.target import JoinScript, Target
from bench.wire import Address, Script, Step, handshake, post

SERVERS = Path(__file__).parent / "servers"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
ENVIRONMENTS = Path(os.environ.get("BENCH_PEERS") or _CACHE / "trio-templar-bench")


class NotInstalledError(Exception):
    """This peer is not installed here. The text says what is missing and how to get it."""


@dataclass(frozen=True)
class Peer:
    """One server to compare with.

    `requirements` are installed into an environment of its own, `without_dependencies` last and alone; `debian` names
    packages that only root can install. `start(clients)` raises NotInstalledError if something is missing. `share` is
    the part of the triggers it is given, so that one which needs a hundred times as long ends in the same time.
    """

    name: str
    start: Callable[[int], AbstractContextManager[Target]]
    environment: str = ""
    requirements: tuple[str, ...] = ()
    without_dependencies: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()
    share: float = 1.0

    def install(self) -> None:
        """Make the environment and install into it."""
        folder = ENVIRONMENTS / self.environment
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet"]
        subprocess.run([*pip, *self.requirements], check=True)
        for requirement in self.without_dependencies:
            subprocess.run([*pip, "--no-deps", requirement], check=True)


def python_of(environment: str) -> str:
    """Return the interpreter of a peer's environment.

    Raises:
      NotInstalledError: if it has not been made.
    """
    python = ENVIRONMENTS / environment / "bin" / "python"
    if not python.exists():
        raise NotInstalledError(f"no environment `{environment}`: python -m bench.compare --install")
    return str(python)


def program(name: str, package: str) -> str:
    """Return the path of a program of the system.

    Raises:
      NotInstalledError: if there is none.
    """
    places = [Path(folder) / name for folder in (*os.get_exec_path(), "/usr/sbin")]
    if found := next((str(place) for place in places if place.exists()), None):
        return found
    raise NotInstalledError(f"no {name}: apt-get install {package}")


def free_port() -> int:
    """Return a port nobody listens on, for servers that cannot pick one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


def wait_port(port: int, process: Process, seconds: float = READY_SECONDS) -> None:
    """Wait until something listens on `port`.

    Raises:
      ServerFailedError: if `process` ends first, or nothing listens in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.popen.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise ServerFailedError(f"nothing on port {port} from {process.popen.args!r}:\n{process.said()[-2000:]}")


def path_script(address: Address, path: str, joined: bytes) -> JoinScript:
    """Return how to join where the path is the room, and nothing needs to be said."""

    def script(number: int, room: int | None) -> Script:
        headers = {"Cookie": f"sessionid={number:032x}"}
        return (Step(handshake(address, path.format(room=room), headers), joined),)

    return script


def path_target(
    name: str,
    processes: tuple[Process, ...],
    port: int,
    http_port: int,
    *,
    subscribe: str = "/room/{room}",
    publish: str = "/room/{room}",
    joined: bytes = b"\r\n\r\n",
) -> Target:
    """Return the target of a peer where the path of the websocket names the room, and so does that of a POST of data.

    `joined` is what a client receives once it is in the room.
    """
    trigger = ("127.0.0.1", http_port)
    return Target(
        name,
        ("127.0.0.1", port),
        trigger,
        processes,
        path_script(("127.0.0.1", port), subscribe, joined),
        lambda room, data: post(trigger, publish.format(room=room), data.encode()),
    )
