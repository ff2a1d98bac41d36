"""What `trio-templar check` looks at. Whatever is opened here is closed again."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import trio

from trio_templar.clients.backend import HttpBackend
from trio_templar.clients.bootstrap import BootstrapLimiter
from trio_templar.commands.serve import NO_ADDRESS
from trio_templar.core.answers import user_id_in
from trio_templar.core.forwarding import ClientRequest
from trio_templar.core.settings import Settings, is_local
from trio_templar.core.texts import inherited_descriptor, split_address
from trio_templar.errors import BackendError, Busy, Refused, SettingsError, Unavailable
from trio_templar.machine import memory_bytes, most_descriptors
from trio_templar.net.listeners import open_listeners
from trio_templar.net.tls import Certificate

# So many letters and digits cannot be guessed by trying.
MIN_TOKEN_LENGTH: Final = 16
HOLDER_SECONDS: Final = 2.0
MAX_ANSWER_BYTES: Final = 16_384
# What the two sides of a gateway say to a plain GET, and an address with TLS to one without.
OURS: Final = (b"\r\n\r\nwebsockets only", b'{"live":true}', b"this address speaks TLS")


class Finding(NamedTuple):
    """One thing that was looked at. `fail`: no gateway would start, or let anybody in; `warn`: it will hurt later."""

    level: Literal["ok", "warn", "fail"]
    about: str
    text: str


async def check_all(settings: Settings, host: str = "") -> list[Finding]:
    """Return what is found, in the order in which a gateway would come across it; `host` is the Host of a client."""
    findings = [*_triggers(settings), *_tls(settings), _descriptors(settings), _memory(settings)]
    if not settings.bind:
        findings.append(Finding("fail", "bind", NO_ADDRESS.removeprefix("bind: ")))
    addresses = [("bind", address) for address in settings.bind]
    if settings.trigger_bind:
        addresses.append(("trigger_bind", settings.trigger_bind))
    for setting, address in addresses:
        findings += [await check_address(setting, address, settings)]
    findings.append(await check_api(settings, host))
    return findings


def _triggers(settings: Settings) -> Iterator[Finding]:
    if not settings.trigger_bind:
        yield Finding("warn", "trigger_bind", "empty: no one can publish over HTTP")
    elif settings.token:
        yield Finding("ok", "trigger_token", "set")
        yield from _weaknesses(settings)
    elif is_local(settings.trigger_bind):
        yield Finding("ok", "trigger_token", "none: anyone on this machine can publish")
    else:
        yield Finding("warn", "insecure_trigger", f"anyone who reaches {settings.trigger_bind} can publish")
    if settings.room_policy:
        yield Finding("ok", "room_policy", f"{len(settings.room_policy)}, the first that matches decides")


def _weaknesses(settings: Settings) -> Iterator[Finding]:
    if len(settings.token) < MIN_TOKEN_LENGTH:
        yield Finding("warn", "trigger_token", "it is so short that it can be guessed; openssl rand -hex 32 makes one")
    file = settings.trigger_token_file
    if file and Path(file).stat().st_mode & stat.S_IROTH:
        yield Finding("warn", "trigger_token_file", f"{file}: everyone on this machine can read it (chmod o-r)")


def _tls(settings: Settings) -> Iterator[Finding]:
    if not settings.tls_cert:
        return
    try:
        Certificate(settings.tls_cert, settings.tls_key)
    except SettingsError as error:
        yield Finding("fail", "tls_cert", str(error))
    else:
        yield Finding("ok", "tls_cert", settings.tls_cert)


def _descriptors(settings: Settings) -> Finding:
    limit, needed = most_descriptors(), settings.descriptors  # serve raises its own
    if limit < needed:
        text = f"{limit}, but max_connections {settings.max_connections} needs {needed} (ulimit -n, LimitNOFILE)"
        return Finding("warn", "file descriptors", text)
    return Finding("ok", "file descriptors", f"enough for max_connections {settings.max_connections}")


def _memory(settings: Settings) -> Finding:
    there = memory_bytes()
    budget = settings.memory_bytes or there // 4
    text = f"{budget:,} bytes may wait, of {there:,} bytes of memory"
    return Finding("ok" if budget <= there // 2 else "warn", "memory_bytes", text)


async def check_address(setting: str, address: str, settings: Settings) -> Finding:
    """Say whether `address` can be listened on."""
    if address.startswith("unix:"):
        return _check_path(setting, Path(address.removeprefix("unix:")))
    if inherited_descriptor(address) is not None:
        return Finding("ok", setting, f"{address}: only a process that is started with this socket can check it")
    try:
        for listener in await open_listeners(address, settings):
            await listener.aclose()
    except SettingsError as error:
        if await is_held_by_a_gateway(address, settings.path):
            why = "held by a running gateway; a second one cannot start beside it"
            return Finding("warn", setting, f"{address}: {why}")
        return Finding("fail", setting, str(error))
    return Finding("ok", setting, address)


async def is_held_by_a_gateway(address: str, path: str) -> bool:
    """Whether a gateway answers at `HOST:PORT`; it has two seconds."""
    host, port = split_address(address)
    with trio.move_on_after(HOLDER_SECONDS):
        for each in (path, "/health/live"):  # one at a time: each has a line in the log of who refuses it
            if await _answers_as_ours(_reachable(host), port, each):
                return True
    return False


def _reachable(host: str) -> str:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:  # a name
        return host
    return {4: "127.0.0.1", 6: "::1"}[ip.version] if ip.is_unspecified else host


async def _answers_as_ours(host: str, port: int, path: str) -> bool:
    answer = bytearray()
    try:
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode())
            while len(answer) < MAX_ANSWER_BYTES and (chunk := await stream.receive_some()):
                answer += chunk
    except (OSError, trio.BrokenResourceError):
        pass
    return any(mark in answer for mark in OURS)


def _check_path(setting: str, path: Path) -> Finding:
    # Not tried: listening would take the place of a socket that is there.
    if path.exists() and not path.is_socket():
        return Finding("fail", setting, f"cannot listen on unix:{path}: it exists, and is not a socket")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return Finding("fail", setting, f"cannot listen on unix:{path}: {path.parent} is not writable")
    return Finding("ok", setting, f"unix:{path}")


async def check_api(settings: Settings, host: str = "") -> Finding:
    """Ask the API about a client without cookies, as a gateway would, and say what its answer means."""
    if settings.demo:
        return Finding("ok", "api_url", "none is needed for the demo")
    if not settings.api_url:
        return Finding("fail", "api_url", "where is the API? Give --api-url, or try --demo")
    where = f"{settings.api_url.removesuffix('/')}/bootstrap/"
    try:
        answer = await _ask(settings, host)
    except Refused as error:
        if settings.forward_host and not host and error.status == 400:
            text = "clients' own Host goes to the API, and this had none; --host gives one"
            return Finding("warn", "forward_host", f"{where}: 400: {text}")
        return _refusal(where, error)
    except Busy as error:
        return Finding("warn", "api_url", f"{where}: {error}: until then every client will get 503")
    except Unavailable as error:
        return Finding("fail", "api_url", f"{where}: {error}: every client will get 503")
    except (BackendError, SettingsError) as error:
        return Finding("fail", "api_url", f"{where}: {error}")
    missing = _missing(answer, settings)
    if missing:
        return Finding("warn", "api_url", f"{where}: 200: {'; '.join(missing)}")
    rooms = len(answer["allowed_rooms"])
    return Finding("ok", "api_url", f"{where}: 200: a client without cookies may enter {rooms} rooms")


async def _ask(settings: Settings, host: str) -> Mapping[str, Any]:
    """Return what the API answers, once a gateway has found it good."""
    answers: list[Mapping[str, Any]] = []

    async def bootstrap(request: ClientRequest) -> Mapping[str, Any]:
        answers.append(await backend.bootstrap(request))
        return answers[-1]

    async with HttpBackend(settings) as backend:
        headers = [(b"host", host.encode())] if host else []
        await BootstrapLimiter(bootstrap, settings).ask(ClientRequest(settings.path, headers, "127.0.0.1"))
    return answers[-1]


def _missing(answer: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return what a good `answer` may lack, and what a gateway does without it."""
    found = []
    if answer.get("allowed_rooms") is None:
        found.append("the answer has no allowed_rooms, so no client can subscribe")
    path = settings.user_id_path
    if path and user_id_in(answer, path.split(".")) is None:
        found.append(f"the answer has no {path} (--user-id-path), so logs and hooks do not know whose client it is")
    return found


def _refusal(where: str, refused: Refused) -> Finding:
    if not refused.hint:
        return Finding("ok", "api_url", f"{where}: {refused.status}: a client without cookies is refused")
    # These do not look at the client: nobody will be let in. Others may be different with a cookie.
    level: Literal["fail", "warn"] = "fail" if refused.status in (301, 308, 400, 404) else "warn"
    return Finding(level, "api_url", f"{where}: {refused.status}: {refused.hint}")
