"""What happens elsewhere when a client connects, pings or leaves. A hook that fails is logged and harms nobody."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from trio_templar.errors import Close
from trio_templar.forwarding import ClientRequest, Header

logger = logging.getLogger("trio_templar.hooks")


@dataclass(frozen=True, slots=True)
class Client:
    """An admitted client, as hooks see it. `headers` are those that went to the API for it; `close` only at the end."""

    id: str
    user_id: Any
    request: ClientRequest
    headers: Sequence[Header] = field(default=(), repr=False)
    close: Close | None = None


Hook = Callable[[Client], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of a gateway; each is optional. Connect comes after the welcome frame, disconnect after the close."""

    connect: Hook | None = None
    ping: Hook | None = None
    disconnect: Hook | None = None

    def __bool__(self) -> bool:
        return any((self.connect, self.ping, self.disconnect))


@dataclass(frozen=True, slots=True)
class Caller:
    """Makes the hook calls of a gateway; `nursery` outlives all connections."""

    hooks: Hooks
    nursery: trio.Nursery
    api_headers: Callable[[ClientRequest], Sequence[Header]]
    seconds: float
    ping_seconds: float

    def calls_for(self, id_: str, user_id: Any, request: ClientRequest) -> HookCalls:
        """Return the calls of one client."""
        client = Client(id_, user_id, request, self.api_headers(request))
        return HookCalls(self, client)


class HookCalls:
    """The hook calls of one connection: one at a time, in order, in a nursery that outlives the connection.

    At most one call is under way and one waits, but for the disconnect, which is never left out.
    """

    __slots__ = ("_caller", "_client", "_next_ping", "_running", "_todo")

    def __init__(self, caller: Caller, client: Client) -> None:
        self._caller = caller
        self._client = client
        self._next_ping = trio.current_time()
        self._running = False
        self._todo: list[tuple[str, Hook, Client]] = []

    def connected(self) -> None:
        """Call the connect hook."""
        self._call("connect", self._caller.hooks.connect, self._client)

    def pinged(self) -> None:
        """Call the ping hook, unless a call is under way or the last one was less than `ping_seconds` ago."""
        now = trio.current_time()
        if not self._running and now >= self._next_ping:
            self._next_ping = now + self._caller.ping_seconds
            self._call("ping", self._caller.hooks.ping, self._client)

    def disconnected(self, close: Close) -> None:
        """Call the disconnect hook once the others are through."""
        self._call("disconnect", self._caller.hooks.disconnect, replace(self._client, close=close))

    def _call(self, name: str, hook: Hook | None, client: Client) -> None:
        if hook is None:
            return
        self._todo.append((name, hook, client))
        if not self._running:
            self._running = True
            self._caller.nursery.start_soon(self._call_loop)

    async def _call_loop(self) -> None:
        while self._todo:
            await self._one(*self._todo.pop(0))
        self._running = False

    async def _one(self, name: str, hook: Hook, client: Client) -> None:
        try:
            with trio.fail_after(self._caller.seconds):
                await hook(client)
        except trio.TooSlowError:
            seconds = self._caller.seconds
            logger.warning("%s hook for %s: no answer within %g s (hook_seconds)", name, client.id, seconds)
        except Exception as error:  # noqa: BLE001  # a hook is foreign code
            logger.warning("%s hook for %s failed: %s: %s", name, client.id, type(error).__name__, error)
