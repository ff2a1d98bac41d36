"""Make dashboard.png: run a gateway with the demo, keep it busy for eleven minutes, and let Chromium take the picture.

Run it from the root of the repository: `python -m docs.make_picture`. It needs what the end-to-end tests need.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from tests.e2e.browser import Page, run_browser
from tests.e2e.clients import connect, dial, head, masked_text, receive, subscribe, trigger
from tests.e2e.processes import GatewayProcess, gateway

PICTURE = Path(__file__).with_name("dashboard.png")
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 660.0
WIDTH, HEIGHT = 1280, 1130
NEWS = {"target": "news"}
SEVEN = {"target": "car", "car": 7}


def follow(process: GatewayProcess, user: str, car: int) -> None:
    """Be a client that reads, in a thread of its own, until the gateway ends it."""

    def run() -> None:
        with connect(f"{process.websocket_url}?token={user}") as client:
            receive(client)
            subscribe(client, "news", NEWS)
            subscribe(client, "car", {"target": "car", "car": car})
            with suppress(ConnectionClosed):
                for _ in client:
                    pass

    threading.Thread(target=run, daemon=True).start()


def dawdle(process: GatewayProcess, bytes_a_second: int) -> None:
    """Be a client of car 7 that reads too slowly, and comes back when it is closed for that."""

    def run() -> None:
        while True:
            with suppress(OSError), dial(process.address, 4096) as client:
                client.sendall(head(process, "User-Agent: a train in a tunnel", path="/ws/?token=ada"))
                client.sendall(masked_text(json.dumps({"type": "subscribe", "requestId": 1, "room": SEVEN})))
                while client.recv(bytes_a_second // 4):
                    time.sleep(0.25)
            time.sleep(3)

    threading.Thread(target=run, daemon=True).start()


def publish(process: GatewayProcess) -> None:
    """Publish now more, now less."""
    ends = time.monotonic() + SECONDS
    for number in itertools.count():
        if time.monotonic() > ends:
            return
        busy = 1.7 + math.sin(number / 40) + 0.5 * math.sin(number / 7)
        trigger(process, {"text": "Hello, world", "number": number}, NEWS)
        for car in range(1, 1 + int(4 * busy)):
            trigger(process, {"name": "Beetle", "km": number}, {"target": "car", "car": car})
        if number % 2:
            trigger(process, "a long story " * 1500, SEVEN)
        time.sleep(0.25 / busy)


def photograph(page: Page, process: GatewayProcess) -> None:
    """Open the dashboard, publish for as long as it takes, and write the picture."""
    page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
    page.call("Emulation.setScrollbarsHidden", hidden=True)
    page.scheme("light")
    page.go(process.http_url + "/")
    page.wait("document.querySelectorAll('#grace .room[aria-pressed=true]').length === 2")
    page.fill("#data", json.dumps({"text": "Hello, world"}))
    page.click("#send")
    page.wait("!!document.querySelector('#grace .frame.publish')")
    publish(process)
    time.sleep(2)
    picture = page.call("Page.captureScreenshot", format="png")
    PICTURE.write_bytes(base64.b64decode(picture["data"]))
    print(f"{PICTURE} is written, {PICTURE.stat().st_size // 1000} kB")


def main() -> None:
    """Start everything, and end it."""
    with ExitStack() as stack:
        process = stack.enter_context(gateway("--demo", ports=("--bind=127.0.0.1:0", "--trigger-bind=127.0.0.1:8002")))
        for number in range(40):
            follow(process, "grace" if number % 5 == 0 else "ada", 2 if number % 5 == 0 else 1 + number % 6)
        for speed in (22_000, 26_000, 30_000):
            dawdle(process, speed)
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        page = stack.enter_context(stack.enter_context(run_browser(Path(folder))).page())
        photograph(page, process)


if __name__ == "__main__":
    main()
