"""The MUSTs of RFC 9110 and 9112 for a server, over real sockets: bytes in, what must come out, on both ports.

Each row changes a good request: `GET /health/live` of the HTTP port, the upgrade of the websocket port.

What does not concern us: gateways, proxies, tunnels and caches (9110 7.6, 7.7, 9112 6.1 on forwarding, 9111); what a
client must do (9112 6.3 on responses, 8, 9.3.1, 9.4); TLS as a client of it (9112 9.7). And, of a server:

- 9110 8.4 to 8.8: our answers have no content coding, language, ranges or validators, so 13 (preconditions) and
  14 (ranges) have nothing to evaluate: there is no representation that could have changed.
- 9110 9.3.3 to 9.3.8, 10.2: we have no PUT, DELETE, CONNECT, OPTIONS or TRACE; those get 405 or 404.
- 9110 11.3 (401 from a proxy: 407), 15.2 to 15.4: no such status is sent, but 100 and 101.
- 9112 7.1.2, 7.2: trailers are read and dropped; no other coding than chunked is known, and we send none.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trio

from tests.unit.conftest import CAR
from trio_templar import Refused, Settings
from trio_templar.testing import FakeBackend, MemoryGateway, open_gateway

Change = Callable[[bytes], bytes]

TOKEN = "s3cret"
HTTP = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nA: b\r\n\r\n"
WEBSOCKET = (
    b"GET /ws/ HTTP/1.1\r\nHost: localhost\r\nA: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)
BODY = b'{"rooms": [], "data": 1}'
AUTHORIZED = b"Authorization: Bearer s3cret\r\n"
ASK = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes


class Peer:
    """The bytes of one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.data = b""

    async def more(self) -> bool:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        self.data += data
        return bool(data)

    async def answer(self, *, to_head: bool = False) -> Answer | None:
        """The next response with its content; None if the connection ended."""
        while b"\r\n\r\n" not in self.data:
            if not await self.more():
                assert self.data == b"", "half a response"
                return None
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)[1])  # type: ignore[index]
        size = 0 if to_head or status < 200 else int(headers["content-length"])
        while len(self.data) < size:
            assert await self.more(), "half a content"
        content, self.data = self.data[:size], self.data[size:]
        assert status < 200 or status >= 500 or "date" in headers, "RFC 9110, 6.6.1"
        return Answer(status, headers, content)

    async def is_open(self) -> bool:
        """Whether one more request is answered."""
        try:
            await self.stream.send_all(ASK)
        except trio.BrokenResourceError:
            return False
        return await self.status() == 200

    async def status(self) -> int | None:
        """The status of the next response; None if the connection ended."""
        answer = await self.answer()
        return answer and answer.status

    async def has_ended(self) -> bool:
        with trio.fail_after(10):
            return self.data == b"" and not await self.more()


class Ports:
    """Both ports of a gateway, and who is connected."""

    def __init__(self, running: MemoryGateway, connected: AsyncExitStack) -> None:
        self.running = running
        self._connected = connected
        self.http = str(running.gateway.trigger_url)
        self.websocket = running.gateway.websocket_urls[0]

    async def dial(self, url: str) -> Peer:
        host, _, port = url.partition("://")[2].partition("/")[0].rpartition(":")
        return Peer(await self._connected.enter_async_context(await trio.open_tcp_stream(host, int(port))))

    async def ask(self, url: str, data: bytes) -> tuple[Peer, Answer | None]:
        peer = await self.dial(url)
        with trio.fail_after(10):
            await peer.stream.send_all(data)
            return peer, await peer.answer(to_head=data.startswith(b"HEAD"))

    @property
    def published(self) -> int:
        return self.running.gateway.statistics().triggers


@asynccontextmanager
async def ports() -> AsyncIterator[Ports]:
    settings = Settings(bind=("127.0.0.1:0",), trigger_bind="127.0.0.1:0", trigger_token=TOKEN)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running, AsyncExitStack() as connected:
        yield Ports(running, connected)


def replaced(old: bytes, new: bytes) -> Change:
    return lambda good: good.replace(old, new, 1)


def target(new: bytes) -> Change:
    """With another target; PATH is the good one."""
    return lambda good: re.sub(rb" (/\S*) ", lambda found: b" " + new.replace(b"PATH", found[1]) + b" ", good, count=1)


def line(*lines: bytes) -> Change:
    return replaced(b"A: b\r\n", b"".join(each + b"\r\n" for each in lines))


def content(*lines: bytes, body: bytes = b"") -> Change:
    return lambda good: line(*lines)(good) + body


class Row(NamedTuple):
    section: str
    requirement: str
    change: Change
    http: int | str  # a status; a number means that the connection goes on, a text that it ends
    websocket: int | str


ROWS = [
    Row("9110 2.5", "a higher minor version is served as 1.1", replaced(b"HTTP/1.1", b"HTTP/1.2"), 200, 101),
    Row("9110 15.6.6", "HTTP/2.0 is not supported", replaced(b"HTTP/1.1", b"HTTP/2.0"), "505", "505"),
    Row("9110 15.6.6", "nor HTTP/0.9", replaced(b"HTTP/1.1", b"HTTP/0.9"), "505", "505"),
    Row("9110 15.6.6", "nor its preface", lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505", "505"),
    Row("9112 2.2", "an empty line before a request is ignored", lambda good: b"\r\n" + good, 200, 101),
    Row("9112 2.2", "but not many", lambda good: b"\r\n\r\n" + good, "400", "400"),
    Row("9112 2.2", "a line may end without CR", lambda good: good.replace(b"\r\n", b"\n"), 200, 101),
    Row("9112 2.2", "a CR alone is invalid", line(b"A: b\rC: d"), "400", "400"),
    Row("9112 2.2", "whitespace before the first field is refused", replaced(b"Host", b" Host"), "400", "400"),
    Row("9112 2.2", "what is no request is a 400", lambda _: b"hello\r\n\r\n", "400", "400"),
    Row("9112 2.3", "the name of the protocol has capitals", replaced(b"HTTP/1.1", b"http/1.1"), "400", "400"),
    Row("9112 3", "a request line is of three words", replaced(b"GET ", b"GET  "), "400", "400"),
    Row("9112 3", "a target that is too long is a 414", target(b"/" + b"x" * 40_000), "414", "414"),
    Row("9112 3", "one of 8000 bytes is not", target(b"/" + b"x" * 8000), 404, "404"),
    Row("9110 5.4", "too many fields are a 4xx", line(*[b"A: b"] * 8000), "431", "431"),
    Row("9112 3.2", "no Host is a 400", replaced(b"Host: localhost\r\n", b""), "400", "400"),
    Row("9112 3.2", "two are", line(b"Host: localhost"), "400", "400"),
    *(
        Row("9112 3.2", f"an invalid one is: {value!r}", replaced(b"localhost", value), "400", "400")
        for value in (b"a b", b"a/b", b"u@h", b"\xff", b"[::1", b"a:8x", b"a, b")
    ),
    Row("9112 3.2", "an empty one is not", replaced(b"localhost", b""), 200, 101),
    Row("9112 3.2.2", "absolute-form is accepted", target(b"http://localhostPATH"), 200, 101),
    Row("9112 3.2.2", "its scheme has any case", target(b"HTTP://localhostPATH"), 200, 101),
    Row("9112 3.2.2", "without a path it is /", target(b"http://localhost?x"), 200, "404"),
    Row("9112 3.2.2", "it needs a Host of its own", target(b"http://PATH"), "400", "400"),
    Row("9110 4.2.4", "it has no userinfo", target(b"http://a:b@localhostPATH"), "400", "400"),
    Row("9112 3.2.3", "authority-form is for CONNECT alone", target(b"localhost:80"), "400", "400"),
    Row("9112 5.1", "whitespace before a colon is refused", line(b"A : b"), "400", "400"),
    Row("9112 5.1", "whitespace around a value is none of it", line(b"A: \t b \t "), 200, 101),
    Row("9112 5.2", "a folded line is one value", line(b"A: b", b"\tc"), 200, 101),
    Row("9110 5.5", "NUL in a value is refused", line(b"A: \0"), "400", "400"),
    Row("9110 5.5", "bytes beyond ASCII are opaque", line(b"A: \xff"), 200, 101),
    Row("9110 5.3", "a name may come twice", line(b"A: b", b"a: c"), 200, 101),
    Row("9112 6.1", "two framings", content(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "400", "400"),
    Row("9112 6.1", "a coding nobody knows is a 501", content(b"Transfer-Encoding: gzip, chunked"), "501", "501"),
    Row("9112 6.3", "chunked must be the last", content(b"Transfer-Encoding: chunked, gzip"), "400", "400"),
    Row("9112 6.3", "and must be there", content(b"Transfer-Encoding: gzip"), "400", "400"),
    Row("9112 6.1", "but once", content(b"Transfer-Encoding: chunked, chunked"), "400", "400"),
    Row("9112 6.1", "also over two lines", content(*[b"Transfer-Encoding: chunked"] * 2), "400", "400"),
    *(
        Row("9112 6.3", f"an invalid length: {value!r}"[:40], content(b"Content-Length: " + value), "400", "400")
        for value in (b"-1", b"+1", b"0x5", b"5, 6", b"", b"1" * 30, "²".encode())
    ),
    Row("9112 6.3", "two lengths", content(b"Content-Length: 5", b"Content-Length: 6"), "400", "400"),
    Row("9112 6.3", "no length is no body", line(b"A: b"), 200, 101),
    Row("9110 9.3.1", "GET may have a body", content(b"Content-Length: 5", body=b"hello"), 200, "400"),
    Row("9112 9.3", "it goes on by default", line(b"A: b"), 200, 101),
    Row("9112 9.6", "close is obeyed", line(b"Connection: close"), "200", 101),
    Row("9112 9.6", "in a list and in any case", line(b"Connection: x, CLOSE"), "200", 101),
    Row(
        "9110 7.8",
        "an upgrade to what we do not speak is ignored",
        line(b"Upgrade: h2c", b"Connection: x"),
        200,
        101,
    ),
    Row("9110 9.3.2", "HEAD is GET without content", replaced(b"GET", b"HEAD"), 200, "426"),
    Row("9110 9.3.2", "also of what is not there", lambda good: target(b"/x")(b"HEAD" + good[3:]), 404, "404"),
    Row("9110 9.1", "a method has a case", replaced(b"GET", b"get"), 405, "405"),
    Row("9110 9.1", "another method is a 405", replaced(b"GET", b"DELETE"), 405, "405"),
    Row("9110 10.1.1", "what we do not expect is ignored", line(b"Expect: something"), 200, 101),
    Row("9110 10.1.1", "nor is 100 for who sends nothing", line(b"Expect: 100-continue"), 200, 101),
]
IDS = [f"{row.section} {row.requirement}" for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
async def test_the_http_port_does_as_the_rfc_has_it(row: Row) -> None:
    async with ports() as both:
        peer, answer = await both.ask(both.http, row.change(HTTP))
        assert answer is not None
        assert answer.status == int(row.http)
        if isinstance(row.http, int):
            assert await peer.is_open()
        else:
            assert answer.headers["connection"] == "close"
            assert await peer.has_ended()


@pytest.mark.parametrize("row", ROWS, ids=IDS)
async def test_the_websocket_port_does_as_the_rfc_has_it(row: Row) -> None:
    async with ports() as both:
        peer, answer = await both.ask(both.websocket, row.change(WEBSOCKET))
        assert answer is not None
        assert answer.status == int(row.websocket)
        if answer.status != 101:
            assert answer.headers["connection"]
            assert await peer.has_ended()
        if answer.status == 405:
            assert "GET" in answer.headers["allow"]  # RFC 9110, 15.5.6
        if answer.status == 426:
            assert answer.headers["upgrade"] == "websocket"  # RFC 9110, 15.5.22


# Bodies, on the HTTP port


def post(*lines: bytes, path: bytes = b"/trigger/", version: bytes = b"1.1") -> bytes:
    head = [b"POST %s HTTP/%s" % (path, version), b"Host: localhost", b"Authorization: Bearer s3cret", *lines]
    return b"\r\n".join([*head, b"", b""])


LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"5;name=value\r\n" + BODY[:5] + b"\r\n%x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n0\r\n"


class BodyRow(NamedTuple):
    section: str
    requirement: str
    data: bytes
    status: int | str  # as in Row
    headers: tuple[tuple[str, str], ...] = ()


BODIES = [
    BodyRow("9112 6.2", "a length", post(LENGTH) + BODY, 200),
    BodyRow("9112 6.3", "the same length twice", post(LENGTH, LENGTH) + BODY, 200),
    BodyRow("9112 6.3", "the same length in a list", post(LENGTH + b", %d" % len(BODY)) + BODY, 200),
    BodyRow("9112 7.1", "chunks, with extensions", post(CHUNKED) + CHUNKS + b"\r\n", 200),
    BodyRow("9112 7", "codings have any case", post(b"TRANSFER-Encoding: CHUNKED") + CHUNKS + b"\r\n", 200),
    BodyRow("9112 7.1.2", "trailers are dropped", post(CHUNKED) + CHUNKS + b"Host: evil\r\n\r\n", 200),
    BodyRow("9112 7.1", "a chunk without a size", post(CHUNKED) + b"x\r\n", "400"),
    BodyRow("9112 7.1", "a chunk of too many digits", post(CHUNKED) + b"f" * 30 + b"\r\n", "400"),
    BodyRow("9112 7.1", "a chunk longer than it says", post(CHUNKED) + b"1\r\n{}\r\n0\r\n\r\n", "400"),
    BodyRow("9112 6.1", "chunked in 1.0", post(CHUNKED, version=b"1.0") + CHUNKS + b"\r\n", "400"),
    BodyRow("9112 6.1", "two framings", post(LENGTH, CHUNKED) + CHUNKS + b"\r\n", "400"),
    BodyRow("9112 9.3", "1.0 ends by default", post(LENGTH, version=b"1.0") + BODY, "200"),
    BodyRow("9112 9.3", "a body that nobody reads is not the next request", post(LENGTH, path=b"/x") + BODY, 404),
    BodyRow(
        "9110 12.5.3",
        "a coded body",
        post(LENGTH, b"Content-Encoding: gzip") + BODY,
        415,
        (("accept-encoding", "identity"),),
    ),
    BodyRow("9110 8.4", "identity is no coding", post(LENGTH, b"Content-Encoding: identity") + BODY, 200),
    BodyRow(
        "9110 15.5.6", "what is allowed", post(b"Content-Length: 0", path=b"/status"), 405, (("allow", "GET, HEAD"),)
    ),
    BodyRow(
        "9110 11.6.1",
        "a 401 has a challenge",
        post(LENGTH).replace(b"Authorization", b"X") + BODY,
        401,
        (("www-authenticate", 'Bearer, Basic realm="trigger"'),),
    ),
    BodyRow("9110 10.1.1", "1.0 expects nothing", post(LENGTH, b"Expect: 100-continue", version=b"1.0") + BODY, "200"),
    BodyRow("9110 10.1.1", "no 100 before a 401", post(LENGTH, b"Expect: 100-continue").replace(b"Auth", b"X"), "401"),
    BodyRow("9110 10.1.1", "no 100 before a 404", post(LENGTH, b"Expect: 100-continue", path=b"/x"), "404"),
    BodyRow("9110 10.1.1", "no 100 before a 413", post(b"Content-Length: 99999999", b"Expect: 100-continue"), "413"),
    BodyRow("9110 10.1.1", "no 100 before a 415", post(LENGTH, b"Expect: 100-continue", b"Content-Encoding: x"), "415"),
]


@pytest.mark.parametrize("row", BODIES, ids=lambda row: f"{row.section} {row.requirement}")
async def test_a_body_is_framed_as_the_rfc_has_it(row: BodyRow) -> None:
    async with ports() as both:
        peer, answer = await both.ask(both.http, row.data)
        assert answer is not None
        assert answer.status == int(row.status), answer.content
        assert set(row.headers) <= set(answer.headers.items())
        assert both.published == (answer.status == 200)
        if isinstance(row.status, int):
            assert await peer.is_open()
        else:
            assert answer.headers["connection"] == "close"
            assert await peer.has_ended()


async def test_who_waits_to_be_asked_for_its_body_is_asked_once() -> None:  # RFC 9110, 10.1.1
    async with ports() as both:
        peer, answer = await both.ask(both.http, post(LENGTH, b"Expect: 100-Continue"))
        assert answer == Answer(100, {}, b"")
        await peer.stream.send_all(BODY)
        assert await peer.status() == 200
        assert await peer.is_open()


async def test_requests_in_one_piece_are_answered_in_order() -> None:  # RFC 9112, 9.3.2
    async with ports() as both:
        data = post(LENGTH) + BODY + b"\r\n" + HTTP.replace(b"GET", b"HEAD") + ASK
        peer, first = await both.ask(both.http, data)
        answers = [first, await peer.answer(to_head=True), await peer.answer()]
        contents = [answer and answer.content for answer in answers]
        assert contents == [b"publish success", b"", b'{"live":true}']
        assert await peer.has_ended()


async def test_head_has_the_fields_of_get() -> None:  # RFC 9110, 9.3.2
    async with ports() as both:
        for path in (b"/", b"/health/live", b"/health/ready", b"/status", b"/metrics"):
            good = target(path)(HTTP).replace(b"A: b\r\n", AUTHORIZED)
            _, get = await both.ask(both.http, good)
            _, head = await both.ask(both.http, b"HEAD" + good[3:])
            assert get is not None
            assert head is not None
            assert (get.status, head.status, head.content) == (200, 200, b"")
            assert get.content
            assert get.headers.keys() == head.headers.keys()


async def test_the_host_of_absolute_form_counts() -> None:  # RFC 9112, 3.2.2
    page = line(b"Origin: http://localhost")
    async with ports() as both:
        for url, good in ((both.http, HTTP), (both.websocket, WEBSOCKET)):
            good = page(good)
            secret = good.replace(b"/health/live", b"/status").replace(b"Origin", AUTHORIZED + b"Origin")
            _, same = await both.ask(
                url, target(b"http://localhostPATH")(secret.replace(b"Host: localhost", b"Host: evil"))
            )
            _, other = await both.ask(url, target(b"http://evilPATH")(secret))
            assert same is not None
            assert other is not None
            assert (same.status in (200, 101), other.status) == (True, 403)


@pytest.mark.parametrize(
    ("proto", "origin", "allowed"),
    [
        (b"https", b"https://localhost", True),
        (b"https", b"http://localhost", False),
        (b"HTTPS, http", b"http://localhost:3000", False),
        (b"wss", b"http://localhost", False),
        (b"http", b"http://localhost", True),
        (b"http", b"https://localhost", True),
    ],
)
async def test_a_page_without_tls_may_not_ask_what_a_proxy_has_with_tls(
    proto: bytes, origin: bytes, *, allowed: bool
) -> None:
    page = line(b"Origin: " + origin, b"X-Forwarded-Proto: " + proto, AUTHORIZED.strip())
    async with ports() as both:
        for url, good in ((both.http, target(b"/status")(HTTP)), (both.websocket, WEBSOCKET)):
            _, answer = await both.ask(url, page(good))
            assert answer is not None
            assert (answer.status in (200, 101), answer.status == 403) == (allowed, not allowed)


@pytest.mark.parametrize("end", [b"", b"{", BODY[:-1]], ids=repr)
async def test_half_a_body_and_an_end_is_no_request(end: bytes) -> None:  # RFC 9112, 8
    async with ports() as both:
        peer = await both.dial(both.http)
        await peer.stream.send_all(post(LENGTH) + end)
        await peer.stream.send_eof()
        assert await peer.status() in (None, 400)
        assert await peer.has_ended()
        assert both.published == 0


async def test_who_ends_its_side_after_a_request_is_answered() -> None:  # RFC 9112, 9.6
    async with ports() as both:
        peer = await both.dial(both.http)
        await peer.stream.send_all(post(LENGTH) + BODY)
        await peer.stream.send_eof()
        assert await peer.status() == 200
        assert await peer.has_ended()


async def test_the_last_answer_arrives_although_more_is_sent() -> None:  # RFC 9112, 9.6
    async with ports() as both:
        data: Any = post(b"Content-Length: 9999999") + b"x" * 400_000
        _, answer = await both.ask(both.http, data)
        assert answer is not None
        assert answer.status == 413


async def test_a_401_of_the_api_has_a_challenge() -> None:  # RFC 9110, 11.6.1
    async with ports() as both:
        both.running.backend.error = Refused(401)
        _, answer = await both.ask(both.websocket, WEBSOCKET)
        assert answer is not None
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
