"""The demo: its API, its page's routes, and what the settings say about it."""

from __future__ import annotations

import re
from functools import partial

import httpx
import pytest
import trio

from trio_templar import ClientRequest, Refused, Settings, SettingsError, demo
from trio_templar.backend import admission
from trio_templar.gateway import serve
from trio_templar.http_api import HttpApi
from trio_templar.http_guard import Access, Guard
from trio_templar.rooms import Room, is_allowed
from trio_templar.testing import MemoryListener, Rejected, WebsocketClient

PAGE = [*demo.FILES, "/demo.json"]
# hypercorn's answers must fit a socket's send buffer (see http_server).
MAX_ANSWER_BYTES = 16_384


def client(*, needs_token: bool = False) -> httpx.AsyncClient:
    """A client of an HTTP API with the demo's routes; nothing is published through it."""
    app = HttpApi(Guard(Access(b"s3cret" if needs_token else b"")), max_bytes=1000, body_seconds=1)
    app.routes |= demo.routes(["unix:/run/ws", "ws://127.0.0.1:1234/live/"], needs_token=needs_token)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://demo.test:80")


async def test_each_user_may_enter_its_own_rooms() -> None:
    ada = admission(await demo.bootstrap(ClientRequest("/ws/?token=ada", [])), ["user", "id"])
    grace = admission(await demo.bootstrap(ClientRequest("/ws/?token=grace", [])), ["user", "id"])

    assert (ada.user_id, grace.user_id) == ("ada", "grace")
    rooms: list[Room] = [{"target": "news"}, {"target": "car", "car": 1}, {"target": "car", "car": 2}]
    assert [is_allowed(room, ada.allowed_rooms) for room in rooms] == [True, True, True]
    assert [is_allowed(room, grace.allowed_rooms) for room in rooms] == [True, False, True]


@pytest.mark.parametrize("target", ["/ws/", "/ws/?token=", "/ws/?token=mallory", "/ws/?token=%ff"])
async def test_nobody_else_is_let_in(target: str) -> None:
    with pytest.raises(Refused) as raised:
        await demo.bootstrap(ClientRequest(target, []))
    assert raised.value.status == 401


@pytest.mark.parametrize("path", PAGE)
async def test_every_answer_is_small_and_tied_down(path: str) -> None:
    async with client() as http:
        response = await http.get(path)

    assert response.status_code == 200
    assert len(response.content) < MAX_ANSWER_BYTES
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "connect-src 'self' ws://*:1234;" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_the_page_is_told_where_websockets_are() -> None:
    async with client() as http:
        assert (await http.get("/demo.json")).json() == {"port": 1234, "path": "/live/", "needs_token": False}


async def test_the_page_is_told_that_a_token_is_needed_but_not_which() -> None:
    async with client(needs_token=True) as http:
        answers = [(await http.get(path)).text for path in PAGE]
        assert (await http.get("/demo.json")).json()["needs_token"] is True
    assert not any("s3cret" in answer for answer in answers)


async def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline() -> None:
    async with client() as http:
        page = (await http.get("/")).text
        known = {path for method, path in demo.routes(["ws://h:1/ws/"], needs_token=False)}

    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) <= known
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", page)


async def test_the_page_asks_for_what_exists() -> None:
    async with client() as http:
        page, script = (await http.get("/")).text, (await http.get("/demo.js")).text

    used = set(re.findall(r'element\("([\w-]+)"\)', script))
    assert used
    assert used <= set(re.findall(r'\sid="([\w-]+)"', page))
    assert set(re.findall(r'data-name="(\w+)"', page)) == set(demo.USERS)


async def test_the_page_is_only_read() -> None:
    async with client() as http:
        response = await http.post("/")
    assert (response.status_code, response.headers["allow"]) == (405, "GET")


async def test_a_gateway_with_the_demo_lets_its_users_in_and_says_where_the_page_is() -> None:
    settings = Settings(demo=True, bind=("127.0.0.1:0",), trigger_bind="127.0.0.1:0")
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        gateway = await nursery.start(partial(serve, settings, listeners=[listener]))
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", gateway.demo_url or "")
        ada = WebsocketClient(listener.connect())
        await ada.open("/ws/?token=ada")
        assert await ada.receive() == {"allowed_rooms": [{"target": "news"}, {"target": "car", "car": "*"}]}
        with pytest.raises(Rejected, match="401"):
            await WebsocketClient(listener.connect()).open()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"api_url": "http://api/"}, "demo: it has an API of its own"),
        ({"bind": ("unix:/run/ws",)}, "demo: a browser must reach"),
        ({"trigger_bind": ""}, "demo: a browser must reach"),
        ({"trigger_bind": "unix:/run/trigger"}, "demo: a browser must reach"),
    ],
)
def test_settings_that_contradict_the_demo_are_named(values: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        Settings(demo=True, **values)  # type: ignore[arg-type]  # one of each kind
