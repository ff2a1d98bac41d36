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
        self.call("Runtime.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Return the result of one DevTools method."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(PATIENCE_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._listen(message.get("method"), message.get("params", {}))

    def _listen(self, event: str | None, about: Any) -> None:
        match event:
            case "Log.entryAdded" if about["entry"]["level"] == "error":
                self._complaints.append(about["entry"]["text"])
            case "Runtime.exceptionThrown":
                details = about["exceptionDetails"]
                self._complaints.append(details.get("exception", details).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if about["type"] == "error":
                self._complaints.append(str([argument.get("value") for argument in about["args"]]))

    def complaints(self) -> list[str]:
        """What stands in the browser's console as an error, so far: what was refused, thrown or said."""
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

    def click(self, selector: str) -> None:
        """Click once it is there and can be clicked: a page that lives may still be making it."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"((it) => it && !it.disabled && (it.click(), true))({found})")

    def remember(self, selector: str) -> None:
        """Keep all texts of an element from now on, also those that pass; `wait_remembered` looks at them."""
        self.evaluate(
            f"""(() => {{
                const place = document.querySelector({json.dumps(selector)});
                const texts = ((window.remembered ??= {{}})[{json.dumps(selector)}] = [place.textContent]);
                new MutationObserver(() => texts.push(place.textContent))
                    .observe(place, {{ childList: true, characterData: true, subtree: true }});
            }})()"""
        )

    def wait_remembered(self, selector: str, words: str) -> None:
        """Wait until `words` have been in a text of the element since `remember`."""
        self.wait(f"remembered[{json.dumps(selector)}].some((text) => text.includes({json.dumps(words)}))")

    def fill(self, selector: str, text: str) -> None:
        """Write into a field as if it were typed."""
        self.evaluate(
            f"""(() => {{
                const field = document.querySelector({json.dumps(selector)});
                field.value = {json.dumps(text)};
                field.dispatchEvent(new Event("input", {{ bubbles: true }}));
            }})()"""
        )

    def press(self, key: str, code: int) -> None:
        """Press and release a key, by its name and its code of old."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True)

    def scheme(self, name: str) -> None:
        """Prefer `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

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
            target["webSocketDebuggerUrl"],
            proxy=None,
            max_size=None,
            ping_interval=None,
            open_timeout=PATIENCE_SECONDS,
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
