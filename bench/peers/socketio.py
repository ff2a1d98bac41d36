"""python-socketio on uvicorn (uvloop, httptools): rooms of its own, a POST on the same server calls `emit`."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers.peer import SERVERS, Peer, path_target, python_of
from bench.process import running
from bench.target import JoinScript, Target
from bench.wire import Address, Script, Step, handshake, text_frame


def join_script(address: Address) -> JoinScript:
    """Return how to join: Engine.IO's greeting, then Socket.IO's, during which the client is put into its room."""

    def script(_number: int, room: int | None) -> Script:
        path = f"/socket.io/?EIO=4&transport=websocket&room={room}"
        return Step(handshake(address, path), b'"maxPayload"'), Step(text_frame("40"), b'40{"sid"')

    return script


@contextmanager
def start(_clients: int) -> Iterator[Target]:
    """Run it from its own environment."""
    with running([python_of("socketio"), str(SERVERS / "socketio_app.py")]) as process:
        port = int(process.wait_said(r"running on http://127\.0\.0\.1:(\d+)")[1])
        target = path_target("python-socketio", (process,), port, port, publish="/trigger/{room}")
        script = join_script(target.websocket)
        yield dataclasses.replace(target, script=script, envelope_bytes=len('42["publish",]'))


PEER = Peer("python-socketio", start, "socketio", ("python-socketio", "uvicorn[standard]"), share=0.5)
