"""The files of examples/, used as the documentation says: by a publisher and a browser."""

from __future__ import annotations

import base64
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.browser import CHROMIUM, run_browser
from tests.e2e.clients import connect, receive, request, subscribe
from tests.e2e.processes import ROOT, GatewayProcess, Process, eventually, gateway

EXAMPLES = ROOT / "examples"
NEWS = {"target": "news"}


@pytest.fixture(scope="module")
def demo() -> Iterator[GatewayProcess]:
    """A gateway with users and rooms of its own, open to pages from anywhere."""
    with gateway("--demo", "--allowed-origin=null") as process:
        yield process


def test_the_publisher_publishes_one_some_and_many(demo: GatewayProcess) -> None:
    with connect(f"{demo.websocket_url}?token=ada") as client:
        receive(client)
        subscribe(client, "n", NEWS)
        program = Process([sys.executable, str(EXAMPLES / "publish.py"), demo.trigger_url])
        assert program.wait() == 0, program.log.all
        assert program.output.all == ["publish success", "publish success", "publish success: 3"]
        assert [json.loads(receive(client))["data"] for _ in range(6)] == [{"text": "one"}, 2, 3, 4, 5, 6]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; on Debian: apt install chromium")
def test_the_browser_client_listens_and_stops_listening(demo: GatewayProcess, tmp_path: Path) -> None:
    module = base64.b64encode((EXAMPLES / "client.js").read_bytes()).decode()
    car_1, car_2 = {"target": "car", "car": 1}, {"target": "car", "car": 2}
    with run_browser(tmp_path) as browser, browser.page() as page:
        page.evaluate(
            f"import('data:text/javascript;base64,{module}').then(({{connect}}) => {{"
            f"  const client = connect('{demo.websocket_url}?token=ada');"
            "  globalThis.got = [];"
            f"  globalThis.leave = client.subscribe({json.dumps(car_1)}, (data) => got.push(['one', data]));"
            f"  client.subscribe({json.dumps(car_2)}, (data) => got.push(['two', data]));"
            "})"
        )

        numbers = itertools.count()

        def publish() -> int:
            number = next(numbers)
            answer = request(demo.trigger_url, json.dumps({"rooms": [car_1, car_2], "data": number}).encode())
            assert answer[:2] == (200, b"publish success")
            return number

        def heard_by() -> object:
            """Who heard the next number; car 2, which comes last, is listened to all the time."""
            number = publish()
            mine = f"got.filter(([, data]) => data === {number}).map(([who]) => who)"
            return page.wait(f"{mine}.includes('two') && {mine}")

        eventually(lambda: publish() >= 0 and page.evaluate("got.some(([who]) => who === 'two')"))
        assert heard_by() == ["one", "two"]
        page.evaluate("leave()")
        eventually(lambda: heard_by() == ["two"])


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; on Debian: apt install chromium")
def test_the_address_in_the_readme_is_that_of_the_page(demo: GatewayProcess, tmp_path: Path) -> None:
    (expression,) = re.findall(r"connect\((`.*?`)\);", (ROOT / "README.md").read_text())
    assert f"connect({expression});" in (EXAMPLES / "client.js").read_text().replace("//   ", "")
    with run_browser(tmp_path) as browser, browser.page() as page:
        page.go(f"{demo.http_url}/")
        host = demo.http_url.removeprefix("http://")
        assert page.evaluate(expression) == f"ws://{host}/ws/"
        on_https = expression.replace("location.", "new URL('https://app.example:8443/x').")
        assert page.evaluate(on_https) == "wss://app.example:8443/ws/"
