"""Django Channels with channels_redis, behind daphne: a group is a room, an async view calls `group_send`.

Redis runs beside it on the same core and is counted with it. The capacity of the layer is raised from 100 messages to
10 000: with the default most publications of a busy room are dropped.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers.peer import SERVERS, Peer, free_port, path_target, program, python_of, wait_port
from bench.process import running
from bench.target import Target


@contextmanager
def start(_clients: int) -> Iterator[Target]:
    """Run Redis, then daphne from its own environment."""
    redis, python = program("redis-server", "redis-server"), python_of("channels")
    port, redis_port = free_port(), free_port()
    daphne = [python, "-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", str(port), "--ping-interval", "3600"]
    with tempfile.TemporaryDirectory() as folder:
        broker = [redis, "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        env = {"REDIS_PORT": str(redis_port)}
        with (
            running(broker) as redis_process,
            running([*daphne, "channels_app:application"], env=env, cwd=SERVERS) as process,
        ):
            wait_port(redis_port, redis_process)
            wait_port(port, process)
            yield path_target("Django Channels", (process, redis_process), port, port, joined=b"joined")


PEER = Peer(
    "Django Channels",
    start,
    "channels",
    ("channels", "channels_redis", "daphne"),
    debian=("redis-server",),
    share=0.05,
)
