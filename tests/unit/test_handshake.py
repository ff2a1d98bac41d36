"""The handshake: one request head, cut anyhow, is a websocket request or an HTTP answer."""

from __future__ import annotations

import base64
from typing import Any

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from trio_templar import ClientRequest
from trio_templar.clients.handshake import (
    HandshakeError,
    PeerLeft,
    Upgrade,
    busy,
    check_origin,
    read_upgrade,
    switching_protocols,
)

KEY = base64.b64encode(bytes(range(16)))
HEADERS = {
    "Host": "app.example",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY.decode(),
}


def head(target: str = "/ws/", method: str = "GET", version: str = "1.1", **changes: str | None) -> bytes:
    named = {name.replace("_", "-"): value for name, value in changes.items()}
    headers = {name: value for name, value in {**HEADERS, **named}.items() if value is not None}
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read(*chunks: bytes, path: str = "/ws/", max_bytes: int = 4096) -> Upgrade:
    client, server = memory_stream_pair()
    for chunk in chunks:
        await client.send_all(chunk)
    await client.send_eof()
    return await read_upgrade(server, path, "192.0.2.7", max_bytes)


async def refusal(*chunks: bytes, **how: Any) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        await read(*chunks, **how)
    response = h11.Connection(h11.CLIENT)
    response.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    response.send(h11.EndOfMessage())
    response.receive_data(caught.value.response())
    answer, data, end = response.next_event(), response.next_event(), response.next_event()
    assert isinstance(answer, h11.Response)
    assert answer.status_code == caught.value.status
    assert isinstance(data, h11.Data)
    assert bytes(data.data).decode() == f"{caught.value.text}\n"
    assert isinstance(end, h11.EndOfMessage)
    assert response.next_event() in (h11.PAUSED, h11.NEED_DATA)
    assert response.trailing_data == (b"", False)
    return caught.value


async def test_a_well_formed_request_is_read_with_what_came_behind_it() -> None:
    upgrade = await read(head("/ws/?token=1", Cookie="a=1") + b"early")
    assert (upgrade.key, upgrade.early) == (KEY, b"early")
    request = upgrade.request
    assert (request.target, request.path, request.peer) == ("/ws/?token=1", "/ws/", "192.0.2.7")
    assert (request.header(b"cookie"), request.header(b"host")) == (b"a=1", b"app.example")


async def test_what_a_browser_sends_is_well_formed() -> None:
    browser = head(Connection="keep-alive, Upgrade", Upgrade="WebSocket", Sec_WebSocket_Extensions="permessage-deflate")
    assert (await read(browser)).key == KEY


@given(st.lists(st.integers(1, 200), max_size=10), st.booleans())
async def test_a_request_may_come_in_any_pieces(cuts: list[int], early: bool) -> None:
    data = head() + (b"frames" if early else b"")
    chunks = []
    for cut in cuts:
        chunks.append(data[:cut])
        data = data[cut:]
    upgrade = await read(*chunks, data)
    assert upgrade.request.path == "/ws/"
    assert b"frames".startswith(upgrade.early)


@pytest.mark.parametrize("path", ["/ws/", "/ws"])
@pytest.mark.parametrize("target", ["/ws/", "/ws", "/ws/?a=/", "/ws?a"])
async def test_the_last_slash_of_the_path_does_not_matter(path: str, target: str) -> None:
    assert await read(head(target), path=path)


@pytest.mark.parametrize("target", ["/", "/w", "/wss/", "/WS/", "/ws/x", "/ws//", "//ws/", "*", "/other?/ws/"])
async def test_any_other_path_is_not_found(target: str) -> None:
    assert (await refusal(head(target))).status == 404
    assert (await refusal(head(target, Upgrade=None))).status == 404


async def test_the_root_may_be_the_path() -> None:
    assert await read(head("/?token=1"), path="/")
    assert (await refusal(head("/ws/"), path="/")).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS"])
async def test_another_method_is_not_allowed(method: str) -> None:
    error = await refusal(head(method=method))
    assert (error.status, error.headers) == (405, (("Allow", "GET"),))


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": None},
        {"Connection": None},
        {"Upgrade": "h2c"},
        {"Connection": "keep-alive"},
        {"Connection": "Upgraded"},
        {"Sec_WebSocket_Version": None},
        {"Sec_WebSocket_Version": "8"},
        {"Sec_WebSocket_Version": "13, 8"},
    ],
    ids=repr,
)
async def test_no_websocket_13_is_an_upgrade_required(changes: dict[str, Any]) -> None:
    error = await refusal(head(**changes))
    assert error.status == 426
    assert {name for name, _ in error.headers} & {"Upgrade", "Sec-WebSocket-Version"}


@pytest.mark.parametrize("key", [None, "", "short", "é" * 24, base64.b64encode(b"x" * 15).decode(), "=" * 24])
async def test_a_key_is_16_bytes_in_base64(key: str | None) -> None:
    assert (await refusal(head(Sec_WebSocket_Key=key))).status == 400


async def test_http_1_0_is_refused() -> None:
    assert (await refusal(head(version="1.0"))).status == 400


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /ws/ HTTP/1.1\r\n\r\n",
        b"GET /ws/\r\n\r\n",
        b"GET /ws/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /ws/ HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n",
        b"GET /w s/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=repr,
)
async def test_garbage_is_answered(data: bytes) -> None:
    assert (await refusal(data)).status in (400, 505)


@pytest.mark.parametrize("name", ["Sec-WebSocket-Protocol", "X", "Cookie", "Origin"])
async def test_headers_that_are_not_ascii_harm_nobody(name: str) -> None:
    upgrade = await read(head(**{name: "\xff"}))
    assert upgrade.request.header(name.lower().encode()) == b"\xff"


async def test_a_head_over_its_bytes_is_refused() -> None:
    error = await refusal(head(X="x" * 9000))
    assert error.status == 431
    assert (await read(head(X="x" * 3000))).key == KEY


async def test_a_head_without_end_is_not_kept() -> None:
    assert (await refusal(*[b"GET /ws/ HTTP/1.1\r\n", *[b"X: y\r\n"] * 2000])).status == 431


@pytest.mark.parametrize("size", [0, 1, 20, len(head()) - 1])
async def test_a_client_that_leaves_before_the_end_of_its_head_is_gone(size: int) -> None:
    with pytest.raises(PeerLeft):
        await read(head()[:size])


nearly_heads = st.builds(
    lambda at, piece: head()[:at] + piece + head()[at:], st.integers(0, 150), st.binary(max_size=3)
)


@given(st.binary(max_size=200) | nearly_heads)
@example(b"\r\n\r\n")
async def test_whatever_comes_is_an_upgrade_or_answered_or_gone(data: bytes) -> None:
    try:
        await read(data)
    except HandshakeError as error:
        answer = error.response()
        assert answer.startswith(b"HTTP/1.1 4")
    except PeerLeft:
        return


# Origins


def origin_refusal(origin: str | None, host: str | None = "app.example", allowed: tuple[str, ...] = ()) -> str | None:
    """What the log says of a page's origin, or None if it is let in."""
    named = [(b"origin", origin), (b"host", host)]
    headers = [(name, value.encode("latin-1")) for name, value in named if value is not None]
    try:
        check_origin(ClientRequest("/ws/", headers), allowed)
    except HandshakeError as error:
        return error.hint if error.status == 403 else f"{error.status}"
    return None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "app.example"),
        ("", "app.example"),
        ("https://app.example", "app.example"),
        ("https://app.example:8443", "app.example:80"),
        ("http://APP.example", "app.EXAMPLE"),
        ("http://127.0.0.1:3000", "127.0.0.1:8001"),
        ("http://[::1]:3000", "[::1]:8001"),
    ],
)
def test_pages_of_the_same_host_and_clients_that_are_no_page_are_let_in(origin: str | None, host: str) -> None:
    assert origin_refusal(origin, host) is None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "app.example"),
        ("https://app.example.evil.example", "app.example"),
        ("https://sub.app.example", "app.example"),
        ("null", "app.example"),
        ("null", "null"),
        ("file://", ""),
        ("https://app.example", None),
    ],
)
def test_pages_of_other_hosts_are_refused_with_a_hint(origin: str, host: str | None) -> None:
    assert origin_refusal(origin, host) == f"--allowed-origin {origin} would let it in"


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example/app.example", "app.example"),
        ("https://app.example@evil.example", "app.example"),
        ("https://evil.example?app.example", "app.example"),
        ("http://[::1", "[::1"),
        ("http://a b", "app.example"),
        ("\xff", "\xff"),
    ],
)
def test_what_is_no_origin_is_refused_and_not_repeated(origin: str, host: str) -> None:
    assert origin_refusal(origin, host) == "the Origin is not of the form SCHEME://HOST[:PORT]"


@pytest.mark.parametrize(
    ("origin", "host", "other"),
    [
        ("http://localhost:8000", "127.0.0.1:8001", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000", "localhost:8001", "http://localhost:8000"),
        ("http://localhost", "[::1]:8001", "http://[::1]"),
        ("http://[::1]:8000", "127.0.0.1:8001", "http://127.0.0.1:8000"),
    ],
)
def test_a_page_of_this_machine_under_its_other_name_is_told_the_right_one(origin: str, host: str, other: str) -> None:
    assert origin_refusal(origin, host) == (
        f"open the page as {other}, so that its cookies come along; "
        f"--allowed-origin {origin} would let it in without them"
    )


async def test_tls_on_an_address_without_it_is_named() -> None:
    error = await refusal(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 s3cr3t")
    assert (error.status, error.text) == (400, "TLS, which this address does not speak: ws://, not wss://")


def test_allowed_origins_are_whole_origins() -> None:
    allowed = ("https://shop.example", "null")
    assert origin_refusal("https://SHOP.example", allowed=allowed) is None
    assert origin_refusal("null", allowed=allowed) is None
    assert origin_refusal("https://shop.example:8443", allowed=allowed)
    assert origin_refusal("http://shop.example", allowed=allowed)


def test_a_star_allows_any_origin() -> None:
    assert origin_refusal("https://evil.example", allowed=("*",)) is None


# Answers


def test_busy_asks_to_come_back() -> None:
    assert b"\r\nRetry-After: 7\r\n" in busy("no room", 7, cause="full").response()


def test_an_answer_closes_the_connection() -> None:
    assert b"\r\nConnection: close\r\n" in HandshakeError(404, "nothing here").response()


def test_the_101_has_three_headers_and_the_answer_to_the_key() -> None:
    # The key and its answer are the example of RFC 6455, 1.3.
    assert switching_protocols(b"dGhlIHNhbXBsZSBub25jZQ==").split(b"\r\n") == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        b"",
        b"",
    ]
