"""A real-time gateway for APIs that only speak HTTP.

The map, in reading order; the core is pure and synchronous, the shell is Trio:

    serving      serve(): listeners, nurseries, and the order in which they end
    gateway      a running one: what its parts share, what can be done with it; totals: what it counts
    reception    who is let in: handshake (one request head), backend (the API over httpx); answers: core: what its
                 answers mean
    connection   one admitted client, from its 101 to its last byte
    protocol     what a client's bytes are, within bounds
    session      core: a client's message in, the reply out; dialects: the wire formats
    hub          core: who listens to what; rooms: room keys and permission
    http_head    core: one request head as RFC 9112 has it, on both ports
    http_api     answers over HTTP (an ASGI app; http_server, http_caller: hypercorn); http_guard: who may call;
                 http_triggers: POST /trigger/; triggers: core: JSON → checked triggers; http_drain: POST /drain/
                 http_app: all routes put together;
                 preferences: core: what a publisher asks of the answer; idempotency: what was published already
    metrics      what Prometheus is told; exposition: how; counters: core: what is counted; lag: how late timers are
    health       whether it is ready, by a publication to itself
    views        who is connected, which rooms there are; nursery_tree: what runs; rates: how busy a room is;
                 steering: disconnect, unsubscribe; selection: whom; http_input: what a caller asks, checked
    fanout       publish, room channels, the fan-out loop; frames: core: websocket frames; reports: what became of it
    outbox       the bounded way to one socket; backlog: what waits for it; wire: bytes in and out; sockets: what
                 Trio leaves to us; policies: core: what gives way in which room
    supervisor   slow consumers, silence, memory; budget: what waits in all; clock: time that counts;
                 machine: how much memory there is
    listeners    addresses made into listeners; tls: the certificate, and a handshake that may fail;
                 tls_stream: TLS with writes that do not wait
    drain        sending everybody away one by one
    hooks        what happens elsewhere when a client connects, pings or leaves
    settings     core: all settings; options: core: what makes options of its fields; texts: core: what becomes of
                 their texts; files: core: small files that are named there; reload: core: new ones for a gateway that
                 runs; forwarding: core: which headers go to the API; origins: core: which pages may talk to us
    cli          `trio-templar`: argv and environment to one of the commands in commands/
    client       the other end, for commands and tests
    page         the dashboard: its files, which are in page_files/
    demo         --demo: an API inside the gateway, for the two clients of the page
    testing      what embedding programs (and our tests) test with

A message goes `http_triggers.trigger → fanout.publish → fan-out loop → outbox.put → (socket | write loop)`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trio_templar.errors import (
    BackendError,
    Busy,
    Close,
    NotFound,
    Refused,
    RequestError,
    SettingsError,
    TemplarError,
    TooLarge,
    TriggerError,
    Unavailable,
)
from trio_templar.forwarding import ClientRequest
from trio_templar.rooms import Room
from trio_templar.settings import Settings

if TYPE_CHECKING:
    from trio_templar.backend import Bootstrap
    from trio_templar.gateway import Gateway
    from trio_templar.hooks import Client, Hooks
    from trio_templar.selection import Selection
    from trio_templar.serving import serve
    from trio_templar.totals import Statistics

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Bootstrap",
    "Busy",
    "Client",
    "ClientRequest",
    "Close",
    "Gateway",
    "Hooks",
    "NotFound",
    "Refused",
    "RequestError",
    "Room",
    "Selection",
    "Settings",
    "SettingsError",
    "Statistics",
    "TemplarError",
    "TooLarge",
    "TriggerError",
    "Unavailable",
    "serve",
]

# These need Trio, which takes longer to import than `trio-templar --help` should take.
_SHELL = {
    "Bootstrap": "backend",
    "Gateway": "gateway",
    "Statistics": "totals",
    "serve": "serving",
    "Client": "hooks",
    "Hooks": "hooks",
    "Selection": "selection",
}


def __getattr__(name: str) -> Any:
    """Import what needs Trio when it is first asked for."""
    if name not in _SHELL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_SHELL[name]}"), name)


def __dir__() -> list[str]:
    """Show also what is not imported yet."""
    return sorted({*globals(), *__all__})
