"""Clients that a proxy cuts off again and again, at any byte, and that come back with their positions."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import trio

from tests.e2e.clients import masked_text

# What a publication has beside its number.
PAD = "x" * 190
# Bytes that no connection has.
NEVER = 1 << 62
# Who is held up at times is so on each of so many connections.
HOLD_EACH = 6


class Ended(Exception):
    """The connection is over."""


class Wire:
    """The bytes of one connection, as a client reads them. At its end `rest` is a frame, or a head, that was torn."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.rest = bytearray()

    async def head(self) -> bytes:
        """Return the head of the answer to a handshake."""
        while (end := self.rest.find(b"\r\n\r\n")) < 0:
            await self._more()
        return self._take(end + 4)

    async def frame(self) -> tuple[int, bytes]:
        """Return the first byte of the next frame and its payload, which is under 64 KiB."""
        await self._reach(2)
        start, size = 2, self.rest[1]
        if size == 126:
            await self._reach(4)
            start, size = 4, int.from_bytes(self.rest[2:4])
        assert size < 1 << 16, self.rest[:10]
        await self._reach(start + size)
        frame = self._take(start + size)
        return frame[0], frame[start:]

    async def _reach(self, size: int) -> None:
        while len(self.rest) < size:
            await self._more()

    async def _more(self) -> None:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            raise Ended from None
        if not data:
            raise Ended
        self.rest += data

    def _take(self, size: int) -> bytes:
        taken = bytes(self.rest[:size])
        del self.rest[:size]
        return taken


class Heard:
    """What a client was told in one room, over all its connections. What is not as promised fails at once.

    `told` are those that it was told to have lost since its last number; None: it was told to fetch.
    """

    def __init__(self, room: Any, request_id: int) -> None:
        self.room = room
        self.request_id = request_id
        self.at: str | None = None
        self.numbers: list[int] = []
        self.told: int | None = 0
        self.lost = self.returns = self.recovered = 0
        self.complete = self.answered = False

    def subscribe(self) -> bytes:
        """Return the frame that asks for what came since."""
        self.answered = False
        message = {"type": "subscribe", "requestId": self.request_id, "room": self.room, "since": self.at}
        return masked_text(json.dumps(message))

    def hear(self, message: dict[str, Any]) -> None:
        """Take one message of this subscription."""
        match message:
            case {"code": "success"}:
                self._hear_reply(message)
            case {"type": "publish", "at": at, "data": [number, pad]}:
                self._hear_number(number)
                assert pad.startswith(PAD)
                self.at = at
            case {"type": "gap", "lost": lost}:
                assert lost > 0
                self.told = None if self.told is None else self.told + lost
            case _:
                raise AssertionError(message)

    def _hear_reply(self, message: dict[str, Any]) -> None:
        assert not self.answered
        self.answered = True
        if self.at is None:
            assert "recovered" not in message, message
        else:
            self.returns += 1
            self.recovered += message["recovered"]
            # Who was told to fetch, and was cut off before the next number, comes back with the position it was told.
            self.told = 0 if message["recovered"] and self.told is not None else None
        self.at = message["at"]

    def _hear_number(self, number: int) -> None:
        assert self.answered
        last = self.numbers[-1] if self.numbers else -1
        missing = number - last - 1
        assert missing >= 0, f"{number} came behind {last}"
        assert missing == self.told or self.told is None, f"{number} came behind {last}, and {self.told} were told"
        self.lost += missing
        self.told = 0
        self.numbers.append(number)


class Storm:
    """What all clients and the publisher of one test share. `published` are the numbers that were answered with 200.

    Once `calm_at` is set nobody is cut off any more, nor held up: it is how many were posted by then.
    """

    def __init__(self, address: tuple[str, int], head: bytes, seed: int) -> None:
        self.address = address
        self.head = head
        self.random = random.Random(seed)
        self.published: list[int] = []
        self.calm_at: int | None = None
        self.clients: list[Client] = []

    @property
    def calm(self) -> bool:
        return self.calm_at is not None

    def total(self, name: str) -> int:
        """Return the sum of a number of all clients."""
        return sum(getattr(client, name) for client in self.clients)

    def heard(self, room: Any) -> list[Heard]:
        """Return what each client that is in `room` was told there."""
        return [heard for client in self.clients for heard in client.heard if heard.room == room]

    def sum_of(self, room: Any, name: str) -> int:
        """Return the sum of a number of all clients in `room`."""
        return sum(getattr(heard, name) for heard in self.heard(room))


class Proxy:
    """Stands between a client and the gateway, and cuts their connections: cleanly or by a RST, to both sides.

    It passes on `to_client` and `to_gateway` bytes first. After `hold_at` of those to the client it reads nothing for
    as long as it takes to publish `hold_for`: what the gateway sends meanwhile stays there.
    """

    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self.port = 0
        self.to_client = self.to_gateway = NEVER
        self.hold_at, self.hold_for = NEVER, 0
        self.reset = False
        self.cuts = 0

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve the client that owns it, until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._relay, listeners)

    async def _relay(self, client: trio.SocketStream) -> None:
        with trio.socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)  # what is held up is held up at the gateway
            await sock.connect(self._storm.address)
            gateway = trio.SocketStream(sock)
            async with client:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_on, client, gateway, self.to_gateway, NEVER, nursery.cancel_scope)
                    nursery.start_soon(
                        self._pass_on, gateway, client, self.to_client, self.hold_at, nursery.cancel_scope
                    )
                if self.reset:
                    for stream in (client, gateway):
                        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, size: int, hold_at: int, both: trio.CancelScope
    ) -> None:
        with suppress(trio.BrokenResourceError):
            while size > 0 or self._storm.calm:
                if hold_at <= 0:
                    await self._hold()
                    hold_at = NEVER
                data = await source.receive_some(65_536 if self._storm.calm else min(size, hold_at, 65_536))
                if not data:
                    break
                await sink.send_all(data)
                size, hold_at = size - len(data), hold_at - len(data)
            else:
                self.cuts += 1
        both.cancel()

    async def _hold(self) -> None:
        until = len(self._storm.published) + self.hold_for
        while len(self._storm.published) < until and not self._storm.calm:
            await trio.sleep(0.01)


class Client:
    """Lives through the storm: connects, reads until it is cut off, is away for up to a second, comes back.

    `torn` counts the connections that ended in the middle of a frame.
    """

    def __init__(self, storm: Storm, rooms: Iterable[Any], *, most: int, hold_for: int = 0) -> None:
        self._storm = storm
        self._most = most
        self._hold_for = hold_for
        self._random = random.Random(storm.random.random())
        self.proxy = Proxy(storm)
        self.heard = [Heard(room, number) for number, room in enumerate(rooms)]
        self.torn = self._cuts_chosen = 0
        self.joined, self.stays, self.done = trio.Event(), trio.Event(), trio.Event()
        storm.clients.append(self)

    @property
    def cuts(self) -> int:
        return self.proxy.cuts

    async def run(self) -> None:
        """Live until it has what was published last in all rooms."""
        self.proxy.to_client = self._random.randint(5000, self._most)  # at first it is cut once it has joined
        while True:
            if self.joined.is_set():
                self._choose_cut()
            wire = Wire(await trio.open_tcp_stream("127.0.0.1", self.proxy.port))
            async with wire.stream:
                try:
                    await self._live(wire)
                except (Ended, trio.BrokenResourceError):
                    self.torn += bool(wire.rest)
            if self.done.is_set():
                return
            await trio.sleep(self._random.random())  # how long it is away

    def _choose_cut(self) -> None:
        """Choose the end of the next connection: half of them in what is said first, some before all is asked."""
        choose, proxy = self._random, self.proxy
        self._cuts_chosen += 1
        proxy.reset = choose.random() < 0.5
        proxy.to_client = choose.randint(1, 2000 if choose.random() < 0.5 else self._most)
        proxy.to_gateway = choose.randint(1, 600) if choose.random() < 0.05 else NEVER
        proxy.hold_at, proxy.hold_for = NEVER, self._hold_for
        if self._hold_for and self._cuts_chosen % HOLD_EACH == 1:
            proxy.to_client, proxy.to_gateway = self._most, NEVER
            proxy.hold_at = choose.randint(1000, self._most // 2)

    async def _live(self, wire: Wire) -> None:
        await wire.stream.send_all(self._storm.head)
        head = await wire.head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        first, welcome = await wire.frame()
        assert (first, welcome[:18]) == (0x81, b'{"allowed_rooms": ')
        await wire.stream.send_all(b"".join([heard.subscribe() for heard in self.heard]))
        while not self.done.is_set():
            first, payload = await wire.frame()
            if first == 0x89:
                await wire.stream.send_all(b"\x8a\x80\0\0\0\0")
            elif first == 0x88:
                raise Ended
            else:
                self._hear(json.loads(payload))

    def _hear(self, message: dict[str, Any]) -> None:
        heard = self.heard[message["requestId"]]
        heard.hear(message)
        answered = all(other.answered for other in self.heard)
        if message.get("type") == "publish":
            heard.complete = message["data"][1].endswith("last")
            # What was published in the calm has come through a proxy that cuts no more.
            if answered and self._storm.calm_at is not None and heard.numbers[-1] >= self._storm.calm_at:
                self.stays.set()
        if answered:
            self.joined.set()
        if all(other.complete for other in self.heard):
            self.done.set()


class Publisher:
    """Posts to a gateway over one connection, without waiting for the answers, which come in order: all are successes.

    Numbers are `published` once they are answered.
    """

    def __init__(self, stream: trio.SocketStream, published: list[int]) -> None:
        self._stream = stream
        self._published = published
        self._asked: deque[int | None] = deque()
        self.posted = 0

    async def post(self, *triggers: tuple[Sequence[Any], Any], number: int | None = None) -> None:
        """Publish, in one request, each data to its rooms."""
        body = json.dumps([{"rooms": rooms, "data": data} for rooms, data in triggers]).encode()
        head = f"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        self._asked.append(number)
        self.posted += number is not None
        await self._stream.send_all(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)

    async def read(self) -> NoReturn:
        """Read answers, until cancelled."""
        answers = b""
        while True:
            data = await self._stream.receive_some()
            assert data, answers
            answers += data
            *whole, answers = answers.split(b"publish success")
            for answer in whole:
                assert answer.startswith(b"HTTP/1.1 200 "), answer
                number = self._asked.popleft()
                if number is not None:
                    self._published.append(number)

    async def answered(self) -> None:
        """Wait until all is answered."""
        while self._asked:
            await trio.sleep(0.01)
