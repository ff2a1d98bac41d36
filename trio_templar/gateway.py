"""A running gateway, as the program that embeds it sees it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from trio_templar.clients.selection import Selection
from trio_templar.clients.statistics import Statistics
from trio_templar.core.room_history import DEFAULT_LIMIT, RoomHistory
from trio_templar.core.rooms import Room
from trio_templar.core.settings import Settings
from trio_templar.core.triggers import Trigger, to_json
from trio_templar.http.input import key_of
from trio_templar.wiring import Parts, reload


@dataclass(frozen=True, slots=True)
class Published:
    """What is known of a publication: `at`, its position; None if nothing is kept (`history_seconds = 0`)."""

    at: str | None


class Gateway:
    """A running gateway. Made by `serve`, which reports it once clients can connect.

    Its methods must be called from the Trio program that it runs in.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @property
    def settings(self) -> Settings:
        """The settings in force; `reload` replaces them."""
        return self._parts.current.settings

    @property
    def websocket_urls(self) -> Sequence[str]:
        """The real addresses for clients, also after port 0; those of `serve(listeners=…)` are unknown."""
        return self._parts.endpoints.websocket_urls

    @property
    def trigger_url(self) -> str | None:
        """The real address for triggers; None with `trigger_bind=""`. A unix socket is `unix:PATH`."""
        return self._parts.endpoints.trigger_url

    @property
    def page_url(self) -> str | None:
        """The address of the dashboard; None if no browser can reach it."""
        return self._parts.endpoints.page_url

    @property
    def draining(self) -> bool:
        """Whether `drain` or `stop` was called: the gateway admits no one else, because it is going to end."""
        return self._parts.clients.shutdown.leaving.is_set()

    @property
    def stopped(self) -> trio.Event:
        """Is set once a drain is over, or `stop` was called. Deprecated: ask `draining`."""
        warnings.warn("Gateway.stopped is deprecated; ask Gateway.draining", DeprecationWarning, stacklevel=2)
        return self._parts.clients.shutdown.stopped

    async def publish(self, rooms: Iterable[Room], data: Any) -> Published:
        """Publish `data` (anything `msgspec` makes JSON of, or `msgspec.Raw`) to `rooms`.

        Blocks while one of them, or memory, is full. Where history is kept, the position is returned.

        Raises TriggerError: if it cannot be JSON, or is over a bound (TooLarge).
        Raises Busy: if it stayed full for `trigger_wait_seconds`, or the gateway is stopping; nothing was published.
        """
        return self._published(await self._parts.delivery.bus.append([self._trigger(rooms, data)]))

    def publish_nowait(self, rooms: Iterable[Room], data: Any) -> Published:
        """Publish `data` to `rooms` at once.

        Raises TriggerError or Busy: as `publish`.
        Raises trio.WouldBlock: if a room, or memory, is full; nothing was published. Its text says which.
        """
        return self._published(self._parts.delivery.bus.append_nowait([self._trigger(rooms, data)]))

    def history(self, room: Room, since: str | None = None, limit: int = DEFAULT_LIMIT) -> RoomHistory:
        """Return what was published in `room` behind the position `since`, oldest first; without it, the newest.

        At most `limit` publications (1 to 1000), and at most a megabyte of them, but at least one if there is one.
        Whoever may enter the room is not asked: this is for the program alone.

        Raises RequestError: if `room` cannot be one, `since` can be no position, or `limit` is out of range.
        Raises NotFound: if nothing of the room is kept, by the settings.
        Raises Forgotten: if it cannot be proved what came behind `since`. Its `at` is the position to go on from.
        """
        return self._parts.delivery.room_histories.of(key_of(room), since, limit)

    def _published(self, position: int) -> Published:
        return Published(self._parts.delivery.history.positions.token(position) if position else None)

    def _trigger(self, rooms: Iterable[Room], data: Any) -> Trigger:
        return self._parts.delivery.reader.make(rooms, to_json(data))

    async def disconnect(self, whom: Selection, *, code: int = 4000, reason: str = "") -> int:
        """Close the connections of `whom`, which names one id, user, room or peer; return how many.

        Raises RequestError: if it names none or several, `code` is not 4000 to 4999, or `reason` is over 123 bytes.
        Raises NotFound: if there is no connection with that id.
        """
        return await self._parts.served.control.disconnect(whom, code, reason)

    async def unsubscribe(self, whom: Selection, *, reason: str = "") -> int:
        """End the subscriptions to a room, of all clients or of those that `whom` names; return how many.

        The clients get `{"type": "unsubscribed", "requestId": …, "reason": …}`.

        Raises RequestError: if `whom` names no room, or two things beside it, or `reason` is over 123 bytes.
        Raises NotFound: if there is no connection with that id.
        """
        return await self._parts.served.control.unsubscribe(whom, reason)

    def statistics(self) -> Statistics:
        """Return the numbers of the gateway as they are now. Looks at each connection, to name the slowest."""
        return self._parts.clients.sources.with_slowest()

    def reload(self, settings: Settings) -> Sequence[str]:
        """Apply what can change of `settings`, all at once; return the names of those that need a restart to change.

        The `Reload` rule of each field of `Settings` says for whom a new value holds. `Gateway.settings` has what is in
        force then.

        Raises SettingsError: if they do not go together with what cannot change, or with the sockets that are open;
        then nothing has changed.
        """
        return reload(self._parts, settings).restart

    def drain(self) -> None:
        """Admit no one else, close every client with 1012 one after another, run the hooks, and end.

        The closes are spread over the first three quarters of `drain_seconds`; until the last of them it publishes as
        ever. What is not done after `drain_seconds` is dropped. Can be called again, and be cut short by `stop`.
        """
        self._parts.served.drain()

    def stop(self, within: float | None = None) -> None:
        """Admit no one else, send the backlogs, close every client at once with 1012, run the hooks, and end.

        What is not done `within` seconds (or `drain_seconds`, if that is less) is dropped. Can be called again.
        """
        seconds = self.settings.drain_seconds
        self._parts.clients.shutdown.stop(seconds if within is None else min(seconds, within))
