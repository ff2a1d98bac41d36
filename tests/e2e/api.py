"""A small API in a thread: records what arrives, answers what a test sets. On TCP, TLS or a unix socket."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.e2e.processes import eventually

CARS = [{"target": "car", "car": "*"}]


@dataclass
class Call:
    """One request, as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        """The header, or None; there are never two."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, values
        return values[0] if values else None


@dataclass
class Api:
    """What the server answers, and what it was asked. `answer` may block: each call has a thread of its own."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    answer: Callable[[Call], tuple[int, bytes]] = field(default=lambda _: admit())

    def called(self, path: str, count: int = 1) -> list[Call]:
        """Return the calls to `path` once there are `count`."""

        def found() -> list[Call]:
            calls = [call for call in self.calls if call.path == path]
            return calls if len(calls) >= count else []

        return eventually(found)


def admit(rooms: list[dict[str, Any]] = CARS, user: Any = 7) -> tuple[int, bytes]:
    """The answer that lets a client in."""
    return 200, json.dumps({"user": {"id": user}, "allowed_rooms": rooms}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        call = Call(self.command, self.path, list(self.headers.items()))
        self.server.api.calls.append(call)
        status, body = self.server.api.answer(call)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # so that tests can count the descriptors of the gateway
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # http.server's name

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        pass


class _Server(ThreadingHTTPServer):
    api: Api
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A gateway that goes away is not worth a word."""


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "unix", 0

    def get_request(self) -> tuple[socket.socket, Any]:
        request, _ = self.socket.accept()
        return request, ("unix", 0)


@contextmanager
def serve_api(*, tls: tuple[Path, Path] | None = None, unix: Path | None = None) -> Iterator[Api]:
    """Run an API on a free port of 127.0.0.1, with TLS (certificate, key), or on a unix socket."""
    server = _UnixServer(str(unix), _Handler) if unix else _Server(("127.0.0.1", 0), _Handler)  # type: ignore[arg-type]
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme, port = ("https" if tls else "http"), server.server_port
    server.api = Api("http://unix/" if unix else f"{scheme}://127.0.0.1:{port}/")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
