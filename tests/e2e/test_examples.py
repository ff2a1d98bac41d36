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
from tests.e2e.clients import connect, receive, request, subscribe, trigger
from tests.e2e.processes import ROOT, GatewayProcess, Process, eventually, gateway
from tests.e2e.relay import relay

EXAMPLES = ROOT / "examples"
NEWS = {"target": "news"}
CAR_1 = {"target": "car", "car": 1}

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium here; on Debian: apt install chromium"
)
# Subscribes to the news and to car 1; what comes is in `got`, and what is to be fetched in `fetches`.
LISTEN = """import('{module}').then(({{connect}}) => {{
    Math.random = () => 0;  // it comes back after a second
    globalThis.got = [[], []];
    globalThis.fetches = [];
    globalThis.client = connect('{url}');
    [{{target: 'news'}}, {{target: 'car', car: 1}}].forEach((room, which) =>
        client.subscribe(room, (data) => got[which].push(data), () => fetches.push(which)));
}})"""
# A gateway in the page: `say` is what it says on the connection that is open, `heard` what it was told there.
FAKE_GATEWAY = """globalThis.WebSocket = class {
    static OPEN = 1;
    constructor() { globalThis.socket = this; this.readyState = 0; globalThis.heard = []; }
    send(text) { heard.push(JSON.parse(text)); }
};
globalThis.say = (message) => socket.onmessage({ data: JSON.stringify(message) });
globalThis.open = () => { socket.readyState = 1; socket.onopen(); };
globalThis.setTimeout = (again) => again();"""


@pytest.fixture(scope="module")
def one_demo() -> Iterator[GatewayProcess]:
    with gateway("--demo", "--allowed-origin=null") as process:
        yield process


@pytest.fixture
def demo(one_demo: GatewayProcess) -> GatewayProcess:
    """A gateway with users and rooms of its own, open to pages from anywhere. All clients before have left."""
    one_demo.wait_idle()
    return one_demo


def test_the_publisher_publishes_one_some_and_many(demo: GatewayProcess) -> None:
    with connect(f"{demo.websocket_url}?token=ada") as client:
        receive(client)
        subscribe(client, "n", NEWS)
        program = Process([sys.executable, str(EXAMPLES / "publish.py"), demo.trigger_url])
        assert program.wait() == 0, program.log.all
        assert program.output.all == ["publish success", "publish success", "publish success: 3"]
        assert [json.loads(receive(client))["data"] for _ in range(6)] == [{"text": "one"}, 2, 3, 4, 5, 6]


@needs_chromium
def test_the_browser_client_listens_and_stops_listening(demo: GatewayProcess, tmp_path: Path) -> None:
    car_1, car_2 = {"target": "car", "car": 1}, {"target": "car", "car": 2}
    with run_browser(tmp_path) as browser, browser.page() as page:
        page.evaluate(
            f"import('{client_module()}').then(({{connect}}) => {{"
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


@needs_chromium
def test_the_browser_client_gets_what_it_missed_while_it_was_cut_off(demo: GatewayProcess, tmp_path: Path) -> None:
    numbers = itertools.count()
    with run_browser(tmp_path) as browser, browser.page() as page, relay(demo.address) as way:
        page.evaluate(LISTEN.format(module=client_module(), url=f"{way.url}?token=ada"))
        wait_subscriptions(demo, 2)
        for _ in range(3):
            trigger(demo, next(numbers), NEWS, CAR_1)
            assert way.cut() == 1
            for _ in range(5):
                trigger(demo, next(numbers), CAR_1, NEWS)
            said = list(range(next(numbers)))
            trigger(demo, said[-1] + 1, NEWS, CAR_1)
            page.wait(f"got.every((each) => each.length >= {len(said) + 1})")
            assert page.evaluate("got") == [[*said, len(said)]] * 2
        assert page.evaluate("fetches") == [0, 1]


@needs_chromium
def test_the_browser_client_says_when_to_fetch(demo: GatewayProcess, tmp_path: Path) -> None:
    with (
        gateway("--demo", "--allowed-origin=null") as other,
        run_browser(tmp_path) as browser,
        browser.page() as page,
        relay(demo.address) as way,
    ):
        page.evaluate(LISTEN.format(module=client_module(), url=f"{way.url}?token=ada"))
        wait_subscriptions(demo, 2)
        page.wait("fetches.length === 2")  # it has subscribed
        way.target = other.address  # which knows nothing of what the first one has said
        way.cut()
        page.wait("fetches.length === 4")
        assert page.evaluate("fetches") == [0, 1, 0, 1]
        trigger(other, "from here on", NEWS, CAR_1)
        page.wait("got.every((each) => each.length === 1)")
        way.cut()
        trigger(other, "nothing is missed again", NEWS, CAR_1)
        page.wait("got.every((each) => each.length === 2)")
        assert page.evaluate("fetches.length") == 4


@needs_chromium
def test_the_browser_client_keeps_positions_by_the_rules(tmp_path: Path) -> None:
    with run_browser(tmp_path) as browser, browser.page() as page:
        page.evaluate(FAKE_GATEWAY)
        page.evaluate(LISTEN.format(module=client_module(), url="ws://nowhere/"))

        def come_back() -> list[object]:
            """Lose the connection and open the next; returns the positions that the client then asks with."""
            page.evaluate("socket.onclose?.({}), open()")
            return list(page.evaluate("heard.map(({ since }) => since)"))

        def say(**message: object) -> None:
            page.evaluate(f"say({json.dumps(message)})")

        def success(request_id: int, **more: object) -> None:
            say(requestId=request_id, code="success", **more)

        assert come_back() == [None, None]
        success(1, at="e.1")
        success(2)  # of this room nothing is kept
        say(requestId=1, at="e.2", type="publish", data="seen")
        assert page.evaluate("fetches.splice(0)") == [0, 1]
        assert come_back() == ["e.2", None]
        success(1, at="e.2", recovered=True)
        say(type="position", at="e.5")
        assert come_back() == ["e.5", None]
        success(2, at="e.6")
        say(type="position", at="e.7")  # subscription 1 has no reply yet, and may miss what came before
        assert come_back() == ["e.5", "e.7"]
        assert page.evaluate("fetches.splice(0)") == [1]
        success(1)  # an older gateway
        success(2, at="e.8", recovered=False)
        say(type="gap", requestId=2, lost=None, at="e.9")
        say(type="gap", requestId=1, lost=3)
        assert page.evaluate("fetches") == [0, 1, 1, 0]
        assert come_back() == ["e.5", "e.9"]
        say(code="success")  # an older gateway of dialect 3
        success(2, at="e.9", recovered=True)
        assert page.evaluate("fetches") == [0, 1, 1, 0, 0]
        say(type="unsubscribed", requestId=2, reason="sold")
        say(type="position", at="e.10")  # subscription 2 has ended, and misses what came before
        assert come_back() == ["e.5", "e.9"]
        assert page.evaluate("got") == [["seen"], []]


def client_module() -> str:
    """The address of the browser client, for any page."""
    return "data:text/javascript;base64," + base64.b64encode((EXAMPLES / "client.js").read_bytes()).decode()


def wait_subscriptions(process: GatewayProcess, number: int) -> None:
    eventually(lambda: json.loads(request(f"{process.http_url}/status")[1])["subscriptions"] == number)


@needs_chromium
def test_the_address_in_the_readme_is_that_of_the_page(demo: GatewayProcess, tmp_path: Path) -> None:
    (expression,) = re.findall(r"connect\((`.*?`)\);", (ROOT / "README.md").read_text())
    assert f"connect({expression});" in (EXAMPLES / "client.js").read_text().replace("//   ", "")
    with run_browser(tmp_path) as browser, browser.page() as page:
        page.go(f"{demo.http_url}/")
        host = demo.http_url.removeprefix("http://")
        assert page.evaluate(expression) == f"ws://{host}/ws/"
        on_https = expression.replace("location.", "new URL('https://app.example:8443/x').")
        assert page.evaluate(on_https) == "wss://app.example:8443/ws/"
