"""How a Django site publishes. Copy it to an app, and set GATEWAY_URL to where the gateway gets triggers."""

import json
import logging
from http.client import HTTPException
from typing import Any
from urllib.request import Request, urlopen

from django.conf import settings

SECONDS = 2.0  # how long a save may wait for a gateway that hangs
logger = logging.getLogger(__name__)


def publish(rooms: list[dict[str, Any]], data: Any) -> None:
    """Publish `data` to `rooms`, or log that it did not work: what was saved is saved."""
    body = json.dumps({"rooms": rooms, "data": data}).encode()
    request = Request(f"{settings.GATEWAY_URL}/trigger/", body, {"Content-Type": "application/json"})
    try:
        urlopen(request, timeout=SECONDS).close()
    except (OSError, HTTPException) as error:  # no gateway, too slow, or an error status
        logger.warning("not published to %s: %s", rooms, error)
