"""What a peer is: a name, how to install it, how to start it; and the join script most of them share."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.process import Process
from bench.target import JoinScript, Target
from bench.wire import Address, Script, Step, handshake, post

SERVERS = Path(__file__).parent
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
ENVIRONMENTS = Path(os.environ.get("BENCH_PEERS") or _CACHE / "trio-templar-bench")


class NotInstalledError(Exception):
    """This peer is not installed here. The text says what is missing and how to get it."""


@dataclass(frozen=True)
class Peer:
    """One server to compare with.

    `requirements` are installed into an environment of its own, `pinned` ones without what they ask for; `debian` names
    packages that only root can install. `start(clients)` raises NotInstalledError if something is missing.
    """

    name: str
    start: Callable[[int], AbstractContextManager[Target]]
    requirements: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    environment: str = ""
    debian: tuple[str, ...] = ()

    def install(self) -> str:
        """Make the environment; return what is left for root to do."""
        if self.requirements:
            folder = ENVIRONMENTS / self.environment
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            pip = [str(folder / "bin" / "pip"), "install", "--quiet"]
            subprocess.run([*pip, *self.requirements], check=True)
            for requirement in self.pinned:
                subprocess.run([*pip, "--no-deps", requirement], check=True)
        return f"apt-get install {' '.join(self.debian)}" if self.debian else ""


def python_of(environment: str) -> str:
    """Return the interpreter of a peer's environment.

    Raises:
      NotInstalledError: if it has not been made.
    """
    python = ENVIRONMENTS / environment / "bin" / "python"
    if not python.exists():
        raise NotInstalledError(f"no environment {environment}: python -m bench.compare --install")
    return str(python)


def plain_script(address: Address, path: str, joined: bytes) -> JoinScript:
    """Return how to join where the path is the room, and nothing needs to be said."""

    def script(number: int, room: int | None) -> Script:
        headers = {"Cookie": f"sessionid={number:032x}"}
        return (Step(handshake(address, path.format(room=room), headers), joined),)

    return script


def plain_target(
    name: str, process: Process, port: int, http_port: int, *, path: str = "/room/{room}", joined: bytes = b"\r\n\r\n"
) -> Target:
    """Return the target of a peer whose websocket path names the room, and so does the path of a POST of the data."""
    address, trigger = ("127.0.0.1", port), ("127.0.0.1", http_port)
    return Target(
        name,
        address,
        trigger,
        (process,),
        plain_script(address, path, joined),
        lambda room, data: post(trigger, path.format(room=room), data.encode()),
    )
