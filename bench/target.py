"""A running server to measure: where it is, how a client joins it, how one publishes; and the gateway as the first."""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from msgspec import UNSET

from bench.process import LOAD_CORE, Cpu, Process, module, running
from bench.wire import ENVELOPE_BYTES, Address, Script, Step, canonical, handshake, post, text_frame
from trio_templar.core.dialects import Since

# For runs of minutes: clients here answer no ping, and what is kept must outlast the run.
PATIENT = {"history_seconds": "3600", "ping_seconds": "3600"}

JoinScript = Callable[[int, int | None], Script]
Request = Callable[[int, str], bytes]


@dataclass(frozen=True)
class Target:
    """One server under load. `script(client, room)` joins (room None: admitted only); `request(room, data)` posts.

    `envelope_bytes` is what the server puts around `data` in a publish frame, its header not counted.
    """

    name: str
    websocket: Address
    trigger: Address
    processes: tuple[Process, ...]
    script: JoinScript
    request: Request
    envelope_bytes: int = 0

    def cpu(self) -> Cpu:
        """Return the CPU time of everything the server needs to run, brokers included."""
        return sum((process.cpu() for process in self.processes), Cpu())

    def rss_bytes(self) -> int:
        """Return its memory."""
        return sum(process.rss_bytes() for process in self.processes)


def room(number: int) -> dict[str, object]:
    """Return the room with this number."""
    return {"target": "room", "id": number}


def join_script(address: Address, *, same_request_id: bool = False, since: Since = UNSET) -> JoinScript:
    """Return how a client joins the gateway: own cookie, bootstrap, one subscription with a uuid as requestId.

    One with a position as `since` has joined only if it is recovered.
    """
    asked = {} if since is UNSET else {"since": since}
    subscribed = b'"code": "success"}' if since is UNSET else b'"}' if since is None else b'"recovered": true}'

    def script(number: int, room_number: int | None) -> Script:
        headers = {"Cookie": f"sessionid={number:032x}", "User-Agent": "bench"}
        admitted = Step(handshake(address, "/ws/", headers), b'"allowed_rooms"')
        if room_number is None:
            return (admitted,)
        request_id = str(uuid.UUID(int=0) if same_request_id else uuid.uuid4())
        command = {"type": "subscribe", "requestId": request_id, "room": room(room_number), **asked}
        return (admitted, Step(text_frame(canonical(command)), subscribed))

    return script


def trigger(room_number: int, data: str) -> str:
    """Return one trigger. Not through a JSON encoder: `data` is JSON text already."""
    return f'{{"rooms":[{canonical(room(room_number))}],"data":{data}}}'


@contextmanager
def api() -> Iterator[tuple[Process, str]]:
    """Run the backend on the core of the generator; yield it and its URL."""
    with running(module("bench.api"), core=LOAD_CORE) as process:
        yield process, process.wait_said(r"http://\S+/")[0]


@contextmanager
def gateway(
    clients: int, *, same_request_id: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Target]:
    """Run the gateway on the core of the server, with bounds that let `clients` connect at once.

    Other settings can be given in the environment as usual (TRIO_TEMPLAR_...), and win over what is raised here and
    over `settings`.
    """
    with api() as (_, url), running(_command(url), env=_environment(clients, settings or {})) as process:
        websocket = process.wait_said(r"ws://([\d.]+):(\d+)/ws/")
        http = process.wait_said(r"http://([\d.]+):(\d+)/trigger")
        address = (websocket[1], int(websocket[2]))
        trigger_address = (http[1], int(http[2]))
        yield Target(
            "trio_templar",
            address,
            trigger_address,
            (process,),
            join_script(address, same_request_id=same_request_id),
            lambda number, data: post(trigger_address, "/trigger/", trigger(number, data).encode()),
            ENVELOPE_BYTES,
        )


def _command(api_url: str) -> list[str]:
    bind = ["--bind", "127.0.0.1:0", "--trigger-bind", "127.0.0.1:0"]
    return module("trio_templar", "serve", "--api-url", api_url, *bind)


def _environment(clients: int, settings: Mapping[str, str]) -> dict[str, str]:
    # A benchmark is one address, and a storm on purpose: raise the bounds meant against just that.
    bounds = {"max_connections": str(clients + 100), "max_bootstraps_waiting": str(clients + 100)}
    named = {f"TRIO_TEMPLAR_{name.upper()}": value for name, value in {**bounds, **settings}.items()}
    return {name: os.environ.get(name, value) for name, value in named.items()}


def settle(target: Target, seconds: float = 0.2) -> None:
    """Wait until the server is idle, so that what it still does is not charged to the next phase."""
    before = target.cpu().total
    for _ in range(50):
        time.sleep(seconds)
        now = target.cpu().total
        if now - before < 0.02 * seconds + 0.01:
            return
        before = now
