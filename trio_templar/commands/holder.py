"""Who holds an address that is in use: another gateway, as far as its answers tell."""

from __future__ import annotations

import ipaddress
from typing import Final

import trio

from trio_templar.core.texts import split_address

SECONDS: Final = 2.0
MAX_ANSWER_BYTES: Final = 16_384
# What the two sides of a gateway say to a plain GET, and an address with TLS to one without.
OURS: Final = (b"\r\n\r\nwebsockets only", b'{"live":true}', b"this address speaks TLS")


async def is_held_by_a_gateway(address: str, path: str) -> bool:
    """Whether a gateway answers at `HOST:PORT`; it has two seconds."""
    host, port = split_address(address)
    with trio.move_on_after(SECONDS):
        return any([await _answers_as_ours(_reachable(host), port, each) for each in (path, "/health/live")])
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
