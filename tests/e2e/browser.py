"""Debian's Chromium, headless, over its DevTools protocol."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websockets.sync.client
from websockets.sync.client import ClientConnection

from tests.e2e.clients import request
from tests.e2e.processes import PATIENCE_SECONDS, Process, eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--remote-debugging-port=0",
]


class Page:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._complaints: list[str] = []
        self.call("Log.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Return the result of one DevTools method."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(PATIENCE_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self._complaints.append(message["params"]["entry"]["text"])

    def complaints(self) -> list[str]:
        """What stands in the browser's console as an error, so far."""
        self.evaluate("0")
        return self._complaints

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Return the first truthy value of `expression`. While a page loads there may be nothing to evaluate."""

        def look() -> Any:
            answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
            return answer.get("result", {}).get("value") if "exceptionDetails" not in answer else None

        return eventually(look)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def text(self, selector: str) -> str:
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))


class Browser:
    """A running Chromium with a profile of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A new tab. Tabs share their cookies."""
        status, body, _ = request(f"{self._url}/json/new?about:blank", method="PUT")
        assert status == 200, body
        target = json.loads(body)
        with websockets.sync.client.connect(
            target["webSocketDebuggerUrl"], proxy=None, max_size=None, ping_interval=None
        ) as connection:
            yield Page(connection)
        request(f"{self._url}/json/close/{target['id']}")


@contextmanager
def run_browser(profile: Path) -> Iterator[Browser]:
    """Run Chromium; `profile` is a new folder."""
    assert CHROMIUM is not None
    process = Process([CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"])
    try:
        line = process.log.wait("DevTools listening on ws://")[0]
        yield Browser("http://" + line.partition("ws://")[2].partition("/")[0])
        process.popen.terminate()  # it has children that killing it would leave behind
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.popen.wait(PATIENCE_SECONDS)
    finally:
        process.end()
