"""`trio-templar check`: each thing that would go wrong is named, and nothing that was tried is left behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.unit.conftest import quiet
from trio_templar import Settings, serve
from trio_templar.commands.check import _json
from trio_templar.commands.checks import Finding, check_address, check_all, check_api
from trio_templar.testing import FakeBackend


@asynccontextmanager
async def api(answer: bytes) -> AsyncIterator[str]:
    """An API that answers every request so; its URL."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/api/"
        nursery.cancel_scope.cancel()


def answer(status: str, body: bytes = b"", location: str = "/login/") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nLocation: {location}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("response", "level", "words"),
    [
        (answer("200 OK", b'{"user": {"id": 1}, "allowed_rooms": [{}, {}]}'), "ok", "may enter 2 rooms"),
        (answer("200 OK", b'{"user": {"id": 1}, "allowed_rooms": []}'), "ok", "may enter 0 rooms"),
        (answer("200 OK", b'{"user": {"id": 1}}'), "warn", "no allowed_rooms, so no client can subscribe"),
        (answer("200 OK", b'{"allowed_rooms": []}'), "warn", "no user.id (--user-id-path), so logs and hooks"),
        (answer("200 OK", b"{}"), "warn", "no user.id (--user-id-path)"),
        (answer("200 OK", b"<html>"), "fail", "not JSON"),
        (answer("200 OK", b'{"allowed_rooms": 1}'), "fail", "allowed_rooms is no list"),
        (answer("401 Unauthorized"), "ok", "is refused"),
        (answer("403 Forbidden"), "ok", "is refused"),
        (answer("400 Bad Request"), "fail", "ALLOWED_HOSTS"),
        (answer("404 Not Found"), "fail", "bootstrap/ is appended"),
        (answer("302 Found"), "warn", "a redirect"),
        (answer("301 Moved", location="https://x/"), "fail", "--connection-header 'X-Forwarded-Proto=fixed:https'"),
        (answer("204 No Content"), "warn", "only 200 lets a client in"),
        (answer("405 Not Allowed"), "warn", "only 401 and 403"),
        (answer("429 Too Many Requests"), "warn", "503"),
        (answer("500 Oops"), "fail", "every client will get 503"),
        (b"SSH-2.0\r\n", "fail", "down"),
    ],
    ids=str,
)
async def test_what_the_api_answers_is_explained(response: bytes, level: str, words: str) -> None:
    async with api(response) as url:
        finding = await check_api(Settings(api_url=url))
        assert (finding.level, finding.about) == (level, "api_url")
        assert finding.text.startswith(f"{url}bootstrap/: ")
        assert words in finding.text


async def test_an_answer_without_a_user_is_complete_where_none_is_looked_for() -> None:
    async with api(answer("200 OK", b'{"allowed_rooms": []}')) as url:
        assert (await check_api(Settings(api_url=url, user_id_path=""))).level == "ok"


async def test_an_api_that_is_not_there_or_not_named_is_a_failure() -> None:
    async with api(b"") as url:
        pass
    gone = await check_api(Settings(api_url=url))
    assert (gone.level, "the API is down" in gone.text) == ("fail", True)
    assert (await check_api(Settings())).level == "fail"
    assert (await check_api(Settings(demo=True))).level == "ok"


async def test_an_address_in_use_is_a_failure_and_a_free_one_is_free_again() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    taken = await check_address("bind", address, Settings())
    assert (taken.level, taken.text) == ("fail", f"cannot listen on {address}: Address already in use")
    await listener.aclose()
    for _ in range(2):
        assert await check_address("bind", address, Settings()) == Finding("ok", "bind", address)


async def test_a_unix_socket_is_looked_at_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    assert (await check_address("bind", f"unix:{path}", Settings())).level == "ok"
    assert not path.exists()
    path.write_text("mine")
    assert "not a socket" in (await check_address("bind", f"unix:{path}", Settings())).text
    assert path.read_text() == "mine"
    assert (await check_address("bind", f"unix:{tmp_path}/no/x", Settings())).level == "fail"


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        (quiet(), ("warn", "trigger_bind")),
        (quiet(), ("fail", "bind")),
        (quiet(trigger_bind="127.0.0.1:0", trigger_token="t"), ("ok", "trigger_token")),
        (quiet(trigger_bind="127.0.0.1:0"), ("ok", "trigger_token")),
        (quiet(trigger_bind="0.0.0.0:0", insecure_trigger=True), ("warn", "insecure_trigger")),
        (quiet(trigger_bind="127.0.0.1:0", max_connections=2**31), ("warn", "file descriptors")),
        (quiet(trigger_bind="127.0.0.1:0", memory_bytes=2**40), ("warn", "memory_bytes")),
        (quiet(trigger_bind="127.0.0.1:0", room_policy=({"policy": "drop_oldest"},)), ("ok", "room_policy")),
    ],
    ids=["no listener", "no bind", "token", "no token", "open", "descriptors", "memory", "policy"],
)
async def test_what_will_hurt_later_is_a_warning(settings: Settings, finding: tuple[str, str]) -> None:
    assert finding in [(found.level, found.about) for found in await check_all(settings)]


async def test_a_certificate_that_does_not_load_is_a_failure_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cert.pem"
    path.write_text("nonsense")
    found = await check_all(quiet(tls_cert=str(path)))
    (text,) = [finding.text for finding in found if (finding.level, finding.about) == ("fail", "tls_cert")]
    assert str(path) in text
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    found = await check_all(quiet(tls_cert=str(path)))
    assert Finding("ok", "tls_cert", str(path)) in found


async def test_an_inherited_socket_is_not_touched() -> None:
    assert (await check_address("bind", "fd://77", Settings())).level == "ok"


def test_json_has_every_finding() -> None:
    text = _json([Finding("fail", "bind", "in use")], good=False)
    assert json.loads(text) == {"ok": False, "findings": [{"level": "fail", "about": "bind", "text": "in use"}]}


async def test_an_address_that_a_gateway_holds_is_a_warning_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trio_templar")
    settings = Settings(bind=("127.0.0.1:0",), trigger_bind="127.0.0.1:0", trigger_token="t")
    async with trio.open_nursery() as nursery:
        gateway = await nursery.start(partial(serve, settings, bootstrap=FakeBackend()))
        for setting, url in (("bind", gateway.websocket_urls[0]), ("trigger_bind", gateway.trigger_url)):
            address = url.partition("://")[2].partition("/")[0]
            found = await check_address(setting, address, Settings())
            text = f"{address}: held by a running gateway; a second one cannot start beside it"
            assert found == Finding("warn", setting, text)
        nursery.cancel_scope.cancel()
    assert caplog.messages.count("refused") == 1  # in the log of the gateway that was asked


async def test_a_client_s_host_can_be_given_where_the_api_is_sent_it() -> None:
    async with api(answer("400 Bad Request")) as url:
        settings = Settings(api_url=url, forward_host=True)
        without, given = await check_api(settings), await check_api(settings, "example.org")
    assert (without.level, "--host" in without.text) == ("warn", True)
    assert (given.level, "ALLOWED_HOSTS" in given.text) == ("fail", True)


async def test_a_token_that_is_short_or_can_be_read_by_everybody_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("x" * 16)
    file.chmod(0o640)

    async def warned(**changes: Any) -> list[str]:
        found = await check_all(quiet(trigger_bind="127.0.0.1:0", **changes))
        return [each.about for each in found if each.level == "warn" and each.about.startswith("trigger_token")]

    assert await warned(trigger_token_file=str(file)) == []
    file.chmod(0o644)
    assert await warned(trigger_token_file=str(file)) == ["trigger_token_file"]
    assert await warned(trigger_token="x" * 15) == ["trigger_token"]
