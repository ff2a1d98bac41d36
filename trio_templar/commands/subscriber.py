"""A client that stays: be admitted, subscribe, print, and come back when the connection ends."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import starmap
from typing import Any, Final

import msgspec
import trio

from trio_templar.client import Closed, WebsocketClient
from trio_templar.commands.command import CommandError, ExitStatus, UsageError
from trio_templar.commands.connecting import Ended
from trio_templar.commands.printer import Printer, shown
from trio_templar.core.dialects import Since
from trio_templar.core.rooms import WILDCARD, Room

# A client that sends `ping` this often is not idle, not even in dialect 3, and notices when the gateway has gone.
KEEP_ALIVE_SECONDS: Final = 30.0
MAX_PAUSE_SECONDS: Final = 30.0
# How long to wait for the gateway's half of the goodbye; a second Ctrl-C does not wait.
GOODBYE_SECONDS: Final = 1.0
# Close codes from here on are a decision about this client: coming back would not change it.
DECIDED: Final = 4000


class _Message(msgspec.Struct, rename="camel"):
    """What a gateway says, in either dialect; of a publication, `data` as it was sent."""

    type: str = ""
    code: str = ""
    message: str = ""
    reason: str = ""
    request_id: int | str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    lost: int | None = 0
    at: str | None = None
    recovered: bool = False
    is_authorized: bool = msgspec.field(default=True, name="is_authorized")
    allowed_rooms: list[dict[str, Any]] = msgspec.field(default_factory=list, name="allowed_rooms")


class Subscriber:
    """A client that listens: `connect` opens its websocket, and what comes goes to `printer`.

    `since` is the position to begin behind in each room; None begins now. One that reconnects asks for positions in any
    case, so that it misses nothing.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[WebsocketClient]],
        printer: Printer,
        rooms: Sequence[Room],
        *,
        name: str,
        reconnect: bool,
        since: Since = msgspec.UNSET,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._connect = connect
        self._printer = printer
        self._wanted = rooms
        self._name = name
        self._reconnect = reconnect
        self._chance = chance
        self._since = None if reconnect and since is msgspec.UNSET else since
        self._admitted = False
        self._rooms: dict[int | str, Room] = {}
        self._numbers: dict[str, int] = {}
        self._positions: dict[str, str] = {}
        self._entered: set[int | str] = set()  # on any connection

    async def show_rooms(self) -> int:
        """Print the rooms this client may enter, one a line."""
        try:
            async with self._websocket() as client:
                for room in await self._welcome(client):
                    self._printer.write(shown(room))
        except CommandError as error:
            raise CommandError(error.status, f"{self._name}: {error}") from error
        return ExitStatus.DONE

    async def listen(self, seconds: float | None) -> int:
        """Listen until enough came or `seconds` are over; returns FAILED if a number was wanted and fewer came.

        Raises CommandError: if the connection ends and is not to come back, or is refused.
        """
        with trio.CancelScope() as scope:
            if seconds is not None:
                scope.deadline = trio.current_time() + seconds
            try:
                await self._listen()
            except CommandError as error:
                raise CommandError(error.status, f"{self._name}: {error}") from error
        if self._printer.shortfall:
            self._printer.note(f"{self._name}: {self._printer.shortfall} came within {seconds:g} s")
            return ExitStatus.FAILED
        return ExitStatus.DONE

    async def _listen(self) -> None:
        pauses = self._pauses()
        while not self._printer.done:
            try:
                await self._connection()
            except Ended as error:
                if not self._reconnect:
                    raise
                if self._admitted:
                    pauses = self._pauses()
                pause = next(pauses)
                self._printer.note(f"{self._name}: {error}; again in {pause:.1f} s")
                await trio.sleep(pause)

    def _pauses(self) -> Iterator[float]:
        """Yield seconds to wait: longer each time, and never the same for all clients of a gateway that restarts."""
        pause = 1.0
        while True:
            yield pause * (0.5 + self._chance() / 2)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    async def _connection(self) -> None:
        """Serve one connection until enough came."""
        self._admitted = False
        async with self._websocket() as client:
            await self._subscribe(client, await self._welcome(client))
            while not self._printer.done:
                self._hear(await self._receive(client))

    @asynccontextmanager
    async def _websocket(self) -> AsyncIterator[WebsocketClient]:
        """Dial, and say goodbye at the end, whatever brings it. Raises CommandError: if the gateway ends it."""
        client = await self._connect()
        client.positions = self._positions
        try:
            yield client
        except Closed as closed:
            raise self._end(closed) from closed
        except trio.BrokenResourceError as error:
            raise Ended(ExitStatus.ENDED, "the connection was lost") from error
        finally:
            with trio.move_on_after(GOODBYE_SECONDS, shield=True):
                await client.aclose()

    def _end(self, closed: Closed) -> CommandError:
        kind = CommandError if closed.close.code >= DECIDED else Ended
        return kind(ExitStatus.ENDED, f"closed with {closed.close.code}: {closed.close.reason or 'no reason given'}")

    async def _welcome(self, client: WebsocketClient) -> list[dict[str, Any]]:
        message = await self._receive(client)
        if not message.is_authorized:
            raise CommandError(ExitStatus.REFUSED, "not authorized")
        self._admitted = True
        return message.allowed_rooms

    async def _subscribe(self, client: WebsocketClient, allowed: Sequence[Room]) -> None:
        """Subscribe to what is wanted, one by one: replies of dialect 3 do not say which room they are for."""
        wanted = self._wanted or [room for room in allowed if WILDCARD not in room.values()]
        if not wanted:
            choice = ", ".join(map(shown, allowed)) or "none"
            raise UsageError(f"listen to which ROOM? Allowed: {choice}")
        self._printer.shows_rooms = len(wanted) > 1
        self._rooms = {self._number(room): room for room in wanted}
        for number, room in self._rooms.items():
            asked = {"type": "subscribe", "requestId": number, "room": room}
            since = self._positions.get(str(number), self._since)
            await self._send(client, asked if since is msgspec.UNSET else {**asked, "since": since})
            while not (message := await self._receive(client)).code:
                self._hear(message)
            if message.code != "success":
                raise CommandError(ExitStatus.REFUSED, f"{message.message}: {shown(room)}")
            if (isinstance(since, str) or number in self._entered) and not message.recovered:
                self._printer.missed(room, message.at)
            self._entered.add(number)
        self._printer.note(f"{self._name}: listening to {', '.join(starmap(self._place, self._rooms.items()))}")

    def _number(self, room: Room) -> int:
        """Return the requestId for `room`: the same on each connection, because its position is known by that."""
        return self._numbers.setdefault(json.dumps(room, sort_keys=True), len(self._numbers) + 1)

    def _place(self, number: int | str, room: Room) -> str:
        at = self._positions.get(str(number)) if self._printer.shows_positions else None
        return f"{shown(room)} from {at}" if at else shown(room)

    def _hear(self, message: _Message) -> None:
        room = self._rooms.get(message.request_id or "")
        if room is None:
            return
        match message.type:
            case "publish":
                self._printer.published(room, bytes(message.data), message.at)
            case "gap" if (lost := message.lost) is not None:
                self._printer.lost(room, lost)
            case "gap":
                self._printer.missed(room, message.at)
            case "unsubscribed":
                del self._rooms[message.request_id or ""]
                self._printer.note(f"{self._name}: no longer in {shown(room)}: {message.reason or 'no reason given'}")
                if not self._rooms:
                    raise CommandError(ExitStatus.ENDED, "the gateway ended the last subscription")

    async def _send(self, client: WebsocketClient, message: Any) -> None:
        with trio.move_on_after(KEEP_ALIVE_SECONDS):
            await client.send(message)
            return
        raise Ended(ExitStatus.ENDED, f"it has read nothing for {KEEP_ALIVE_SECONDS:g} s")

    async def _receive(self, client: WebsocketClient) -> _Message:
        """Return the next message but `pong`; a gateway that is silent for long gets a `ping`."""
        while True:
            with trio.move_on_after(KEEP_ALIVE_SECONDS) as scope:
                text = await client.receive_text()
            if scope.cancelled_caught:
                await self._send(client, "ping")
                text = await self._answer(client)
            if text != "pong":
                return self._parsed(text)

    async def _answer(self, client: WebsocketClient) -> str:
        with trio.move_on_after(KEEP_ALIVE_SECONDS):
            return await client.receive_text()
        raise Ended(ExitStatus.ENDED, f"silent for {2 * KEEP_ALIVE_SECONDS:g} s")

    def _parsed(self, text: str) -> _Message:
        try:
            return msgspec.json.decode(text, type=_Message)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise CommandError(ExitStatus.FAILED, f"this is not from a gateway: {text[:100]!r}") from error
