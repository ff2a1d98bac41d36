"""`--demo`: an API inside the gateway, for the two clients that the dashboard then has.

Their websockets go to the gateway's own address and the page's form to `/trigger/`: nothing about them is special.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from trio_templar.core.forwarding import ClientRequest
from trio_templar.core.rooms import Room
from trio_templar.errors import Refused

# The rooms of each user. The token of a real user would be a secret; here it is the name.
USERS: Final[Mapping[str, Sequence[Room]]] = {
    "ada": [{"target": "news"}, {"target": "car", "car": "*"}],
    "grace": [{"target": "news"}, {"target": "car", "car": 2}],
}


async def bootstrap(request: ClientRequest) -> Mapping[str, Any]:
    """Answer what an API answers to `GET bootstrap/`; `?token=` has the user's name.

    Raises Refused: if there is no such user.
    """
    await trio.lowlevel.checkpoint()
    name = (request.param("token") or b"").decode()
    if name not in USERS:
        raise Refused(401)
    return {"user": {"id": name}, "allowed_rooms": USERS[name]}


def websocket_of(urls: Iterable[str]) -> str:
    """Return the first of a gateway's websocket addresses that a browser can reach: one with a port."""
    return next(url for url in urls if urlsplit(url).port)
