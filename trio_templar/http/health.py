"""Whether the gateway is alive, and whether it is ready: `GET /health/live` and `/health/ready`.

Ready is shown, not assumed: once a second a canary publication goes through a room channel, a fan-out loop and an
outbox, as any other, and must come back. No client sees it, and it counts nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from trio_templar.core.frames import Batch, Publication
from trio_templar.core.hub import LiveRoom, Subscription
from trio_templar.core.policies import DISCONNECT_ALL
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.entrance import Full
from trio_templar.delivery.fanout import Fanout
from trio_templar.delivery.outbox import Outbox
from trio_templar.errors import Busy, TooLarge
from trio_templar.http.app import Request, Response, Routes, json_answer, route_of
from trio_templar.http.input import NoQuery, read_query

# How often a canary is sent, if the last one is back.
CANARY_SECONDS: Final = 1.0
# The key of a room that no client can enter: no JSON object is written like this.
KEY: Final = b"canary"
PUBLICATION: Final = Publication(b'{"requestId": ', b', "type": "canary"}')
OUTBOX_BYTES: Final = 4096


class Canary:
    """A publication to ourselves: the room, the one subscriber in it, and the socket at its end."""

    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout
        backlogs = Backlogs(OUTBOX_BYTES, 1, Budget(OUTBOX_BYTES), trio.current_time)
        self._room = LiveRoom(KEY, DISCONNECT_ALL.of(KEY))
        self._room.subscriptions[Subscription(self._room, Outbox(self, None, backlogs), b"0")] = None
        self.heard: float | None = None  # when the last one came back

    def send(self) -> None:
        """Send a canary, unless one is on its way or the gateway takes no publications."""
        if self._room.channel is None:
            try:
                self._fanout.probe(self._room, Batch([PUBLICATION]))
            except (Busy, Full, TooLarge):
                return

    # The far end: outbox.Writer

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Take note that the canary came back."""
        self.heard = trio.current_time()
        self._fanout.discount(1)
        return len(data)


class Health:
    """Says whether a gateway is ready: it does not drain, and a canary came back within the last `seconds`."""

    def __init__(self, canary: Canary, draining: Callable[[], bool], seconds: float) -> None:
        self._canary = canary
        self._draining = draining
        self._seconds = seconds

    async def canary_loop(self) -> None:
        """Send canaries until the gateway drains."""
        while not self._draining():
            self._canary.send()
            await trio.sleep(min(CANARY_SECONDS, self._seconds / 4))

    @property
    def canary_age_seconds(self) -> float | None:
        """How long ago the last canary came back; None if none did."""
        return None if self._canary.heard is None else trio.current_time() - self._canary.heard

    @property
    def ready(self) -> bool:
        """Whether clients and triggers should be sent here."""
        age = self.canary_age_seconds
        return not self._draining() and age is not None and age <= self._seconds

    def routes(self) -> Routes:
        """Return its routes for `HttpApi.routes`; they need no token."""
        return {
            **route_of("GET", "/health/live", self.get_live, public=True),
            **route_of("GET", "/health/ready", self.get_ready, public=True),
        }

    async def get_live(self, request: Request) -> Response:
        """`GET /health/live`: a gateway that answers is alive."""
        await trio.lowlevel.checkpoint()
        read_query(request, NoQuery)
        return json_answer({"live": True})

    async def get_ready(self, request: Request) -> Response:
        """`GET /health/ready`: 200 or 503."""
        await trio.lowlevel.checkpoint()
        read_query(request, NoQuery)
        age = self.canary_age_seconds
        body = {"ready": self.ready, "canary_age_seconds": None if age is None else round(age, 3)}
        return json_answer(body, 200 if self.ready else 503)
