"""The demo: its API, its rooms in the page, and what the settings say about it."""

from __future__ import annotations

import importlib.resources
import re
from functools import partial

import pytest
import trio

from trio_templar import ClientRequest, Refused, Settings, SettingsError, demo
from trio_templar.clients.bootstrap import read_answer
from trio_templar.core.rooms import Room, is_allowed
from trio_templar.serving import serve
from trio_templar.testing import MemoryListener, Rejected, WebsocketClient


async def test_each_user_may_enter_its_own_rooms() -> None:
    ada = await read_answer(await demo.bootstrap(ClientRequest("/ws/?token=ada", [])), ["user", "id"])
    grace = await read_answer(await demo.bootstrap(ClientRequest("/ws/?token=grace", [])), ["user", "id"])

    assert (ada.user_id, grace.user_id) == ("ada", "grace")
    rooms: list[Room] = [{"target": "news"}, {"target": "car", "car": 1}, {"target": "car", "car": 2}]
    assert [is_allowed(room, ada.allowed_rooms) for room in rooms] == [True, True, True]
    assert [is_allowed(room, grace.allowed_rooms) for room in rooms] == [True, False, True]


@pytest.mark.parametrize("target", ["/ws/", "/ws/?token=", "/ws/?token=mallory", "/ws/?token=%ff"])
async def test_nobody_else_is_let_in(target: str) -> None:
    with pytest.raises(Refused) as raised:
        await demo.bootstrap(ClientRequest(target, []))
    assert raised.value.status == 401


def test_the_page_has_the_clients_that_are_let_in() -> None:
    script = (importlib.resources.files("trio_templar.http") / "page_files" / "demo.js").read_text()
    users = re.search(r"const USERS = \{(.*)\};", script)
    assert users is not None
    assert re.findall(r"(\w+): \[", users[1]) == list(demo.USERS)


def test_a_browser_is_sent_to_an_address_with_a_port() -> None:
    assert demo.websocket_of(["unix:/run/ws", "ws://127.0.0.1:1234/live/"]) == "ws://127.0.0.1:1234/live/"


async def test_a_gateway_with_the_demo_lets_its_users_in_and_says_where_the_page_is() -> None:
    settings = Settings(demo=True, bind=("127.0.0.1:0",), trigger_bind="127.0.0.1:0")
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        gateway = await nursery.start(partial(serve, settings, listeners=[listener]))
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", gateway.page_url or "")
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
