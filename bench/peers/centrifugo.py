"""Centrifugo (Go), where a `centrifugo` binary is on the PATH: version 5 or 6, JSON protocol, its HTTP API.

A client connects without a token and subscribes to a channel of its room. Publications may share a frame, so the
frame size differs from that of the others.
"""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import NotInstalledError, Peer, free_port, path_target, wait_port
from bench.process import running
from bench.target import JoinScript, Target
from bench.wire import Address, Script, Step, canonical, handshake, post, text_frame

_CONFIG = {
    "client": {"insecure": True, "allowed_origins": ["*"], "ping_interval": "3600s"},
    "http_api": {"insecure": True},
    "channel": {"without_namespace": {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}},
    "log": {"level": "error"},
}
_ENVELOPE_BYTES = len('{"push":{"channel":"1","pub":{"data":}}}')


def join_script(address: Address) -> JoinScript:
    """Return how to join: connect, then subscribe."""

    def script(_number: int, room: int | None) -> Script:
        connect = canonical({"id": 1, "connect": {}})
        subscribe = canonical({"id": 2, "subscribe": {"channel": str(room)}})
        return (
            Step(handshake(address, "/connection/websocket"), b"\r\n\r\n"),
            Step(text_frame(connect), b'"id":1,'),
            Step(text_frame(subscribe), b'"id":2,'),
        )

    return script


def _publish(address: Address, room: int, data: str) -> bytes:
    return post(address, "/api/publish", f'{{"channel":"{room}","data":{data}}}'.encode())


@contextmanager
def start(_clients: int) -> Iterator[Target]:
    """Run it with a configuration of its own, on one core."""
    if (centrifugo := shutil.which("centrifugo")) is None:
        raise NotInstalledError("no `centrifugo` on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(_CONFIG))
        port = free_port()
        command = [centrifugo, "--config", str(config), "--address", "127.0.0.1", "--port", str(port)]
        with running(command, env={"GOMAXPROCS": "1"}) as process:
            wait_port(port, process)
            target = path_target("Centrifugo", (process,), port, port)
            yield dataclasses.replace(
                target,
                script=join_script(target.websocket),
                request=lambda room, data: _publish(target.trigger, room, data),
                envelope_bytes=_ENVELOPE_BYTES,
            )


PEER = Peer("Centrifugo", start)
