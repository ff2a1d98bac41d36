"""How busy each room is: publications a second, from samples, so that a publication costs nothing for it."""

from __future__ import annotations

from typing import Final, NoReturn

import trio

from trio_templar.core.hub import Hub, LiveRoom

# A rate is over the last one to two of these; in a young gateway, since its start.
SAMPLE_SECONDS: Final = 5.0


class Rates:
    """The rooms' counts at the last two samples; rooms without publications are not kept."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._recent = self._older = self._sample()

    def _sample(self) -> tuple[float, dict[LiveRoom, int]]:
        counts = {room: room.publications for room in self._hub.rooms.values() if room.publications}
        return trio.current_time(), counts

    async def sample_loop(self) -> NoReturn:
        """Take samples until cancelled."""
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            self._older, self._recent = self._recent, self._sample()

    def of(self, room: LiveRoom) -> float:
        """Return the publications a second that `room` got in the last 5 to 10 seconds."""
        since, counts = self._older
        seconds = max(1.0, trio.current_time() - since)
        return (room.publications - counts.get(room, 0)) / seconds
