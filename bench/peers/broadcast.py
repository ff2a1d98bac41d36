"""`websockets` with its `broadcast()` on asyncio: the least a Python server does for a publication."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from bench.peers.peer import NotInstalledError, Peer, path_target
from bench.process import module, running
from bench.target import Target


@contextmanager
def start(_clients: int) -> Iterator[Target]:
    """Run it in this environment, where the tests have it too."""
    if find_spec("websockets") is None:
        raise NotInstalledError("the package `websockets` is not installed in " + sys.prefix)
    with running(module("bench.peers.servers.broadcast")) as process:
        ports = process.wait_said(r"ready (\d+) (\d+)")
        yield path_target("websockets broadcast()", (process,), int(ports[1]), int(ports[2]), joined=b"joined")


PEER = Peer("websockets broadcast()", start)
