"""What `trio-templar top` shows: totals, how fast they grow, the slowest connections, the busiest rooms."""

from __future__ import annotations

from typing import Any, Final

import trio

from trio_templar.commands.gateway_api import GatewayApi

# Counters of which the difference is shown too.
COUNTED: Final = ("triggers", "publications", "deliveries")


class Snapshots:
    """Looks at one gateway, again and again."""

    def __init__(self, api: GatewayApi, *, rows: int) -> None:
        self._api = api
        self._rows = rows
        self._last: tuple[float, dict[str, Any]] | None = None

    async def take(self) -> dict[str, Any]:
        """Return what is there now; `per_second` has the rates since the last time, or null the first time.

        Raises CommandError: if the gateway does not answer.
        """
        status = await self._api.get("/status")
        now = trio.current_time()
        connections = await self._api.get("/connections/", sort="waiting", limit=self._rows)
        rooms = await self._api.get("/rooms/", sort="rate", limit=self._rows)
        per_second = self._per_second(now, status)
        self._last = now, status
        return {
            "status": status,
            "per_second": per_second,
            "connections": connections["connections"],
            "rooms": rooms["rooms"],
        }

    async def pause(self, seconds: float) -> None:
        """Wait until it is time to look again."""
        await trio.sleep(seconds)

    def _per_second(self, now: float, status: dict[str, Any]) -> dict[str, float | None]:
        if self._last is None:
            return dict.fromkeys(COUNTED)
        since, before = self._last
        # A gateway that was started again counts from 0.
        fresh = before["uptime_seconds"] > status["uptime_seconds"]
        seconds = now - since
        return {name: (status[name] - (0 if fresh else before[name])) / seconds for name in COUNTED}
