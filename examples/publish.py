"""A program that publishes one trigger, an array of triggers, and a stream of lines, with Python's own HTTP client.

Run it with `python examples/publish.py http://127.0.0.1:8002/trigger/`. If the gateway has a token, put it into
TRIO_TEMPLAR_TRIGGER_TOKEN.
"""

import json
import os
import sys
from collections.abc import Iterable
from typing import Any
from urllib.request import Request, urlopen

NEWS = {"target": "news"}
SECONDS = 10.0


def post(url: str, body: bytes, content_type: str = "application/json") -> str:
    """POST `body` and return the answer. Raises urllib.error.HTTPError: if the status is an error."""
    request = Request(url, body, {"Content-Type": content_type})
    if token := os.environ.get("TRIO_TEMPLAR_TRIGGER_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    with urlopen(request, timeout=SECONDS) as response:
        return str(response.read().decode())


def publish(url: str, rooms: list[dict[str, Any]], data: Any) -> str:
    """Publish one trigger."""
    return post(url, json.dumps({"rooms": rooms, "data": data}).encode())


def publish_all(url: str, triggers: list[dict[str, Any]]) -> str:
    """Publish all triggers, or none if one of them is bad."""
    return post(url, json.dumps(triggers).encode())


def publish_lines(url: str, triggers: Iterable[dict[str, Any]]) -> str:
    """Publish line by line, up to the first bad line."""
    lines = "".join(json.dumps(trigger) + "\n" for trigger in triggers)
    return post(url, lines.encode(), "application/x-ndjson")


if __name__ == "__main__":
    trigger_url = sys.argv[1]
    print(publish(trigger_url, [NEWS], {"text": "one"}))
    print(publish_all(trigger_url, [{"rooms": [NEWS], "data": number} for number in (2, 3)]))
    print(publish_lines(trigger_url, ({"rooms": [NEWS], "data": number} for number in (4, 5, 6))))
