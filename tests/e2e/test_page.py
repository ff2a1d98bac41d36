"""The dashboard in a real browser, on a real gateway."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from tests.e2e.browser import CHROMIUM, Page
from tests.e2e.clients import CAR, closing, connect, dial, receive, request, subscribe, trigger
from tests.e2e.processes import PATIENCE_SECONDS, GatewayProcess, eventually, gateway, reserved_address

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; on Debian: apt install chromium")

TOKEN = {"TRIO_TEMPLAR_TRIGGER_TOKEN": "s3cret"}
# Everything that can be used on the page now.
CONTROLS = """[...document.querySelectorAll("button, input, select, textarea, summary, [tabindex]")]
    .filter((it) => it.checkVisibility() && !it.disabled)"""
# How many pixels of the chart are no grey, as grid and axes are.
COLOURFUL = """(() => {
    const canvas = document.querySelector("[data-chart=latency] canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let found = 0;
    for (let at = 0; at < data.length; at += 4) {
        const [red, green, blue, alpha] = data.slice(at, at + 4);
        found += alpha > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 80;
    }
    return found;
})()"""
# Makes the page think that its tab is not seen. From `waits` on it has done what it had begun, and waits to be seen;
# `asked` counts what it asks for of its state.
HIDE = """(() => {
    window.hide = (value) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => value });
        document.dispatchEvent(new Event("visibilitychange"));
    };
    window.waits = false;
    const listen = document.addEventListener.bind(document);
    document.addEventListener = (type, ...rest) => {
        window.waits ||= type === "visibilitychange";
        listen(type, ...rest);
    };
    window.asked = 0;
    const fetch = window.fetch;
    window.fetch = (path, ...rest) => {
        window.asked += path === "status";
        return fetch(path, ...rest);
    };
    window.hide(true);
})()"""


@pytest.fixture(scope="module")
def one_demo() -> Iterator[GatewayProcess]:
    with gateway("--demo") as process:
        yield process


@pytest.fixture
def demo(one_demo: GatewayProcess) -> GatewayProcess:
    """A gateway with the demo for all tests of this module: none of them may harm it. All pages before have left."""
    eventually(lambda: json.loads(request(f"{one_demo.http_url}/status")[1])["connections"] == 0)
    return one_demo


def opened(page: Page, process: GatewayProcess) -> Page:
    """Open the dashboard and wait until it shows what is."""
    page.go(process.http_url + "/")
    page.wait("document.querySelector('#state').textContent === 'live'")
    return page


def hide(page: Page) -> None:
    """Let nobody see the tab, and wait until nothing changes on the page any more."""
    page.evaluate(HIDE)
    page.wait("waits")


def wait_subscribed(page: Page, name: str) -> None:
    """Wait until a client of the demo is in both of its rooms."""
    page.wait(f"document.querySelectorAll('#{name} .room[aria-pressed=true]').length === 2")


def number(page: Page, selector: str) -> int:
    """What stands there, as people write it."""
    return int("".join(filter(str.isdigit, page.text(selector))) or -1)


def total(name: str) -> str:
    """An expression for one of the totals."""
    titles = "[...document.querySelectorAll('#totals dt')]"
    return f"Number({titles}.find((it) => it.textContent === '{name}').nextSibling.textContent.replace(/\\D/g, ''))"


def test_it_loads_without_a_complaint_and_shows_what_is(page: Page, demo: GatewayProcess) -> None:
    opened(page, demo)
    page.wait("document.querySelectorAll('.chart canvas').length === 4")
    for name in ("ada", "grace"):
        wait_subscribed(page, name)
    page.wait("document.querySelector('#connections').textContent.includes('grace')")
    page.wait(f"document.querySelector('#rooms').textContent.includes({json.dumps(json.dumps(CAR, sort_keys=True))})")
    page.wait("document.querySelector('[data-chart=connections] .number').textContent !== '–'")
    assert number(page, "[data-chart=connections] .number") >= 2
    assert page.evaluate("!document.querySelector('#notice').checkVisibility()")
    page.evaluate("document.querySelector('#tree').scrollIntoView()")
    page.wait("document.querySelector('#tree').textContent.includes('supervisor')")
    assert page.complaints() == []


def test_numbers_move_when_something_is_published(page: Page, demo: GatewayProcess) -> None:
    with connect(f"{demo.websocket_url}?token=ada") as client:
        receive(client)
        subscribe(client, room=CAR)
        opened(page, demo)
        before = page.wait(total("Deliveries") + " + 1")
        for count in range(100):
            trigger(demo, count, CAR)
            receive(client)
        page.wait(f"{total('Deliveries')} >= {before + 99}")

        def has_rates() -> bool:
            """A rate is of the last seconds: it stays as long as somebody publishes."""
            trigger(demo, "more", CAR)
            receive(client)
            return bool(
                page.evaluate(
                    "Number(document.querySelector('[data-chart=deliveries] .number').textContent) > 0"
                    "&& document.querySelector('[data-chart=latency] .v1 .number').textContent.endsWith('ms')"
                )
            )

        eventually(has_rates)


def test_a_single_publication_stays_in_the_chart_of_latency(page: Page) -> None:
    with gateway("--demo") as process:
        opened(page, process)
        wait_subscribed(page, "ada")
        trigger(process, 1, {"target": "news"})
        # So it says once a later sample has no latency, as nothing was published.
        page.wait("document.querySelector('[data-chart=latency] .when').textContent.startsWith('at ')")
        assert page.text("[data-chart=latency] .v0 .number").endswith("ms")
        assert page.text("[data-chart=latency] .v1 .number").endswith("ms")
        assert page.evaluate(COLOURFUL) > 0
        assert page.text("[data-chart=connections] .when") == ""


def test_a_subscription_that_is_refused_is_counted(page: Page, demo: GatewayProcess) -> None:
    with connect(f"{demo.websocket_url}?token=ada") as client:
        receive(client)
        opened(page, demo)
        before = page.wait(total("Refused") + " + 1")
        assert b"room-not-found" in subscribe(client, room={"target": "nobody may"})
        page.wait(f"{total('Refused')} === {before}")
        hint = (
            "[...document.querySelectorAll('#totals dt')].find((it) => it.textContent === 'Refused').parentNode.title"
        )
        page.wait(f"{hint}.includes('room-not-found: ')")


def test_the_form_publishes_what_is_written_in_it(page: Page, demo: GatewayProcess) -> None:
    with connect(f"{demo.websocket_url}?token=ada") as client:
        receive(client)
        subscribe(client, room={"target": "car", "car": 5})
        opened(page, demo)
        page.fill("#room", '{"target": "car", "car": 5}')
        page.fill("#data", '[1.50, "ü"]')
        page.click("#send")
        assert receive(client) == '{"requestId": "a", "type": "publish", "data": [1.50, "ü"]}'.encode()
        page.wait("document.querySelector('#result').textContent === '200 publish success, to 1 subscriber'")
        page.fill("#room", '{"nobody": "here"}')
        page.click("#send")
        page.wait("document.querySelector('#result').textContent === '200 publish success, to 0 subscribers'")


@pytest.mark.parametrize(
    ("room", "data", "words"),
    [
        ("[]", "1", "The room is not a JSON object"),
        ('{"target": ', "1", "The room is not JSON yet"),
        ("{}", "nonsense", "The data is not JSON yet"),
    ],
)
def test_the_form_says_what_is_wrong_before_it_publishes(
    page: Page, demo: GatewayProcess, room: str, data: str, words: str
) -> None:
    opened(page, demo)
    page.fill("#room", room)
    page.fill("#data", data)
    page.click("#send")
    assert page.text("#publish-error").startswith(words)
    assert page.text("#result") == ""


def test_a_disconnect_asks_first(page: Page, demo: GatewayProcess) -> None:
    with connect(f"{demo.websocket_url}?token=grace") as client:
        receive(client)
        opened(page, demo)
        page.remember("#said")
        wait_subscribed(page, "grace")
        page.fill("#connections-form [name=user]", "grace")
        page.fill("#connections-form [name=sort]", "age")
        rows = "[...document.querySelectorAll('#connections tbody tr')]"
        page.wait(f"{rows}.length === 2 && {rows}.every((row) => row.textContent.includes('grace'))")
        # The client of the page leaves; the row that is left is ours.
        page.click("#grace .connect")
        page.wait(f"{rows}.length === 1")

        page.click("#connections tbody button")
        assert page.text("#disconnect-title") == "Disconnect grace?"
        page.click("#disconnect-no")
        page.wait("!document.querySelector('#disconnect').open")
        client.send("ping")
        assert receive(client) == b"pong"  # it is still there

        page.click("#connections tbody button")
        page.fill("#disconnect-reason", "out, please")
        page.click("#disconnect-yes")
        assert closing(client) == (4000, "out, please")
        page.wait_remembered("#said", "Disconnected 1 connection.")
        page.wait("document.querySelector('#connections').textContent.includes('No connection is like this')")
        assert page.complaints() == []


def test_a_token_is_asked_for_and_a_wrong_one_is_said_to_be_wrong(page: Page) -> None:
    with gateway("--demo", environment=TOKEN) as process:
        page.go(process.http_url + "/")
        page.wait("document.querySelector('#token-form').checkVisibility()")
        assert page.complaints() == []  # nothing was asked without it
        page.fill("#token", "guess")
        page.click("#token-form button")
        page.wait("document.querySelector('#notice').textContent.includes('refused this token')")
        page.fill("#token", "s3cret")
        page.click("#token-form button")
        page.wait("document.querySelector('#state').textContent === 'live'")
        wait_subscribed(page, "ada")
        page.click("#send")
        page.wait("document.querySelector('#result').textContent.startsWith('200 publish success, to ')")
        page.wait("!!document.querySelector('#ada .frame.publish')")
        assert page.evaluate("localStorage.length") == 0
        assert "s3cret" not in page.evaluate("document.cookie")
        page.click("#forget")
        page.wait("document.querySelector('#token-form').checkVisibility()")
        assert page.evaluate("sessionStorage.length") == 0


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page, demo: GatewayProcess) -> None:
    page.resize(360, 740)
    with connect(f"{demo.websocket_url}?token=ada") as client:
        receive(client)
        subscribe(client, room={"target": "car", "car": "a-room-with-a-long-name-" * 4})
        opened(page, demo)
        page.wait("document.querySelector('#rooms').textContent.includes('long-name')")
        page.click("#connections tbody button")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("document.querySelector('#disconnect').getBoundingClientRect().right") <= 360


def test_light_and_dark_are_followed_while_it_is_open(page: Page, demo: GatewayProcess) -> None:
    shade = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((sum, part) => sum + Number(part), 0)"
    )
    page.scheme("light")
    opened(page, demo)
    assert page.evaluate(shade) > 600
    page.scheme("dark")
    page.wait(f"{shade} < 150")
    page.wait("document.querySelectorAll('.chart canvas').length === 4")


def test_the_keyboard_reaches_everything(page: Page, demo: GatewayProcess) -> None:
    opened(page, demo)
    page.wait("document.querySelector('#connections').textContent.includes('grace')")
    page.wait("!!document.querySelector('#rooms tbody button')")
    page.evaluate("document.querySelector('#tree').scrollIntoView()")
    page.wait("!!document.querySelector('#tree summary')")
    hide(page)
    page.evaluate(f"{CONTROLS}.forEach((it, index) => (it.dataset.number = index))")
    wanted = set(page.evaluate(f"{CONTROLS}.map((it) => it.dataset.number)"))
    assert len(wanted) > 20
    reached = set()
    for _ in range(3 * len(wanted)):
        page.press("Tab", 9)
        reached.add(page.evaluate("document.activeElement.dataset.number ?? ''"))
    assert wanted <= reached

    page.evaluate("document.querySelector('#connections tbody button').focus()")
    page.press("Enter", 13)
    page.wait("document.querySelector('#disconnect').open")
    assert page.evaluate("document.activeElement.id") == "disconnect-no"
    page.press("Escape", 27)
    page.wait("!document.querySelector('#disconnect').open")


def test_a_tab_that_nobody_sees_does_not_ask(page: Page, demo: GatewayProcess) -> None:
    opened(page, demo)
    hide(page)
    # Two turns more, in the page's own time: it is this time in which it must not ask.
    assert page.evaluate("new Promise((over) => setTimeout(() => over(asked), 4500))") == 0
    page.evaluate("window.hide(false)")
    page.wait("asked > 0")


def test_it_says_when_the_gateway_is_gone_and_when_it_is_back(page: Page) -> None:
    with reserved_address() as address, reserved_address() as trigger_address:
        ports = [f"--bind={address}", f"--trigger-bind={trigger_address}"]
        with gateway("--demo", ports=ports) as process:
            opened(page, process)
            for name in ("ada", "grace"):
                wait_subscribed(page, name)
                page.remember(f"#{name} .words")
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
            for name in ("ada", "grace"):  # each tries again soon, one of them while the other is still there
                page.wait_remembered(f"#{name} .words", "trying again (1012, the gateway is stopping)")
            words = "The gateway does not answer (no answer). What you see is from"
            page.wait(f"document.querySelector('#notice-text').textContent.startsWith('{words}')")
            assert page.text("#state") == "unreachable"
        with gateway("--demo", ports=ports):
            page.wait("document.querySelector('#state').textContent === 'live'")
            for name in ("ada", "grace"):
                wait_subscribed(page, name)


def test_a_gateway_that_hangs_is_unreachable_too(page: Page) -> None:
    with gateway("--demo") as process:
        opened(page, process)
        process.signal(signal.SIGSTOP)
        page.wait("document.querySelector('#notice').textContent.includes('no answer within 5 s')")
        process.signal(signal.SIGCONT)
        page.wait("document.querySelector('#state').textContent === 'live'")


def test_it_says_that_the_gateway_drains(page: Page) -> None:
    # The second of its two clients is sent away in the middle of the first three quarters; until then it is there.
    with gateway("--demo", f"--drain-seconds={4 * PATIENCE_SECONDS}") as process:
        opened(page, process)
        for name in ("ada", "grace"):
            wait_subscribed(page, name)
        process.signal(signal.SIGTERM)
        page.wait("document.querySelector('#state').textContent === 'draining'")
        assert page.text("#notice-text").startswith("The gateway is draining")


def test_callers_that_do_not_read_the_page_keep_nobody_waiting(demo: GatewayProcess) -> None:
    place = urlsplit(demo.http_url)
    question = b"GET /page/uplot/uPlot.iife.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(dial((str(place.hostname), int(place.port or 0)), 4096)).sendall(question)
        status, body, _ = request(f"{demo.http_url}/page/uplot/uPlot.iife.min.js")
        assert (status, len(body)) == (200, 51081)
        trigger(demo, 1, CAR)


def test_a_client_of_the_demo_that_was_away_comes_back_to_what_it_missed(page: Page) -> None:
    frames = "[...document.querySelectorAll('#ada .frame.publish code')].map((it) => JSON.parse(it.textContent).data)"
    with gateway("--demo") as process:
        opened(page, process)
        for name in ("ada", "grace"):
            wait_subscribed(page, name)
        trigger(process, "heard", {"target": "news"})
        page.wait(f"{frames}.length === 1")
        page.click("#ada .away")
        page.wait(f"{frames}.length === 4")
        missed = [{"text": f"While ada was away: {number}"} for number in (1, 2, 3)]
        assert page.evaluate(frames) == ["heard", *missed]
        page.wait("document.querySelectorAll('#grace .frame.publish').length === 4")
        wait_subscribed(page, "ada")
        assert "Back in news: nothing is lost." in page.text("#ada .frames")
        assert "cannot be recovered" not in page.text("#ada .frames")
        trigger(process, "later", {"target": "news"})
        page.wait(f"{frames}.length === 5")
        assert page.evaluate(frames)[4] == "later"
        assert page.complaints() == []


def test_a_client_of_the_demo_says_when_what_it_missed_is_gone(page: Page) -> None:
    with gateway("--demo", "--history-bytes=4096") as process:
        opened(page, process)
        wait_subscribed(page, "ada")
        page.click("#ada .connect")
        page.wait("document.querySelector('#ada .connect').textContent === 'Connect'")
        trigger(process, "x" * 10_000, {"target": "news"})  # more than is kept
        page.click("#ada .connect")
        page.wait("document.querySelector('#ada .frames').textContent.includes('cannot be recovered')")


def test_the_demo_shows_two_clients_subscribe_and_a_button_that_sends_them_frames(page: Page) -> None:
    with gateway("--demo") as process:
        opened(page, process)
        for name in ("ada", "grace"):
            wait_subscribed(page, name)
        page.fill("#data", '{"text": "First"}')
        page.click("#send")
        for name in ("ada", "grace"):
            page.wait(f"!!document.querySelector('#{name} .frame.publish')")
            frame = page.text(f"#{name} .frame.publish code")
            assert frame.endswith(', "type": "publish", "data": {"text": "First"}}')
        page.click("#room-choices button:nth-child(3)")  # car 2: Grace alone
        page.click("#send")
        page.wait("document.querySelectorAll('#grace .frame.publish').length === 2")
        page.click("#room-choices button:nth-child(1)")  # news: behind it Ada got nothing else
        page.click("#send")
        page.wait("document.querySelectorAll('#grace .frame.publish').length === 3")
        page.wait("document.querySelectorAll('#ada .frame.publish').length >= 2")
        assert page.evaluate("document.querySelectorAll('#ada .frame.publish').length") == 2
        assert page.complaints() == []
