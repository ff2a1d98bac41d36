"""Hooks: calls of the API, or of a program, when a client connects, pings or leaves. One that fails is only logged."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from trio_templar.core.forwarding import ClientRequest, Header
from trio_templar.errors import Close

logger = logging.getLogger("trio_templar.hooks")


@dataclass(frozen=True, slots=True)
class Client:
    """An admitted client, as hooks see it. `headers` go with each call for it; `close` is set at its end."""

    id: str
    user_id: Any
    request: ClientRequest
    headers: Sequence[Header] = field(default=(), repr=False)
    close: Close | None = None


Hook = Callable[[Client], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of a gateway; each is optional.

    `connect` is called after the welcome frame, `ping` when the client says `ping` (at most once in
    `ping_hook_seconds`), and `disconnect` after the close. The calls for one client run one after another. A
    call that takes longer than `hook_seconds` is cancelled; that, or an exception in it, is only logged.
    """

    connect: Hook | None = None
    ping: Hook | None = None
    disconnect: Hook | None = None

    def __bool__(self) -> bool:
        return any((self.connect, self.ping, self.disconnect))


class HookQueue:
    """The hook calls of a gateway: at most `max_calls` at once, in `nursery`; others wait.

    Clients take turns. The deadline of a call begins when its turn has come, however long it waited.
    """

    def __init__(self, nursery: trio.Nursery, max_calls: int) -> None:
        self.nursery = nursery
        self._max_calls = max_calls
        self._under_way = 0
        self._waiting: deque[HookCalls] = deque()
        self._left_out = 0

    def add(self, calls: HookCalls, max_waiting: int) -> bool:
        """Give `calls` their turn, now or later; return False if `max_waiting` clients wait for theirs already."""
        if self._under_way < self._max_calls:
            self._under_way += 1
            self.nursery.start_soon(self._call_loop, calls)
        elif len(self._waiting) < max_waiting:
            self._waiting.append(calls)
        else:
            if not self._left_out:  # one line at the first, one with their number once no call waits
                logger.warning("hook calls are left out: %d wait already (max_connections)", len(self._waiting))
            self._left_out += 1
            return False
        return True

    def close(self) -> None:
        """Log how many calls had no time; call it when the nursery is over."""
        self._say_left_out()
        unfinished = self._under_way + len(self._waiting)
        if unfinished:
            logger.warning("%d hook calls were not made, or not to their end: the gateway had to end", unfinished)

    async def _call_loop(self, calls: HookCalls) -> None:
        """Make calls until none waits. A loop that is cancelled still counts as under way: see `close`."""
        self._waiting.append(calls)  # at the end: whatever waits already was there before
        while self._waiting:
            calls = self._waiting.popleft()
            if await calls.call_next():
                self._waiting.append(calls)
        self._say_left_out()
        self._under_way -= 1

    def _say_left_out(self) -> None:
        if self._left_out:
            logger.warning("%d hook calls were left out", self._left_out)
        self._left_out = 0


@asynccontextmanager
async def open_hook_queue(max_calls: int) -> AsyncIterator[HookQueue]:
    """Open a queue of hook calls; the end waits for those that are under way or wait."""
    try:
        async with trio.open_nursery() as nursery:
            queue = HookQueue(nursery, max_calls)
            yield queue
    finally:
        queue.close()


@dataclass(frozen=True, slots=True)
class HookCaller:
    """Makes the hook calls of a gateway's clients, in `queue`, where at most `max_waiting` of them wait."""

    hooks: Hooks
    queue: HookQueue
    api_headers: Callable[[ClientRequest], Sequence[Header]]
    seconds: float
    ping_seconds: float
    max_waiting: int

    def calls_for(self, id_: str, user_id: Any, request: ClientRequest) -> HookCalls:
        """Return the calls of one client."""
        client = Client(id_, user_id, request, self.api_headers(request))
        return HookCalls(self, client)


class HookCalls:
    """The hook calls of one connection: one at a time, in order. They can outlive the connection.

    A connect and a ping are under way or wait at most, and the disconnect behind them.
    """

    __slots__ = ("_caller", "_client", "_next_ping", "_queued", "_todo")

    def __init__(self, caller: HookCaller, client: Client) -> None:
        self._caller = caller
        self._client = client
        self._next_ping = trio.current_time()
        self._queued = False
        self._todo: list[tuple[str, Hook, Client]] = []

    def connected(self) -> None:
        """Call the connect hook."""
        self._call("connect", self._caller.hooks.connect, self._client)

    def pinged(self) -> None:
        """Call the ping hook, unless a call is under way or waits, or the last one was less than `ping_seconds` ago."""
        now = trio.current_time()
        if not self._queued and now >= self._next_ping:
            self._next_ping = now + self._caller.ping_seconds
            self._call("ping", self._caller.hooks.ping, self._client)

    def disconnected(self, close: Close) -> None:
        """Call the disconnect hook when the other calls are over."""
        self._call("disconnect", self._caller.hooks.disconnect, replace(self._client, close=close))

    def _call(self, name: str, hook: Hook | None, client: Client) -> None:
        if hook is None:
            return
        # A client has one place in the queue, however many of its calls wait.
        self._queued = self._queued or self._caller.queue.add(self, self._caller.max_waiting)
        if self._queued:
            self._todo.append((name, hook, client))

    async def call_next(self) -> bool:
        """Make the first call that is to be made; return whether another one is left."""
        await self._make(*self._todo.pop(0))
        self._queued = bool(self._todo)
        return self._queued

    async def _make(self, name: str, hook: Hook, client: Client) -> None:
        try:
            with trio.fail_after(self._caller.seconds):
                await hook(client)
        except trio.TooSlowError:
            seconds = self._caller.seconds
            logger.warning("%s hook for %s: no answer within %g s (hook_seconds)", name, client.id, seconds)
        except Exception as error:  # noqa: BLE001  # a hook is foreign code
            logger.warning("%s hook for %s failed: %s: %s", name, client.id, type(error).__name__, error)
