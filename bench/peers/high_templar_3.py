"""High-templar 3.1.0 (Quart on hypercorn), with RabbitMQ, from which it takes its triggers.

RabbitMQ runs on the same core and is counted with it. A small bridge on the core of the generator turns each POST into
an AMQP message, and is not counted; it adds a little to the latency. RabbitMQ needs its usual port to be free.
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.peers.peer import SERVERS, NotInstalledError, Peer, path_target, python_of, wait_port
from bench.process import LOAD_CORE, Process, running
from bench.target import JoinScript, Target, api, join_script, trigger
from bench.wire import ENVELOPE_BYTES, Address, Script, post

_RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_AMQP_PORT = 5672
_READY_SECONDS = 60.0


def _script(address: Address) -> JoinScript:
    """As with trio_templar; but its answer to a subscription carries no requestId."""
    script = join_script(address)

    def changed(number: int, room: int | None) -> Script:
        first, *rest = script(number, room)
        return first, *(step._replace(until=b'{"code": "success"}') for step in rest)

    return changed


@contextmanager
def _rabbitmq() -> Iterator[Process]:
    """Run a broker of our own in a temporary folder, and the port mapper it would otherwise leave behind."""
    if not _RABBITMQ.exists():
        raise NotInstalledError("no rabbitmq-server: apt-get install rabbitmq-server")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        env = {
            "HOME": folder,
            "RABBITMQ_NODENAME": f"bench{os.getpid()}@localhost",
            "RABBITMQ_MNESIA_BASE": folder,
            "RABBITMQ_LOG_BASE": folder,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        with running(["epmd"], env=env, core=LOAD_CORE), running([str(_RABBITMQ)], env=env) as process:
            process.wait_said("Server startup complete|completed with", _READY_SECONDS)
            wait_port(_AMQP_PORT, process)
            yield process


@contextmanager
def start(_clients: int) -> Iterator[Target]:
    """Run broker, gateway and bridge."""
    python = python_of("high-templar-3")
    hypercorn = [python, "-m", "hypercorn", "--bind", "127.0.0.1:0", "--backlog", "4096"]
    with ExitStack() as stack:
        broker = stack.enter_context(_rabbitmq())
        _, url = stack.enter_context(api())
        command = [*hypercorn, "high_templar_3_app:application"]
        process = stack.enter_context(running(command, env={"API_URL": url}, cwd=SERVERS))
        bridge_command = [python, str(SERVERS / "high_templar_3_bridge.py")]
        bridge = stack.enter_context(running(bridge_command, core=LOAD_CORE))
        port = int(process.wait_said(r"Running on http://127\.0\.0\.1:(\d+)")[1])
        bridge_port = int(bridge.wait_said(r"ready (\d+)")[1])
        target = path_target("High-templar 3.1.0", (process, broker), port, bridge_port)
        yield dataclasses.replace(
            target,
            script=_script(target.websocket),
            request=lambda room, data: post(target.trigger, "/", trigger(room, data).encode()),
            envelope_bytes=ENVELOPE_BYTES,
        )


PEER = Peer(
    "High-templar 3.1.0",
    start,
    "high-templar-3",
    ("high-templar==3.1.0",),
    debian=("rabbitmq-server",),
    share=0.25,
)
