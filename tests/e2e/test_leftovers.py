"""What a client leaves behind inside the gateway, counted: tasks, subscriptions, slots, bytes that wait."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Mapping
from typing import Any

import trio
import trio.lowlevel
import trio.testing

from tests.e2e.processes import PATIENCE_SECONDS
from trio_templar import ClientRequest, Gateway, Settings, serve
from trio_templar.clients.connection import Connection
from trio_templar.testing import WebsocketClient

CAR = {"target": "car", "car": 1}
HEAD = (
    b"GET /ws/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SETTINGS = Settings(bind=("127.0.0.1:0",), trigger_bind="", max_bootstraps=4)


class Backend:
    """Answers at once, or never."""

    answers = True

    async def __call__(self, request: ClientRequest) -> Mapping[str, Any]:
        if request.param("never"):
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return {"allowed_rooms": [CAR]}


def tasks() -> int:
    """How many tasks the program has, those of Trio aside."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    todo, count = [root], 0
    while todo:
        count += 1
        todo += [task for nursery in todo.pop().child_nurseries for task in nursery.child_tasks]
    return count


def living_connections() -> int:
    """How many connections the memory holds."""
    gc.collect()
    return sum(isinstance(found, Connection) for found in gc.get_objects())


async def dial(gateway: Gateway) -> trio.SocketStream:
    host, _, port = gateway.websocket_urls[0].removeprefix("ws://").partition("/")[0].rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def settled(gateway: Gateway, expected: int) -> None:
    """Wait until there are `expected` tasks and nobody is connected."""
    with trio.fail_after(PATIENCE_SECONDS):
        while tasks() != expected or gateway.statistics().connections:
            await trio.sleep(0.005)


async def test_leaving_at_each_stage_leaves_nothing_inside() -> None:
    async with trio.open_nursery() as nursery:
        gateway = await nursery.start(run, Backend())
        await trio.testing.wait_all_tasks_blocked()  # who accepts has begun
        before = tasks()
        for data in (b"", HEAD[:30], HEAD, HEAD.replace(b"/ws/", b"/ws/?never=1"), b"\xff\r\n\r\n"):
            for reset, at_once in itertools.product((True, False), repeat=2):
                for _ in range(10):  # more than there are bootstrap slots
                    stream = await dial(gateway)
                    await stream.send_all(data)
                    if not at_once:
                        await trio.testing.wait_all_tasks_blocked()  # it did all that it does with so much
                    if reset:
                        stream.setsockopt(*_LINGER)
                    trio.lowlevel.notify_closing(stream.socket)
                    stream.socket.close()
                await settled(gateway, before)
        statistics = gateway.statistics()
        assert (statistics.rooms, statistics.subscriptions, statistics.waiting_bytes) == (0, 0, 0)
        async with await dial(gateway) as stream:  # there is a slot for it
            client = WebsocketClient(stream)
            await client.open()
            assert await client.receive() == {"allowed_rooms": [CAR]}
            await client.aclose()
        await settled(gateway, before)
        nursery.cancel_scope.cancel()


async def test_a_slow_subscriber_that_is_reset_leaves_nothing_inside() -> None:
    async with trio.open_nursery() as nursery:
        gateway = await nursery.start(run, Backend())
        await trio.testing.wait_all_tasks_blocked()  # who accepts has begun
        before = tasks()
        for _ in range(5):
            stream = await dial(gateway)
            client = WebsocketClient(stream)
            await client.open()
            await client.receive()
            await client.subscribe("a", CAR)
            while not gateway.statistics().waiting_bytes:
                await gateway.publish([CAR], "x" * 100_000)
            stream.setsockopt(*_LINGER)
            await trio.aclose_forcefully(stream)
            await settled(gateway, before)
        statistics = gateway.statistics()
        assert (statistics.rooms, statistics.subscriptions, statistics.waiting_bytes) == (0, 0, 0)
        assert statistics.slow_connections == 0
        with trio.fail_after(PATIENCE_SECONDS):  # the supervisor's notes of who was slow last until its next look
            while living_connections():
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


_LINGER = (trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, (1).to_bytes(4, "little") + (0).to_bytes(4, "little"))


async def run(backend: Backend, *, task_status: trio.TaskStatus[Gateway]) -> None:
    await serve(SETTINGS, bootstrap=backend, task_status=task_status)
