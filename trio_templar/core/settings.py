"""All settings: one frozen value. Options, variables, TOML keys, checks and the table in the docs come from it."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from trio_templar.core import texts
from trio_templar.core.forwarding import Forwarding, HeaderRule
from trio_templar.core.options import Option, Reload, hint, options_of
from trio_templar.core.policies import Policies, RoomPolicy
from trio_templar.core.texts import inherited_descriptor, split_address
from trio_templar.errors import SettingsError
from trio_templar.files import read_first_line

# Descriptors that belong to no client and no caller: listeners, the event loop, files.
OTHER_DESCRIPTORS: Final = 100

# The settings that give the trigger token.
TOKENS: Final = ("trigger_token", "trigger_token_file")

Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Count = Annotated[int, Meta(ge=1, le=2**31)]
Bytes = Annotated[int, Meta(ge=64, le=2**40)]
Rate = Annotated[float, Meta(gt=0, le=1_000_000)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything one gateway can be told.

    Each field has its type and bounds, its description, perhaps what makes its texts normal, and when a new value of it
    holds in a gateway that runs; where no `Reload` is given, that takes a restart.

    Raises SettingsError: if a value is out of range, or two contradict each other; the text names the setting.
    """

    api_url: Annotated[
        str, Meta(description="the API, as http(s)://HOST[:PORT]/PATH/; bootstrap/ is appended"), texts.api_url
    ] = ""
    api_socket: Annotated[
        str, Meta(description="unix socket of the API, instead of its host and port"), texts.socket_path
    ] = ""
    api_ca: Annotated[str, Meta(description="file of certificates to trust for an https API")] = ""
    bind: Annotated[
        tuple[str, ...],
        Meta(description="websockets: HOST:PORT, [V6]:PORT, unix:PATH or fd://N; port 0 picks one"),
        texts.address,
    ] = ("127.0.0.1:8001",)
    trigger_bind: Annotated[
        str, Meta(description="HTTP API for triggers; none: no HTTP API"), texts.trigger_address
    ] = "127.0.0.1:8002"
    tls_cert: Annotated[
        str,
        Meta(description="file of a certificate and its chain; websockets are then wss://, except on unix sockets"),
        Reload.NEW_CLIENTS,
    ] = ""
    tls_key: Annotated[
        str, Meta(description="file of its key; unset: in the file of the certificate"), Reload.NEW_CLIENTS
    ] = ""
    unix_socket_mode: Annotated[
        str,
        Meta(description="permissions of new unix sockets, such as 0660; unset: what the umask leaves"),
        texts.socket_mode,
    ] = ""
    path: Annotated[str, Meta(description="path of the websocket, with or without its last slash"), texts.path] = "/ws/"
    dialect: Annotated[Literal["2", "3"], Meta(description="High-templar wire format that clients speak")] = "2"
    allowed_origin: Annotated[
        tuple[str, ...],
        Meta(description="an Origin to admit besides the request's own host, as scheme://host[:port], or *"),
        texts.origin,
        Reload.AT_ONCE,
    ] = ()
    subprotocol: Annotated[
        tuple[str, ...],
        Meta(description="a Sec-WebSocket-Protocol to choose if a client offers it, as browsers require"),
        texts.token,
        Reload.NEW_CLIENTS,
    ] = ()
    trigger_token: Annotated[
        str,
        Meta(description="token a trigger must carry; better by file or environment"),
        texts.unicode,
        Reload.AT_ONCE,
    ] = field(default="", repr=False)
    trigger_token_file: Annotated[
        str, Meta(description="file whose first line is the trigger token"), Reload.AT_ONCE
    ] = ""
    insecure_trigger: Annotated[
        bool, Meta(description="allow triggers from other machines without a token"), Reload.AT_ONCE
    ] = False
    trusted_host: Annotated[
        tuple[str, ...],
        Meta(description="a name besides localhost that callers may use for the trigger address without a token"),
        texts.host_name,
        Reload.AT_ONCE,
    ] = ()
    forward_ip_from: Annotated[
        str, Meta(description="header (or `peer`) whose value goes to the API as X-Forwarded-For"), texts.header_or_peer
    ] = ""
    forward_host: Annotated[bool, Meta(description="send the client's Host to the API, not the host of api_url")] = (
        False
    )
    connection_header: Annotated[
        tuple[str, ...],
        Meta(description="header for the API, NAME=key:|param:|cookie:|fixed:SOURCE[:FORMAT with {}]"),
        texts.unicode,
    ] = ()
    user_id_path: Annotated[str, Meta(description="path to the user's id in the bootstrap answer"), texts.dotted] = (
        "user.id"
    )
    on_connect: Annotated[str, Meta(description="API path to POST to when a client is admitted"), texts.hook] = ""
    on_ping: Annotated[str, Meta(description="API path to POST to when a client pings"), texts.hook] = ""
    on_disconnect: Annotated[
        str, Meta(description="API path to POST to when an admitted client leaves"), texts.hook
    ] = ""
    allow_status: Annotated[
        bool, Meta(description="dialect 3: send totals to a client that asks"), Reload.NEW_CLIENTS
    ] = False
    demo: Annotated[bool, Meta(description="bring an API of its own, and two clients on the dashboard")] = False
    ready_file: Annotated[
        str,
        Meta(description="file with the addresses as JSON while clients can connect; the command `serve` writes it"),
    ] = ""
    log_format: Annotated[Literal["text", "json"], Meta(description="format of a log line")] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="lowest level that is logged"), Reload.AT_ONCE
    ] = "info"

    max_connections: Annotated[Count, Meta(description="clients at once; one more gets 503"), Reload.NEW_CLIENTS] = (
        10_000
    )
    max_subscriptions: Annotated[Count, Meta(description="subscriptions of one connection"), Reload.NEW_CLIENTS] = 200
    max_room_bytes: Annotated[Bytes, Meta(description="size of a room as canonical JSON"), Reload.NEW_CLIENTS] = 2048
    max_request_id_bytes: Annotated[Count, Meta(description="size of a requestId as JSON"), Reload.NEW_CLIENTS] = 128
    max_message_bytes: Annotated[
        Bytes, Meta(description="size of a client's message; larger: close 1009"), Reload.NEW_CLIENTS
    ] = 65_536
    max_handshake_bytes: Annotated[
        Bytes, Meta(description="size of the head of an upgrade request; larger: 431"), Reload.NEW_CLIENTS
    ] = 32_768
    max_bootstrap_bytes: Annotated[Bytes, Meta(description="size of the API's bootstrap answer")] = 1_048_576
    max_bootstraps: Annotated[Count, Meta(description="bootstrap calls at once, and as many hook calls")] = 32
    max_bootstraps_waiting: Annotated[Count, Meta(description="clients waiting for a bootstrap call; else 503")] = 1000
    max_trigger_bytes: Annotated[
        Bytes, Meta(description="size of a trigger's body, or of a line of a stream; larger: 413")
    ] = 8_388_608
    max_triggers_waiting: Annotated[
        Count, Meta(description="triggers waiting for a full room; else 503"), Reload.AT_ONCE
    ] = 1000
    max_callers: Annotated[
        Count, Meta(description="callers of the HTTP API at once; one more replaces the longest idle, or gets 503")
    ] = 1000
    room_publications: Annotated[
        Count, Meta(description="publications that one room channel holds"), Reload.AT_ONCE
    ] = 1000
    room_bytes: Annotated[
        Bytes, Meta(description="bytes of the publications that one room channel holds"), Reload.AT_ONCE
    ] = 16_777_216
    outbox_bytes: Annotated[Bytes, Meta(description="bytes that may wait for one client; beyond: close 1013")] = (
        1_048_576
    )
    outbox_frames: Annotated[Count, Meta(description="frames that may wait for one client; beyond: close 1013")] = (
        10_000
    )
    room_policy: Annotated[
        tuple[RoomPolicy, ...],
        Meta(
            description="what gives way when a client is slow, and what is kept, as "
            '{"match": ROOM, "policy": …}; first match wins'
        ),
        Reload.AT_ONCE,
    ] = ()
    memory_bytes: Annotated[
        Bytes | None,
        Meta(
            description="bytes that may wait in the gateway; over half: publishers wait; unset: a quarter of the memory"
        ),
    ] = None
    send_buffer_bytes: Annotated[Bytes, Meta(description="bytes that the kernel holds for one client (SO_SNDBUF)")] = (
        65_536
    )
    messages_per_second: Annotated[
        Rate, Meta(description="messages of one client in the long run; more: close 1008"), Reload.NEW_CLIENTS
    ] = 100.0
    messages_burst: Annotated[
        Count, Meta(description="messages of one client at once; more: close 1008"), Reload.NEW_CLIENTS
    ] = 1000
    idempotency_entries: Annotated[Count, Meta(description="answers to remember under keys of publishers")] = 10_000
    history_bytes: Annotated[
        Annotated[int, Meta(ge=0, le=2**40)],
        Meta(description="bytes of publications to keep for clients that come back; at most memory_bytes / 8"),
        Reload.AT_ONCE,
    ] = 33_554_432
    idempotency_bytes: Annotated[Bytes, Meta(description="bytes of the answers to remember")] = 16_777_216

    handshake_seconds: Annotated[
        Seconds, Meta(description="time from accept to a complete request head"), Reload.NEW_CLIENTS
    ] = 10.0
    bootstrap_seconds: Annotated[Seconds, Meta(description="time for the API's answer to a bootstrap call")] = 10.0
    idle_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=31_536_000)] | None,
        Meta(description="no message for so long: close 1000; 0: never; unset: never in dialect 2, 300 in dialect 3"),
        Reload.AT_ONCE,
    ] = None
    ping_seconds: Annotated[Seconds, Meta(description="no byte from a client for so long: ping it"), Reload.AT_ONCE] = (
        30.0
    )
    pong_seconds: Annotated[Seconds, Meta(description="no byte after a ping for so long: close"), Reload.AT_ONCE] = 20.0
    slow_seconds: Annotated[
        Seconds, Meta(description="no progress, or over half of outbox_bytes, for so long: close 1013"), Reload.AT_ONCE
    ] = 15.0
    outbox_seconds: Annotated[
        Seconds,
        Meta(description="age of the oldest publication that waits for a client; older: close 1013"),
        Reload.AT_ONCE,
    ] = 60.0
    http_body_seconds: Annotated[
        Seconds, Meta(description="time for the body of a trigger; in a stream, for each line")
    ] = 10.0
    trigger_wait_seconds: Annotated[
        Seconds, Meta(description="time that a trigger waits for a full room; then 503"), Reload.AT_ONCE
    ] = 5.0
    history_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=31_536_000)],
        Meta(description="time to keep publications for clients that come back; 0: not at all"),
        Reload.AT_ONCE,
    ] = 60.0
    idempotency_seconds: Annotated[Seconds, Meta(description="time to remember a publisher's key")] = 300.0
    hook_seconds: Annotated[
        Seconds, Meta(description="time for one call of a hook, from its turn on"), Reload.NEW_CLIENTS
    ] = 10.0
    ping_hook_seconds: Annotated[
        Seconds, Meta(description="least time between two ping hooks of a client"), Reload.NEW_CLIENTS
    ] = 60.0
    goodbye_seconds: Annotated[
        Seconds, Meta(description="time for a closing client to take its backlog"), Reload.NEW_CLIENTS
    ] = 2.0
    ready_seconds: Annotated[
        Seconds, Meta(description="not ready if a publication to the gateway itself takes longer")
    ] = 5.0
    drain_seconds: Annotated[
        Seconds,
        Meta(description="time from SIGTERM to the end; clients are closed in the first three quarters"),
        Reload.AT_ONCE,
    ] = 10.0

    def __post_init__(self) -> None:
        for option in options():
            value = getattr(self, option.name)
            if option.many and not isinstance(value, list | tuple):
                raise SettingsError(f"{option.name}: {value!r} is not a list")
            object.__setattr__(self, option.name, option.convert(value, option.name))
        if self.api_socket and not self.api_url.startswith("http://"):
            raise SettingsError("api_socket: needs an api_url with http://")
        if self.tls_key and not self.tls_cert:
            raise SettingsError("tls_key: needs a tls_cert")
        self._check_inherited()
        _ = self.policies
        self._check_triggers()
        self._check_demo()
        _ = self.forwarding

    def _check_triggers(self) -> None:
        if self.trigger_bind and not (self.token or self.insecure_trigger or is_local(self.trigger_bind)):
            raise SettingsError(
                f"trigger_bind: {self.trigger_bind} can be reached from other machines and no trigger_token is set; "
                "set one, or insecure_trigger if something else guards it"
            )

    def _check_inherited(self) -> None:
        inherited = [found for found in map(inherited_descriptor, (*self.bind, self.trigger_bind)) if found is not None]
        if len(inherited) != len(set(inherited)):
            raise SettingsError("bind, trigger_bind: a descriptor (fd://N) is given twice")

    def _check_demo(self) -> None:
        if self.demo and self.api_url:
            raise SettingsError("demo: it has an API of its own; leave out api_url, or demo")
        if self.demo and not (_has_port(self.trigger_bind) and any(map(_has_port, self.bind))):
            raise SettingsError("demo: a browser must reach bind and trigger_bind, so both need HOST:PORT")

    @functools.cached_property
    def token(self) -> str:
        """The trigger token, from its setting or its file; empty: none."""
        if not self.trigger_token_file:
            return self.trigger_token
        return read_first_line(self.trigger_token_file, "trigger_token_file")

    @property
    def policies(self) -> Policies:
        """The policies of rooms, made of `room_policy`."""
        return Policies(self.room_policy, self.outbox_bytes, self.history_seconds)

    @property
    def has_heirs(self) -> bool:
        """Whether all websocket addresses are inherited: clients that come at our end wait for the next process."""
        return bool(self.bind) and all(inherited_descriptor(address) is not None for address in self.bind)

    @property
    def socket_mode(self) -> int | None:
        """`unix_socket_mode` as a number; None: what the umask leaves."""
        return int(self.unix_socket_mode, 8) if self.unix_socket_mode else None

    @property
    def forwarding(self) -> Forwarding:
        """Which headers of a client go on to the API."""
        try:
            rules = [HeaderRule.parse(text) for text in self.connection_header]
        except ValueError as error:
            raise SettingsError(f"connection_header: {error}") from error
        ip_from = self.forward_ip_from.lower().encode()
        return Forwarding(ip_from, self.forward_host, self.dialect == "3", rules)

    @property
    def descriptors(self) -> int:
        """How many descriptors a gateway may need: for clients, callers, calls to the API, and some others."""
        return self.max_connections + self.max_callers + self.max_bootstraps + OTHER_DESCRIPTORS

    @property
    def max_publication_bytes(self) -> int:
        """The largest `data`: half an outbox, so that one publication never closes a client that keeps up."""
        return self.outbox_bytes // 2


@functools.cache
def options() -> tuple[Option, ...]:
    """Return all settings in the order of the class."""
    return options_of(Settings)


# The groups of the help: the first setting of each, in the order of the class.
GROUPS: Final = {
    "api_url": "the API",
    "bind": "addresses",
    "allowed_origin": "who may connect, and who may publish",
    "forward_ip_from": "what the API is told",
    "allow_status": "what else it does",
    "max_connections": "bounds",
    "handshake_seconds": "deadlines",
}


def groups() -> Mapping[str, list[Option]]:
    """Return all settings by the titles of their groups."""
    found: dict[str, list[Option]] = {}
    title = ""
    for option in options():
        title = GROUPS.get(option.name, title)
        found.setdefault(title, []).append(option)
    return found


def settings_from(*sources: Mapping[str, tuple[Any, str]]) -> Settings:
    """Return the settings that `sources` give, earlier ones first; each value comes with what its user calls it.

    Raises SettingsError: if a name is unknown, a value does not fit, or a trigger token is given and empty.
    """
    known = {option.name: option for option in options()}
    values: dict[str, Any] = {}
    said = dict(_first_said(sources))
    for name, (value, said_as) in said.items():
        if name not in known:
            meant = (
                "; settings stand at the top level, not in a table" if isinstance(value, dict) else hint(name, known)
            )
            raise SettingsError(f"{said_as}: there is no such setting{meant}")
        values[name] = known[name].convert(value, said_as, strict=False)
    for name in TOKENS:
        if name in values and not any(map(values.get, TOKENS)):
            raise SettingsError(f"{said[name][1]}: it is empty, so callers would need no token; for that, leave it out")
    return Settings(**values)


def _first_said(sources: tuple[Mapping[str, tuple[Any, str]], ...]) -> Iterator[tuple[str, tuple[Any, str]]]:
    seen: set[str] = set()
    for source in sources:
        yield from ((name, said) for name, said in source.items() if name not in seen)
        seen.update(source)


def _has_port(address: str) -> bool:
    return bool(address) and not address.startswith(("unix:", "fd://"))


def is_local(address: str) -> bool:
    """Whether only this machine can reach `address` (a unix socket, `localhost` or a loopback address).

    Of `fd://N` only the socket itself can tell; it counts as local until its listener is opened.
    """
    if address.startswith(("unix:", "fd://")):
        return True
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
