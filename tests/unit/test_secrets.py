"""What a client, a publisher or the API says is in no log line and in no answer but what was asked for."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import CAR, quiet, settled
from tests.unit.test_admission import rest
from tests.unit.test_backend import api, response
from tests.unit.test_handshake import HEADERS
from trio_templar import BackendError, Settings
from trio_templar.log import JsonFormatter, TextFormatter
from trio_templar.testing import FakeBackend, open_gateway

SECRET = "s3cr3t"
LINES = [f"{name}: {value}" for name, value in HEADERS.items()]
# Whole request heads with a secret in each place, well formed and not.
HEADS = {
    "query": ["GET /ws/?token=s3cr3t HTTP/1.1", *LINES],
    "path": ["GET /s3cr3t/ HTTP/1.1", *LINES],
    "query with a blank": ["GET /ws/?token=s3cr3t s3cr3t HTTP/1.1", *LINES],
    "query in raw UTF-8": ["GET /ws/?token=s3cr3t\xc3\xa9 HTTP/1.1", *LINES],
    "method": ["s3cr3t /ws/ HTTP/1.1", *LINES],
    "broken method": ["s3cr3t(s3cr3t) /ws/ HTTP/1.1", *LINES],
    "version": ["GET /ws/ HTTP/s3cr3t", *LINES],
    "cookie": ["GET /ws/ HTTP/1.1", *LINES, "Cookie: sessionid=s3cr3t"],
    "cookie with a NUL": ["GET /ws/ HTTP/1.1", *LINES, "Cookie: sessionid=s3cr3t\x00"],
    "cookie with a blank before the colon": ["GET /ws/ HTTP/1.1", *LINES, "Cookie : sessionid=s3cr3t"],
    "authorization without a colon": ["GET /ws/ HTTP/1.1", *LINES, "Authorization Bearer s3cr3t"],
    "name of a header": ["GET /ws/ HTTP/1.1", *LINES, "s3cr3t(: x"],
    "a folded first line": ["GET /ws/ HTTP/1.1", " s3cr3t", *LINES],
    "length": ["GET /ws/ HTTP/1.1", *LINES, "Content-Length: s3cr3t"],
    "coding": ["GET /ws/ HTTP/1.1", *LINES, "Transfer-Encoding: s3cr3t"],
    "key": ["GET /ws/ HTTP/1.1", *LINES[:-1], "Sec-WebSocket-Key: s3cr3t"],
    "websocket version": ["GET /ws/ HTTP/1.1", *LINES[:-2], "Sec-WebSocket-Version: s3cr3t"],
    "origin with a password": ["GET /ws/ HTTP/1.1", *LINES, "Origin: https://ann:s3cr3t@evil.example"],
    "origin with a query": ["GET /ws/ HTTP/1.1", *LINES, "Origin: https://evil.example/?s3cr3t"],
    "host with a password": ["GET /ws/ HTTP/1.1", "Host: ann:s3cr3t@app.example", *LINES[1:], "Origin: https://x.y"],
    "no HTTP": ["s3cr3t"],
    "another path and a cookie": ["GET / HTTP/1.1", *LINES, "Cookie: sessionid=s3cr3t"],
}


def written(caplog: pytest.LogCaptureFixture) -> str:
    """All log lines in both formats, with their fields and tracebacks."""
    formatters = (TextFormatter(), JsonFormatter())
    return "\n".join(formatter.format(record) for record in caplog.records for formatter in formatters)


def raw(lines: list[str], body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@pytest.mark.parametrize("lines", HEADS.values(), ids=HEADS)
async def test_what_is_in_a_request_head_is_neither_logged_nor_answered(
    lines: list[str], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_templar")
    async with open_gateway(quiet()) as running:
        stream = running.listener.connect()
        await stream.send_all(raw(lines))
        await settled()
        running.gateway.stop()
        answer = await rest(stream)
        await stream.aclose()
        await running.served.wait()
    assert answer.startswith(b"HTTP/1.1 ")
    assert SECRET.encode() not in answer
    assert caplog.records, "nothing was logged"
    assert SECRET not in written(caplog)


async def test_what_a_client_says_over_its_websocket_is_not_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_templar")
    async with open_gateway(quiet(max_request_id_bytes=50), backend=FakeBackend([CAR])) as running:
        client = await running.connect(
            {"Cookie": "sessionid=s3cr3t", "Authorization": "s3cr3t"}, target="/ws/?token=s3cr3t"
        )
        await client.receive()
        for message in (
            "s3cr3t",
            ["s3cr3t"],
            {"type": "s3cr3t", "requestId": "s3cr3t"},
            {"type": "subscribe", "requestId": "s3cr3t" * 20, "room": CAR},
            {"type": "subscribe", "requestId": "s3cr3t", "room": CAR, "token": "s3cr3t"},
            {"type": "subscribe", "requestId": 2, "room": "s3cr3t"},
            {"type": "unsubscribe", "requestId": "s3cr3t s3cr3t"},
        ):
            await client.send(message)
            await client.receive()
        await client.aclose()
        await settled()
    assert {record.getMessage() for record in caplog.records} == {"open", "message refused", "close"}
    assert SECRET not in written(caplog)


def publications() -> dict[str, bytes]:
    """Requests to the HTTP API with a secret in each place that is not the caller's own body or query."""
    body = b'{"rooms": [], "data": "s3cr3t"}'
    post = ["POST /trigger/ HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", "Connection: close"]
    get = ["GET /status HTTP/1.1", "Host: localhost", "Connection: close"]
    return {
        "data": raw(post, body),
        "wrong token": raw([*get, "Authorization: Bearer s3cr3t"]),
        "wrong password": raw([*get, "Authorization: Basic eDpzM2NyM3Q="]),
        "broken header": raw([*get, "Authorization : Bearer s3cr3t"]),
        "cookie with a NUL": raw([*get, "Cookie: s3cr3t\x00"]),
        "blank in the path": raw(["GET /status?token=s3cr3t s3cr3t HTTP/1.1", *get[1:]]),
        "path": raw(["GET /s3cr3t HTTP/1.1", *get[1:]]),
        "value in the query": raw(["GET /connections/?limit=s3cr3t HTTP/1.1", *get[1:]]),
        "room in the query": raw(["GET /connections/?room=s3cr3t HTTP/1.1", *get[1:]]),
        "broken body": raw(post, b"s3cr3t".ljust(len(body))),
        "origin": raw([*get, "Origin: https://ann:s3cr3t@evil.example"]),
        "host": raw(["GET /status HTTP/1.1", "Host: ann:s3cr3t@evil.example", "Connection: close"]),
    }


@pytest.mark.parametrize("token", ["", "right"], ids=["no token", "a token"])
@pytest.mark.parametrize("request_", publications().values(), ids=publications())
async def test_what_a_caller_of_the_http_api_sends_is_neither_logged_nor_answered(
    request_: bytes, token: str, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    mock_clock.rate = 20  # the answer to a wrong token takes a second
    caplog.set_level(logging.DEBUG, "trio_templar")
    settings = Settings(bind=(), trigger_bind="127.0.0.1:0", trigger_token=token)
    async with open_gateway(settings) as running:
        url = urlsplit(running.gateway.trigger_url or "")
        stream = await trio.open_tcp_stream(url.hostname or "", url.port or 0)
        await stream.send_all(request_)
        answer = await rest(stream)
        await stream.aclose()
    assert answer.startswith(b"HTTP/1.1 ")
    assert SECRET.encode() not in answer
    assert SECRET not in written(caplog)


@pytest.mark.parametrize(
    "said",
    [
        response("", 200, "Set-Cookie: sessionid=s3cr3t\x00"),
        response("", 200, "Set-Cookie : sessionid=s3cr3t"),
        b"s3cr3t\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ns3cr3t\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nas3cr3t",
        response('{"user": s3cr3t}'),
        response('{"allowed_rooms": "s3cr3t"}'),
        response("s3cr3t", 500),
        response("s3cr3t", 302, "Location: /login/?s3cr3t"),
    ],
    ids=repr,
)
async def test_what_the_api_answers_is_not_repeated(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_templar")
    async with api(said) as (backend, _), open_gateway(quiet(), bootstrap=backend.bootstrap) as running:
        stream = running.listener.connect()
        await stream.send_all(raw(["GET /ws/ HTTP/1.1", *LINES]))
        answer = await rest(stream)
        await stream.aclose()
    assert answer.startswith(b"HTTP/1.1 ")
    assert SECRET.encode() not in answer
    assert "refused" in written(caplog)
    assert SECRET not in written(caplog)


async def test_what_an_api_says_to_a_hook_is_not_repeated() -> None:
    async with api(response("s3cr3t", 200, "Set-Cookie: s3cr3t\x00")) as (backend, _):
        with pytest.raises(BackendError) as caught:
            await backend.post("on/", [])
        assert SECRET not in str(caught.value)
