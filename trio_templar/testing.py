"""What the tests of an embedding program use: a gateway on memory streams, a fake backend, a client.

    async with open_gateway() as running:
        client = await running.connect()
        assert await client.receive() == {"allowed_rooms": []}

Nothing here opens a socket, so all of it runs under `trio.testing.MockClock`.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
import trio.testing

from trio_templar.client import Closed, Rejected, WebsocketClient
from trio_templar.clients.bootstrap import Bootstrap
from trio_templar.clients.hooks import Hooks
from trio_templar.core.forwarding import ClientRequest
from trio_templar.core.rooms import Room
from trio_templar.core.settings import Settings
from trio_templar.gateway import Gateway
from trio_templar.serving import serve

__all__ = ["Closed", "FakeBackend", "MemoryGateway", "MemoryListener", "Rejected", "WebsocketClient", "open_gateway"]

StreamPair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


class FakeBackend:
    """A bootstrap callable: admits every client to `allowed_rooms` after `seconds`, or raises `error`.

    `requests` are those of the clients, in order. `answer` is merged into each answer.
    """

    def __init__(self, allowed_rooms: Sequence[Room] = ()) -> None:
        self.allowed_rooms = list(allowed_rooms)
        self.answer: dict[str, Any] = {}
        self.seconds = 0.0
        self.error: Exception | None = None
        self.requests: list[ClientRequest] = []

    async def __call__(self, request: ClientRequest) -> Mapping[str, Any]:
        """Answer one bootstrap."""
        self.requests.append(request)
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return {"allowed_rooms": self.allowed_rooms, **self.answer}


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener that clients in this program reach, by `connect`. At most 1000 of them wait to be accepted."""

    def __init__(self, make_pair: StreamPair = trio.testing.memory_stream_pair) -> None:
        self._make_pair = make_pair
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](1000)

    def connect(self, make_pair: StreamPair | None = None) -> trio.abc.Stream:
        """Return the client's end of a new stream. Raises trio.WouldBlock: if 1000 others wait to be accepted."""
        ours, theirs = (make_pair or self._make_pair)()
        self._send.send_nowait(theirs)
        return ours

    async def accept(self) -> trio.abc.Stream:
        """Return the gateway's end of the next stream. Blocks until there is one."""
        return await self._receive.receive()

    async def aclose(self) -> None:
        """Accept no more."""
        self._send.close()
        self._receive.close()
        await trio.lowlevel.checkpoint()


@dataclass
class MemoryGateway:
    """A running gateway on memory streams. `served` is set when `serve` has returned by itself."""

    gateway: Gateway
    backend: FakeBackend
    listener: MemoryListener
    served: trio.Event = field(default_factory=trio.Event)

    async def connect(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        target: str = "/ws/",
        make_pair: StreamPair | None = None,
    ) -> WebsocketClient:
        """Return a client with an open websocket.

        Raises Rejected: if the gateway answers with an HTTP error. Raises Closed: if it hangs up.
        """
        client = WebsocketClient(self.listener.connect(make_pair))
        try:
            await client.open(target, headers or {})
        except (Rejected, Closed):
            await trio.aclose_forcefully(client.stream)
            raise
        return client

    async def subscriber(self, request_id: Any, room: Room) -> WebsocketClient:
        """Return a client that is subscribed to `room`; it has received its welcome and the reply already."""
        client = await self.connect()
        await client.receive()
        reply = await client.subscribe(request_id, room)
        assert reply["code"] == "success", reply
        return client


@asynccontextmanager
async def open_gateway(
    settings: Settings | None = None,
    *,
    backend: FakeBackend | None = None,
    bootstrap: Bootstrap | None = None,
    hooks: Hooks | None = None,
) -> AsyncIterator[MemoryGateway]:
    """Run a gateway that only memory streams reach (unless `settings` bind more); it is cancelled at the end.

    `bootstrap` answers for the API, or else `backend` does; without either, clients may enter no room.
    """
    settings = settings or Settings(bind=(), trigger_bind="")
    backend = backend or FakeBackend()
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        run = partial(serve, settings, bootstrap=bootstrap or backend, hooks=hooks, listeners=[listener])
        served = trio.Event()

        async def run_to_the_end(*, task_status: trio.TaskStatus[Gateway]) -> None:
            await run(task_status=task_status)
            served.set()

        gateway = await nursery.start(run_to_the_end)
        yield MemoryGateway(gateway, backend, listener, served)
        nursery.cancel_scope.cancel()


def __getattr__(name: str) -> Any:
    """Return what a name of version 0.1.0 stands for now."""
    if name != "House":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("trio_templar.testing.House is called MemoryGateway now", DeprecationWarning, stacklevel=2)
    return MemoryGateway
