"""The other ends: independent websocket clients, bare sockets, and Python's own HTTP client."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import websockets.sync.client
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.e2e.processes import PATIENCE_SECONDS, GatewayProcess

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
CAR = {"target": "car", "car": 1}


@contextmanager
def connect(url: str, headers: Mapping[str, str] | None = None, **options: Any) -> Iterator[ClientConnection]:
    """A websocket of the `websockets` package; it pings nobody by itself."""
    defaults: dict[str, Any] = {"proxy": None, "ping_interval": None, "open_timeout": PATIENCE_SECONDS}
    options = {**defaults, "close_timeout": PATIENCE_SECONDS, **options}
    with websockets.sync.client.connect(url, additional_headers=dict(headers or {}), **options) as client:
        yield client


def receive(client: ClientConnection) -> bytes:
    """Return the next message as its bytes."""
    return client.recv(PATIENCE_SECONDS, decode=False)


def subscribe(client: ClientConnection, request_id: Any = "a", room: Any = CAR) -> bytes:
    """Subscribe and return the reply."""
    client.send(json.dumps({"type": "subscribe", "requestId": request_id, "room": room}))
    return receive(client)


@contextmanager
def subscriber(url: str, headers: Mapping[str, str] | None = None, **options: Any) -> Iterator[ClientConnection]:
    """A client past its welcome, subscribed to car 1 as `a`."""
    with connect(url, headers, **options) as client:
        receive(client)
        assert json.loads(subscribe(client))["code"] == "success"
        yield client


def closing(client: ClientConnection) -> tuple[int, str]:
    """Read to the end and return the close code and reason that the gateway sent; 1006 if it sent none."""
    try:
        while True:
            receive(client)
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


def request(
    url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str | None = None
) -> tuple[int, bytes, Mapping[str, str]]:
    """Make one HTTP request without any proxy and return status, body and headers. A body is JSON unless said."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with opener.open(asked, timeout=PATIENCE_SECONDS) as response:
            return response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def trigger(gateway: GatewayProcess, data: Any, *rooms: Any) -> None:
    """Publish as a plain backend would."""
    body = json.dumps({"data": data, "rooms": list(rooms) or [CAR]}).encode()
    assert request(gateway.trigger_url, body)[:2] == (200, b"publish success")


def head(gateway: GatewayProcess, *headers: str, path: str = "/ws/") -> bytes:
    """Return the request head of a good handshake, with more headers."""
    host, port = gateway.address
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def dial(address: tuple[str, int], receive_buffer: int | None = None) -> socket.socket:
    """Return a connected TCP socket with a deadline; a small receive buffer makes for a client that is soon full."""
    sock = socket.socket()
    sock.settimeout(PATIENCE_SECONDS)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(address)
    return sock


def reset(sock: socket.socket) -> None:
    """Close so that the peer gets a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_to_end(sock: socket.socket) -> bytes:
    """Return everything until the peer closes; a reset is an end too."""
    data = bytearray()
    try:
        while chunk := sock.recv(65_536):
            data += chunk
    except ConnectionResetError:
        pass
    return bytes(data)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """Return what comes up to and with `end`."""
    data = bytearray()
    while end not in data:
        chunk = sock.recv(1)
        assert chunk, bytes(data)
        data += chunk
    return bytes(data)


def raw_upgrade(gateway: GatewayProcess, receive_buffer: int | None = None) -> socket.socket:
    """Return a bare socket right behind its 101: nothing of the websocket was read."""
    sock = dial(gateway.address, receive_buffer)
    sock.sendall(head(gateway))
    assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    return sock


def raw_subscriber(gateway: GatewayProcess, receive_buffer: int | None = None) -> socket.socket:
    """Return a bare socket that is subscribed to car 1 as `a`, and has read all up to the answer that says so."""
    sock = raw_upgrade(gateway, receive_buffer)
    sock.sendall(masked_text(json.dumps({"type": "subscribe", "requestId": "a", "room": CAR})))
    read_until(sock, b'"code": "success"}')
    return sock


def publish_until_cut(gateway: GatewayProcess, *healthy: ClientConnection, size: int = 10_000) -> None:
    """Publish, up to 40 MB, until somebody is closed as too slow; `healthy` get every publication meanwhile."""
    for number in range(40_000_000 // size):
        if gateway.log.matching(" WARNING slow "):
            break
        trigger(gateway, [number, "x" * size])
        for client in healthy:
            assert json.loads(receive(client))["data"] == [number, "x" * size]
    gateway.log.wait(" close .* code=1013 ")


def masked_text(text: str) -> bytes:
    """Return one short text frame of a client, masked with zeros."""
    payload = text.encode()
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
    return b"\x81" + size + b"\0\0\0\0" + payload


def answer_of(sock: socket.socket) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Return status, body and headers of the HTTP response that comes, and close."""
    with sock:
        response = http.client.HTTPResponse(sock)
        response.begin()
        return response.status, response.read(), response.headers


def seconds_of(start: float) -> float:
    """How long it is since `start` of time.monotonic."""
    return time.monotonic() - start
