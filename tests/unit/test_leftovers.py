"""What a connection leaves behind when it is over: nothing that only the garbage collector could take away."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.unit.conftest import CAR, RIDE, quiet
from tests.unit.test_tls import Authority
from trio_templar import Refused
from trio_templar.testing import FakeBackend, MemoryGateway, Rejected, WebsocketClient, open_gateway


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Run without the garbage collector, as good as a gateway of ours does."""
    logging.disable()  # pytest keeps the records, and they keep what they are about
    gc.collect()
    gc.disable()
    gc.freeze()  # what is there already is not looked at
    yield
    gc.unfreeze()
    gc.enable()
    logging.disable(logging.NOTSET)


async def connect(running: MemoryGateway) -> WebsocketClient:
    host, _, port = running.gateway.websocket_urls[0].removeprefix("ws://").partition("/")[0].rpartition(":")
    return WebsocketClient(await trio.open_tcp_stream(host, int(port)))


async def leave(client: WebsocketClient) -> None:
    """Close the stream of `client`, and its own parser, which is a circle until then."""
    await client.stream.aclose()
    if client._protocol.connection is not None:
        client._protocol.connection._proto._parse_more.close()


async def enter(running: MemoryGateway) -> WebsocketClient:
    client = await connect(running)
    await client.open()
    await client.receive()
    await client.subscribe(1, CAR)
    await client.subscribe(2, RIDE)
    return client


async def says_goodbye(running: MemoryGateway) -> None:
    client = await enter(running)
    await client.aclose()
    await leave(client)


async def hangs_up(running: MemoryGateway) -> None:
    client = await enter(running)
    await leave(client)


async def resets(running: MemoryGateway) -> None:
    client = await enter(running)
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await leave(client)


async def breaks_the_protocol(running: MemoryGateway) -> None:
    client = await enter(running)
    await client.stream.send_all(b"\xff" * 10)
    await leave(client)


async def is_cut(running: MemoryGateway) -> None:
    client = await enter(running)
    with trio.fail_after(10):
        while not running.gateway.statistics().drops["bytes"]:
            await running.gateway.publish([CAR, RIDE], "x" * 50_000)
    await leave(client)


async def answer_of(running: MemoryGateway, request: bytes) -> bytes:
    stream = (await connect(running)).stream
    await stream.send_all(request)
    answer = b""
    while data := await stream.receive_some():
        answer += data
    await stream.aclose()
    return answer


async def is_refused(running: MemoryGateway) -> None:
    running.backend.error = Refused()
    client = await connect(running)
    with pytest.raises(Rejected):
        await client.open()
    await leave(client)


async def asks_for_nothing_we_have(running: MemoryGateway) -> None:
    assert b" 404 " in await answer_of(running, b"GET /elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n")


async def talks_nonsense(running: MemoryGateway) -> None:
    assert b" 400 " in await answer_of(running, b"\xff\r\n\r\n")


async def leaves_before_it_is_let_in(running: MemoryGateway) -> None:
    await (await connect(running)).stream.aclose()


async def leaves_while_the_api_is_asked(running: MemoryGateway) -> None:
    running.backend.seconds = 1000
    client = await connect(running)
    with trio.move_on_after(0.02):
        await client.open()
    await leave(client)


def ours() -> Counter[str]:
    """Count what lives of ours and of the libraries, tasks and sockets, and exceptions, which hold frames."""
    modules = ("trio_templar.", "trio_websocket", "wsproto", "h11")
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        kinds = trio.SocketStream | trio.lowlevel.Task | trio.Nursery | BaseException
        if kind.__module__ == "trio_templar.http.trends":  # grows with time
            continue
        if kind.__module__.startswith(modules) or isinstance(each, kinds):
            found[f"{kind.__module__}.{kind.__qualname__}"] += 1
    return found


async def grown(before: Counter[str]) -> Counter[str]:
    """What there is more than before; what goes has a minute for that, because sockets and the machine may be slow."""
    with trio.move_on_after(60):
        while more := ours() - before:
            await trio.sleep(0.01)
    return more


Behaviour = Callable[[MemoryGateway], Awaitable[None]]
CLIENTS: list[Behaviour] = [says_goodbye, hangs_up, resets, breaks_the_protocol, is_cut]
NOT_LET_IN: list[Behaviour] = [
    *(is_refused, asks_for_nothing_we_have, talks_nonsense),
    *(leaves_before_it_is_let_in, leaves_while_the_api_is_asked),
]
BOUNDS = {"bind": ("127.0.0.1:0",), "outbox_bytes": 200_000, "goodbye_seconds": 0.05}


@pytest.mark.parametrize("behave", [*CLIENTS, *NOT_LET_IN])
async def test_nothing_stays_of_a_client_that(behave: Behaviour, no_collector: None) -> None:
    async with open_gateway(quiet(**BOUNDS), backend=FakeBackend([CAR, RIDE])) as running:
        for _ in range(2):  # what is made once is made now
            await behave(running)
        running.backend.requests.clear()
        await trio.sleep(0.1)
        before = ours()
        for _ in range(3):
            await behave(running)
        running.backend.requests.clear()
        assert await grown(before) == {}


async def test_nothing_stays_of_a_client_behind_tls(tmp_path: Path, no_collector: None) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("any")
    async with open_gateway(quiet(**BOUNDS, tls_cert=cert, tls_key=key), backend=FakeBackend([CAR, RIDE])) as running:
        before: Counter[str] = Counter()
        for turn in range(5):
            host, _, port = running.gateway.websocket_urls[0].removeprefix("wss://").partition("/")[0].rpartition(":")
            transport = await trio.open_tcp_stream(host, int(port))
            client = WebsocketClient(trio.SSLStream(transport, authority.client, server_hostname=host))
            await client.open()
            await client.receive()
            await client.subscribe(1, CAR)
            await client.aclose()
            await leave(client)
            del client, transport
            running.backend.requests.clear()
            await trio.sleep(0.1)
            before = before if turn > 1 else ours()
        before["trio.SocketStream"] += 5  # the client's own are in circles of Trio's
        assert await grown(before) == {}
