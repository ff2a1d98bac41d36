"""Names as clients write them: hosts with a dot at the end, subprotocols, tokens with a plus."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from tests.unit.conftest import operator, quiet
from trio_templar import Settings, SettingsError
from trio_templar.testing import FakeBackend, MemoryGateway, open_gateway


async def head_of_answer(running: MemoryGateway, target: str = "/ws/", **headers: str) -> str:
    """Ask for a websocket with these headers, `_` for `-`, and return the head of the answer."""
    named = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"{name}: {value}\r\n" for name, value in named.items()]
    async with running.listener.connect() as stream:
        await stream.send_all(
            f"GET {target} HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{''.join(lines)}\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += bytes(await stream.receive_some())
    return answer.partition(b"\r\n\r\n")[0].decode()


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("example.com", "https://example.com."),
        ("example.com.", "https://example.com"),
        ("example.com.:444", "https://EXAMPLE.com:1"),
        ("gateway", "https://app.example.com."),
        ("gateway", "https://other.example.com.:8443"),
    ],
)
async def test_a_page_may_write_its_host_with_the_last_dot(host: str, origin: str, autojump_clock: MockClock) -> None:
    settings = quiet(allowed_origin=("https://app.example.com", "https://other.example.com:8443"))
    async with open_gateway(settings) as running:
        assert (await head_of_answer(running, Host=host, Origin=origin)).startswith("HTTP/1.1 101 ")


async def test_a_dot_makes_no_other_page_ours(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        for origin in ("https://.", "https://evil.com.", "https://example.com.evil.com."):
            assert (await head_of_answer(running, Host="example.com.", Origin=origin)).startswith("HTTP/1.1 403 ")


@pytest.mark.parametrize("host", ["localhost.", "localhost.:8002", "gateway.internal."])
async def test_the_http_api_is_asked_by_a_name_with_the_last_dot(host: str, autojump_clock: MockClock) -> None:
    settings = Settings(bind=(), trigger_bind="127.0.0.1:0", trusted_host=("gateway.internal",))
    async with open_gateway(settings) as running, operator(running.gateway) as caller:
        assert (await caller.get("/status", headers={"Host": host})).status_code == 200


# Subprotocols


async def chosen(running: MemoryGateway, offered: str | None) -> str | None:
    headers = {} if offered is None else {"Sec_WebSocket_Protocol": offered}
    lines = (await head_of_answer(running, **headers)).split("\r\n")
    assert lines[0].startswith("HTTP/1.1 101 ")
    found = [line.partition(": ")[2] for line in lines if line.lower().startswith("sec-websocket-protocol:")]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ("rooms.v1", "rooms.v1"),
        ("other, rooms.v1", "rooms.v1"),
        ("rooms.v2,rooms.v1", "rooms.v2"),
        ("ROOMS.v1", None),
        ("rooms.v1.x, other", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("dialect", ["2", "3"])
async def test_the_first_that_is_offered_and_set_is_chosen(
    offered: str | None, expected: str | None, dialect: str, autojump_clock: MockClock
) -> None:
    settings = quiet(dialect=dialect, subprotocol=("rooms.v1", "rooms.v2"))
    async with open_gateway(settings, backend=FakeBackend()) as running:
        assert await chosen(running, offered) == expected


async def test_without_the_setting_none_is_chosen(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        assert await chosen(running, "rooms.v1") is None
        running.gateway.reload(quiet(subprotocol=("rooms.v1",)))
        assert await chosen(running, "rooms.v1") == "rooms.v1"


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a\r\nX: y", "é"])
def test_a_subprotocol_that_no_client_can_offer_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="subprotocol"):
        quiet(subprotocol=(name,))


# Tokens


async def test_a_plus_in_a_token_is_a_plus(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        for query in ("token=a+b/c==", "token=a%2Bb/c%3D%3D", "x=1&token=a+b%2Fc=="):
            await head_of_answer(running, f"/ws/?{query}")
        api_headers = running.gateway.settings.forwarding.api_headers
        assert [header for request in running.backend.requests for header in api_headers(request)] == [
            (b"Authorization", b"Token a+b/c==")
        ] * 3
