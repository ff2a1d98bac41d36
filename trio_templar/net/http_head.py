"""One request head as RFC 9112 has it, on both ports: cut anyhow, bounded, and in one form. Pure.

h11 is the only grammar; what it leaves to a server is here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import h11

from trio_templar.errors import TemplarError, http_fault

Header = tuple[bytes, bytes]

_END: Final = re.compile(rb"\n\r?\n")
_CODINGS: Final = re.compile(rb"^transfer-encoding:(.*)$", re.IGNORECASE | re.MULTILINE)
# RFC 9110, 7.2 and RFC 3986, 3.2: a name, or an address in brackets, and a port.
_HOST: Final = re.compile(rb"(?:\[[0-9A-Za-z.:_~%-]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")


class HeadError(TemplarError):
    """A head that is no request, or none that is served; `status` is the answer, and the connection ends with it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """A well-formed request head. `target` is a path with its query, or `*`; header names are lower case."""

    method: bytes
    target: bytes
    headers: list[Header]
    version: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the first header `name` (lower case)."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def has_body(self) -> bool:
        """Whether content comes behind it (RFC 9112, 6.3)."""
        return (
            self.header(b"transfer-encoding") is not None or (self.header(b"content-length") or b"0").strip(b"0") != b""
        )


class HeadParser:
    """Reads one head. Behind it, `connection` (h11's) has the rest of the request and makes the response."""

    def __init__(self, max_bytes: int) -> None:
        self.connection = h11.Connection(h11.SERVER)
        self.request: h11.Request | None = None  # as it came
        self._max_bytes = max_bytes
        self._raw = bytearray()
        self._blank = True  # whether an empty line may still come first (RFC 9112, 2.2)

    @property
    def begun(self) -> bool:
        """Whether there is something of a head."""
        return bool(self._raw)

    def feed(self, data: bytes) -> Head | None:
        """Take `data` and return the head, or None as long as it is not whole.

        Raises HeadError: if it is no request, or none that is served here.
        """
        searched = max(0, len(self._raw) - 2)
        self._raw += data
        if self._blank and len(self._raw) > 1:
            self._blank = False
            if self._raw.startswith(b"\r\n"):
                del self._raw[:2]
                searched = 0
        end = _END.search(self._raw, searched)
        if (end.end() if end else len(self._raw)) > self._max_bytes:
            raise self._too_long()
        if end is None:
            if self._raw and self._raw[0] <= 0x20 and not self._blank:
                raise HeadError(400, "not an HTTP request: illegal request line")
            return None
        self.connection.receive_data(bytes(self._raw))
        try:
            event = self.connection.next_event()
        except h11.RemoteProtocolError as error:
            # A frame of h11 holds the error that holds the frame, and so all callers of it: the collector seldom runs.
            error.__traceback__ = None
            raise self._malformed(error) from error
        assert isinstance(event, h11.Request)
        self.request = event
        return _checked(event)

    def _too_long(self) -> HeadError:
        if b"\n" not in self._raw[: self._max_bytes]:
            return HeadError(414, f"a request line of over {self._max_bytes} bytes")
        return HeadError(431, f"a request head of over {self._max_bytes} bytes")

    def _malformed(self, error: h11.RemoteProtocolError) -> HeadError:
        status = error.error_status_hint
        if status == 501:
            # h11 knows no coding but chunked. Unless that is the last one, nobody knows where the body ends, and it
            # is a 400 (RFC 9112, 6.3).
            listed = b",".join(_CODINGS.findall(self._raw)).lower()
            codings = [coding.strip() for coding in listed.split(b",")]
            if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
                status = 400
        return HeadError(status, f"not an HTTP request: {http_fault(error)}")


def _checked(request: h11.Request) -> Head:
    """Return `request` in one form. Raises HeadError: if it is not to be served."""
    if not request.http_version.startswith(b"1."):
        raise HeadError(505, "HTTP/1.1 only")
    headers = [(name, value) for name, value in request.headers]
    names = [name for name, _ in headers]
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version < b"1.1"):
        # Whoever is in front may have seen another end of this request (RFC 9112, 6.1 and 11.2).
        raise HeadError(400, "not an HTTP request: two framings, or one that HTTP/1.0 does not have")
    target, host = _split(request.target, request.method)
    if host is not None:  # it counts, whatever Host says (RFC 9112, 3.2.2)
        headers = [(b"host", host), *(header for header in headers if header[0] != b"host")]
    if any(name == b"host" and not _HOST.fullmatch(value) for name, value in headers):
        raise HeadError(400, "not an HTTP request: illegal Host")
    return Head(request.method, target, headers, request.http_version)


def _split(target: bytes, method: bytes) -> tuple[bytes, bytes | None]:
    """Return the origin-form of `target`, and its host if it had one. Raises HeadError: if it is of no form."""
    if target.startswith(b"/") or target == b"*" or method == b"CONNECT":
        return target, None
    try:
        url = urlsplit(target)
    except ValueError:
        url = urlsplit(b"")
    if url.scheme not in (b"http", b"https", b"ws", b"wss") or not url.netloc or b"@" in url.netloc:
        raise HeadError(400, "not an HTTP request: illegal target")
    rest = target.partition(b"://")[2][len(url.netloc) :].partition(b"#")[0]
    return (rest if rest.startswith(b"/") else b"/" + rest), url.netloc


def date() -> bytes:
    """Return the time as a header has it (RFC 9110, 6.6.1)."""
    return formatdate(usegmt=True).encode()


def plain_response(status: int, text: str, *headers: tuple[str, str], content: bool = True) -> bytes:
    """Return a whole response in plain text that ends the connection; to HEAD without its content."""
    body = f"{text}\n".encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Date: {date().decode()}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (body if content else b"")
