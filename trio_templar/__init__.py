"""A real-time gateway for APIs that only speak HTTP.

The map. A package imports from those above it, never from those below. In each, what is to be read first is first.

    errors       what can go wrong, named for who can mend it, and how a connection ends
    log          log lines as an event and its fields
    log_writer   the thread that writes them, so that a slow reader of the log holds up nothing
    files        small files that an operator names
    clock        time that stands still while this process did not run
    counters     numbers that only grow, and histograms
    lag          how late timers fire
    machine      what this machine, or the container we are in, allows us

    core/        pure and synchronous: no Trio, no I/O, no clock, no logging
      rooms        room keys, and who may enter
      frames       websocket frames, and batches of publications
      hub          who listens to what
      dialects     the two wire formats of clients, byte for byte
      session      what one admitted client may do: a message in, the reply out
      triggers     what a publisher sends: JSON in, checked triggers out
      preferences  what a publisher asks of the answer
      position     where a publication stands in the order of all
      history      what was published in the last seconds, in all rooms
      recovery     what a client that comes back has missed of it
      room_history  what is kept of one room, page by page, for those who ask and are no client
      policies     which publications give way when a client is slow
      answers      what the API's answer about a client means
      forwarding   which headers of a client go on to the API
      origins      which web pages may talk to us
      settings     all settings, as one frozen value
      options      what makes command-line options, variables and TOML keys of its fields
      texts        how the texts of settings are made normal
      reload       which new settings a running gateway can take over

    net/         bytes in and out, and addresses
      sockets      accepting through shortages, and hanging up without losing the last words
      listeners    addresses made into listeners
      endpoints    the sockets of one gateway
      tls          the certificate
      tls_stream   TLS with writes that do not wait
      wire         reading and writing one client's stream
      http_head    one request head as RFC 9112 has it, on both ports
      protocol     the websocket protocol of one client, within bounds

    delivery/    from a publication to a socket
      bus          the log that publishers append to
      follower     what a node does with what is in it: keep it, hand it on
      entrance     the bounds of what may be published, and who waits before them
      fanout       room channels, the fan-out loop
      outbox       the bounded way to one client's socket
      backlog      the publications and replies that wait for it
      sizes        things by their size: which of them waits with the most
      write        one write of them: the frames that are written next
      closing      how a connection ends: states, events, and what each does in each
      budget       the bytes that wait, in all
      tally        what became of a publisher's triggers
      idempotency  what was published already

    clients/     one client, and all of them
      handshake    the opening handshake, from the first byte to the 101
      admission    who is let in
      bootstrap    who a client is and which rooms it may enter, asked within bounds
      backend      the API over httpx: bootstrap and hooks
      connection   one admitted client, from its 101 to its last byte
      hooks        what happens elsewhere when a client connects, pings or leaves
      supervisor   slow consumers, silence, memory
      selection    which connections an operator means
      control      what an operator does to them
      drain        sending everybody away one by one
      statistics   the numbers of a gateway

    http/        the HTTP API for publishers, operators and monitoring
      server       how many callers there are
      caller       one of them, answered by hypercorn
      exchange     one request and its response, as hypercorn sees them
      app          requests and answers: an ASGI app
      body         the body of a request, within bounds
      authorization  who may call
      routes       all routes put together
      input        queries and bodies of operators, checked
      triggers     POST /trigger/
      control      POST /disconnect/, /unsubscribe/, /drain/
      health       GET /health/live, /health/ready: a publication to ourselves comes back
      views        GET /status, /connections/, /rooms/
      history      GET /history/: what is kept of a room
      rates        how busy each room is
      trends       GET /trends: the last ten minutes
      tree         GET /tree: the tasks that run
      metrics      what GET /metrics says
      exposition   the text format of Prometheus
      page         GET /: the dashboard, whose files are in page_files/

    serving      serve(): the nursery tree, and the order in which it ends
    wiring       settings and open nurseries made into parts; what a reload replaces
    gateway      what an embedding program holds
    demo         --demo: an API inside the gateway
    client       a websocket client, for commands and tests
    testing      what embedding programs test with

    commands/    the terminal, one module a command; `cli` leads to them
      cli          argv and environment to one of the commands, and from its end to an exit status
      command      what commands have in common
      serve        run a gateway
      running      from its start to the signal that ends it
      check        what serve would say, without serving
      checks       what that looks at
      publish      post a trigger, or a stream of them
      triggers     how that posts them, line by line
      listen       be a client, and print what comes
      subscriber   the client that stays
      printer      what it hears, as lines
      connecting   the way to its websocket
      top          a gateway at a glance, again and again
      snapshots    what that shows
      screen       its picture
      tree         what runs inside, drawn
      completion   what a shell needs to complete options
      settings_sources  where settings come from: options, environment, a TOML file
      addresses    where a running gateway is
      gateway_api  its HTTP API, for commands that call it
      api_caller   the options of these commands
      streams      standard streams that are shut, or cannot be written to

A message goes `triggers.trigger → bus.append → entrance.check → follower.take → fanout.hand_on → outbox.put → socket`.
On the way it may wait: before `outbox.put` in a room channel, for the fan-out loop; behind it in a backlog, for the
write loop of the connection.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trio_templar.core.forwarding import ClientRequest
from trio_templar.core.rooms import Room
from trio_templar.core.settings import Settings
from trio_templar.errors import (
    BackendError,
    Busy,
    Close,
    Forgotten,
    NotFound,
    Refused,
    RequestError,
    SettingsError,
    TemplarError,
    TooLarge,
    TriggerError,
    Unavailable,
)

if TYPE_CHECKING:
    from trio_templar.clients.bootstrap import Bootstrap
    from trio_templar.clients.hooks import Client, Hooks
    from trio_templar.clients.selection import Selection
    from trio_templar.clients.statistics import Statistics
    from trio_templar.core.room_history import KeptPublication, RoomHistory
    from trio_templar.gateway import Gateway, Published
    from trio_templar.serving import serve

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Bootstrap",
    "Busy",
    "Client",
    "ClientRequest",
    "Close",
    "Forgotten",
    "Gateway",
    "Hooks",
    "KeptPublication",
    "NotFound",
    "Published",
    "Refused",
    "RequestError",
    "Room",
    "RoomHistory",
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

# These need Trio or other parts of a gateway, which take longer to import than `trio-templar --help` should take.
_SHELL = {
    "Bootstrap": "clients.bootstrap",
    "Gateway": "gateway",
    "Published": "gateway",
    "Statistics": "clients.statistics",
    "serve": "serving",
    "Client": "clients.hooks",
    "Hooks": "clients.hooks",
    "KeptPublication": "core.room_history",
    "RoomHistory": "core.room_history",
    "Selection": "clients.selection",
}


def __getattr__(name: str) -> Any:
    """Import what takes long when it is first asked for."""
    if name not in _SHELL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_SHELL[name]}"), name)


def __dir__() -> list[str]:
    """Show also what is not imported yet."""
    return sorted({*globals(), *__all__})
