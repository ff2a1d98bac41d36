"""A real browser on a real Django site."""

from __future__ import annotations

import signal
import urllib.parse
from pathlib import Path

import pytest

from tests.e2e.browser import CHROMIUM, Browser, Page
from tests.e2e.django_site import Garage, run_garage
from tests.e2e.processes import gateway

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; on Debian: apt install chromium")


def login(page: Page, garage: Garage, name: str) -> None:
    """Fill in the form as a person does and end on the page that listens to car 1."""
    target = f"/?gateway={urllib.parse.quote(garage.gateway.websocket_url, safe='')}"
    page.go(f"{garage.site.url}login/?next={urllib.parse.quote(target, safe='')}")
    page.evaluate(
        f"""(() => {{
            document.querySelector("[name=username]").value = "{name}";
            document.querySelector("[name=password]").value = "{name}'s password";
            document.querySelector("button").click();
        }})()"""
    )
    page.wait(f"document.body && document.body.textContent.includes('You are {name}.')")


def test_a_login_a_subscription_and_a_button_that_saves_give_the_page_its_frame(page: Page, garage: Garage) -> None:
    login(page, garage, "ann")
    page.wait("document.querySelector('#frames').textContent.includes('success')")
    page.evaluate("document.querySelector('#save').click()")
    page.wait("document.querySelector('#frames').textContent.includes('publish')")
    assert page.text("#frames").splitlines() == [
        '{"allowed_rooms": [{"target": "car", "car": "*"}]}',
        '{"requestId": "car", "code": "success"}',
        '{"requestId": "car", "type": "publish", "data": {"id": 1, "name": "Saved by a button"}}',
    ]


def test_a_page_without_a_login_gets_no_websocket(browser: Browser, garage: Garage) -> None:
    with browser.page() as page:
        page.call("Network.clearBrowserCookies")
        page.go(f"{garage.site.url}?gateway={garage.gateway.websocket_url}")
        page.wait("document.querySelector('#closed').textContent.startsWith('1006')")
        assert page.text("#frames") == ""


def test_when_the_gateway_stops_the_page_sees_1012(page: Page, tmp_path: Path) -> None:
    with run_garage(tmp_path) as garage:
        login(page, garage, "ann")
        page.wait("document.querySelector('#frames').textContent.includes('success')")
        garage.gateway.signal(signal.SIGTERM)
        assert garage.gateway.wait() == 0
        page.wait("document.querySelector('#closed').textContent")
        assert page.text("#closed") == "1012 the gateway is stopping"


def test_a_page_of_another_host_is_refused_unless_it_is_allowed(page: Page, garage: Garage) -> None:
    elsewhere = garage.site.url.replace("127.0.0.1", "localhost")
    origin = elsewhere.rstrip("/")
    page.go(f"{elsewhere}?gateway={garage.gateway.websocket_url}")
    page.wait("document.querySelector('#closed').textContent.startsWith('1006')")
    hint = 'WARNING refused status=403 why="origin not allowed" hint="open the page as '
    hint += f"{garage.site.url.rstrip('/')}, so that its cookies come along; "
    hint += f'--allowed-origin {origin} would let it in without them"'
    garage.gateway.log.wait(hint)
    with gateway(f"--api-url={garage.site.api_url}", f"--allowed-origin={origin}") as lenient:
        page.go(f"{elsewhere}?gateway={lenient.websocket_url}")
        page.wait("document.querySelector('#closed').textContent.startsWith('1006')")
        lenient.log.wait("INFO refused status=403 .*the API refused the client")  # so its origin did not matter
