"""High-templar 2.5.0 (gevent): the same clients and triggers as for trio_templar.

It runs on a current Python with the Flask and Werkzeug of its time and a current gevent, so it is installed without
the versions it asks for.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers.peer import SERVERS, Peer, path_target, python_of
from bench.process import running
from bench.target import Target, api, join_script, trigger
from bench.wire import ENVELOPE_BYTES, post


@contextmanager
def start(_clients: int) -> Iterator[Target]:
    """Run it from its own environment, with the local API as backend."""
    python = python_of("high-templar-2")
    with api() as (_, url), running([python, str(SERVERS / "high_templar_2_app.py"), url]) as process:
        port = int(process.wait_said(r"ready (\d+)")[1])
        target = path_target("High-templar 2.5.0", (process,), port, port)
        yield dataclasses.replace(
            target,
            script=join_script(target.websocket),
            request=lambda room, data: post(target.trigger, "/trigger/", trigger(room, data).encode()),
            envelope_bytes=ENVELOPE_BYTES,
        )


PEER = Peer(
    "High-templar 2.5.0",
    start,
    "high-templar-2",
    (
        "Flask==1.1.4",
        "Werkzeug==0.16.1",
        "gevent-websocket==0.10.1",
        "Flask-Sockets==0.2.1",
        "MarkupSafe<2.1",
        "gevent",
        "requests",
        "python-dotenv",
    ),
    without_dependencies=("high-templar==2.5.0",),
    share=0.25,
)
