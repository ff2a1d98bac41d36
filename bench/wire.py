"""Bytes: websocket handshakes and masked frames, HTTP requests, and data that carries its own number.

Everything is built before the clock starts, so that the generator only moves bytes while it runs.
"""

import itertools
import json
import struct
from collections.abc import Iterable
from typing import NamedTuple

# Ends the number inside each publication. A single byte is never split between two reads, so counting it counts
# publications without parsing; it occurs nowhere else in the JSON, and in a frame header only for the lengths
# that `data_of` refuses.
MARK = b"#"
TOKEN_BYTES = len("01-000123")  # what is before it: publisher, number

# What is around `data` in a publish frame of the gateway with a 36-character requestId.
ENVELOPE_BYTES = len('{"requestId": "", "type": "publish", "data": }') + 36


class Step(NamedTuple):
    """One exchange of a client that joins: what it sends, and the bytes that show the server has answered."""

    send: bytes
    until: bytes


Script = tuple[Step, ...]
Address = tuple[str, int]


def handshake(address: Address, path: str, headers: dict[str, str] | None = None) -> bytes:
    """Return a websocket upgrade request. The key is constant: nobody here checks the accept value."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {address[0]}:{address[1]}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def text_frame(text: str) -> bytes:
    """Return one masked text frame. The mask is zero, which the protocol allows and which needs no work."""
    payload = text.encode()
    if len(payload) < 126:
        return bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload
    return struct.pack("!BBH", 0x81, 0x80 | 126, len(payload)) + bytes(4) + payload


def server_frame(payload: bytes) -> bytes:
    """Return one unmasked text frame, as a server sends it."""
    if len(payload) < 126:
        return bytes([0x81, len(payload)]) + payload
    return struct.pack("!BBH", 0x81, 126, len(payload)) + payload


def post(address: Address, path: str, body: bytes, content_type: str = "application/json") -> bytes:
    """Return a keep-alive POST."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def data_of(publisher: int, number: int, size: int) -> str:
    """Return JSON data of exactly `size` bytes that says who published it and in which place.

    Raises:
      ValueError: if `size` is too small for the number, or if a frame of that size has a header with MARK in it.
    """
    number_text = f'"seq":"{publisher:02d}-{number:06d}#"}}'
    padding = size - len(number_text) - len('{"pad":"",')
    if padding < 0 or (size + ENVELOPE_BYTES) & 0xFF == MARK[0]:
        raise ValueError(f"no data of {size} bytes: take a few more")
    return f'{{"pad":"{"x" * padding}",{number_text}'


def canonical(value: object) -> str:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":"))


def cookies() -> Iterable[str]:
    """Return session cookies, all different, as browsers would bring them."""
    return (f"sessionid={number:032x}" for number in itertools.count(1))
