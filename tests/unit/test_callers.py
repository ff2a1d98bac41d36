"""Callers of the HTTP API: each connection ends, there are so many, and what they send has room or is refused."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import settled
from trio_templar.delivery.budget import Budget
from trio_templar.http.app import HttpApi, Request, Response, route_of, text
from trio_templar.http.authorization import Access, Authorization
from trio_templar.http.caller import IDLE_SECONDS, Caller
from trio_templar.http.server import LINGER_SECONDS, TOLD_CALLERS, serve_http
from trio_templar.testing import MemoryListener

GET = b"GET /now HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"


class Server:
    """An app that answers at once, later, or with what was posted; and callers on memory streams."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.later = trio.Event()
        self.listener = MemoryListener()
        self.stop = trio.Event()
        self.app = HttpApi(Authorization(Access()), max_bytes=1000, body_seconds=10, budget=budget)
        self.app.routes |= route_of("GET", "/now", self._now)
        self.app.routes |= route_of("GET", "/later", self._later)
        self.app.routes |= route_of("POST", "/echo", self._echo)

    async def _now(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        return text(200, "now")

    async def _later(self, request: Request) -> Response:
        await self.later.wait()
        return text(200, "later")

    async def _echo(self, request: Request) -> Response:
        return Response(200, await request.body.whole())

    async def call(self, data: bytes) -> Any:
        caller = self.listener.connect()
        await caller.send_all(data)
        await settled()
        return caller


@asynccontextmanager
async def server(max_callers: int = 100, budget: int = 10**6) -> AsyncIterator[Server]:
    served = Server(Budget(budget))
    async with trio.open_nursery() as nursery:
        listeners = [served.listener]  # who connects waits there
        nursery.start_soon(serve_http, served.app, listeners, served.stop.wait, lambda: 3.0, max_callers)  # noqa: ASYNC113
        yield served
        nursery.cancel_scope.cancel()


async def rest(caller: trio.abc.Stream) -> bytes:
    """What comes until the connection ends."""
    data = b""
    while some := await caller.receive_some():
        data += some
    return data


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", b""),
        (b"\r", b"HTTP/1.1 408 "),
        (b"GET /now HT", b"HTTP/1.1 408 "),
        (GET, b"HTTP/1.1 408 "),
        (GET + b"\r\n", b"HTTP/1.1 200 "),
        (GET + UPGRADE + b"\r\n", b"HTTP/1.1 200 "),
        (GET + UPGRADE + b"Sec-WebSocket-Version: 13\r\n\r\n", b"HTTP/1.1 200 "),
        (GET + UPGRADE.replace(b"websocket", b"h2c") + b"HTTP2-Settings: \r\n\r\n", b"HTTP/1.1 200 "),
        (GET + b"\r\nx", b"HTTP/1.1 200 "),
        (GET + UPGRADE + b"\r\nx", b"HTTP/1.1 200 "),
        (POST % 1 + b"xx", b"HTTP/1.1 200 "),
    ],
    ids=repr,
)
async def test_a_connection_without_a_request_under_way_ends(
    data: bytes, answer: bytes, autojump_clock: MockClock
) -> None:
    async with server() as served:
        caller = await served.call(data)
        assert (await rest(caller)).startswith(answer)
        assert trio.current_time() == IDLE_SECONDS


@pytest.mark.parametrize("data", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", GET + b"Connection: close\r\n\r\n"], ids=repr)
async def test_one_that_is_answered_for_the_last_time_ends_at_once_and_lingers(
    data: bytes, autojump_clock: MockClock
) -> None:
    async with server() as served:
        caller = await served.call(data)
        assert (await rest(caller)).startswith(b"HTTP/1.1 ")
        assert trio.current_time() == 0
        await caller.send_all(b"x" * 100)
        await trio.sleep(LINGER_SECONDS)
        await settled()
        with pytest.raises(trio.BrokenResourceError):
            await caller.send_all(b"x")


async def test_a_head_in_pieces_has_one_deadline(autojump_clock: MockClock) -> None:
    async with server() as served:
        caller = await served.call(b"G")
        for byte in b"ET /now":
            await trio.sleep(10)
            if trio.current_time() < IDLE_SECONDS:
                await caller.send_all(bytes([byte]))
        assert (await rest(caller)).startswith(b"HTTP/1.1 408 ")


async def test_one_caller_too_many_takes_the_place_of_the_longest_idle(autojump_clock: MockClock) -> None:
    async with server(max_callers=4) as served:
        callers = [await served.call(GET + b"\r\n") for _ in range(4)]
        await callers[0].send_all(GET + b"\r\n")  # now the second is idle for longest
        await settled()
        last = await served.call(GET + b"\r\n")
        assert (await last.receive_some()).startswith(b"HTTP/1.1 200 ")
        assert (await rest(callers[1])).count(b"HTTP/1.1 200 ") == 1
        assert trio.current_time() == 0
        for caller in (callers[0], *callers[2:]):
            await caller.send_all(GET + b"\r\n")
            await settled()
            assert (await caller.receive_some()).count(b"HTTP/1.1 200 ") >= 1


async def test_half_a_head_that_gives_way_is_told_why(autojump_clock: MockClock) -> None:
    async with server(max_callers=4) as served:
        half = await served.call(GET)
        for _ in range(4):
            await served.call(GET + b"\r\n")
        answer = await rest(half)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.endswith(b"\r\n\r\nothers need the place of a request head that is not whole (max_callers)\n")


async def test_where_all_have_a_request_under_way_one_more_gets_503_and_many_more_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    later = GET.replace(b"now", b"later") + b"\r\n"
    async with server(max_callers=4) as served:
        callers = [await served.call(later) for _ in range(4)]
        told = [await served.call(GET + b"\r\n") for _ in range(TOLD_CALLERS)]
        assert await rest(served.listener.connect()) == b""
        for caller in told:
            answer = await rest(caller)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 1\r\n" in answer
            assert answer.endswith(b"too many callers (max_callers)\n")
        (record,) = [record for record in caplog.records if record.getMessage() == "too many callers"]
        assert vars(record)["fields"] == {"bound": 4, "count": 1}
        served.later.set()
        for caller in callers:
            assert b"later" in await caller.receive_some()
        assert (await (await served.call(GET + b"\r\n")).receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_bodies_that_wait_count_in_the_budget_and_give_back_what_they_took(autojump_clock: MockClock) -> None:
    async with server(budget=1500) as served:
        first, second = [await served.call(POST % 700 + b"x" * 600) for _ in range(2)]
        assert served.budget.arriving_bytes == 1200
        third = await served.call(POST % 400 + b"x" * 400)
        answer = await third.receive_some()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in answer.lower()
        assert answer.endswith(b"the gateway is full (memory_bytes)")
        await first.send_all(b"y" * 100)
        assert (await first.receive_some()).endswith(b"x" * 600 + b"y" * 100)
        await settled()
        assert served.budget.arriving_bytes == 600
        assert (await (await served.call(POST % 400 + b"x" * 400)).receive_some()).startswith(b"HTTP/1.1 200 ")
        await second.aclose()
        await settled()
        assert served.budget.arriving_bytes == 0


async def test_the_only_body_is_let_in_however_little_memory_there_is(autojump_clock: MockClock) -> None:
    async with server(budget=100) as served:
        caller = await served.call(POST % 900 + b"x" * 500)
        await caller.send_all(b"x" * 400)
        assert (await caller.receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_a_stop_ends_the_idle_and_lets_the_others_finish(autojump_clock: MockClock) -> None:
    async with server() as served:
        idle, half = await served.call(GET + b"\r\n"), await served.call(GET)
        busy = await served.call(GET.replace(b"now", b"later") + b"\r\n")
        served.stop.set()
        assert (await rest(idle)).startswith(b"HTTP/1.1 200 ")
        assert await rest(half) == b""
        assert trio.current_time() == 0
        served.later.set()
        answer = await rest(busy)
        assert b"\r\nconnection: close\r\n" in answer.lower()
        assert answer.endswith(b"later")


async def test_a_caller_that_takes_no_answer_ends_with_the_grace(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        served = Server(Budget(10**6))
        nursery.start_soon(serve_http, served.app, [served.listener], served.stop.wait, lambda: 3.0, 100)
        await served.call(GET.replace(b"now", b"later") + b"\r\n")
        served.stop.set()
    assert trio.current_time() == 3


async def test_callers_that_have_gone_leave_nothing_for_the_collector(autojump_clock: MockClock) -> None:
    gc.collect()
    gc.disable()
    seen = 0
    try:
        async with server() as served:
            chunked = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"
            later = chunked.replace(b"nonsense", b"1\r\nx\r\nnonsense")
            nonsense = b"nonsense\r\n\r\n"
            for data in (GET + b"\r\n", GET, POST % 9 + b"half", nonsense, chunked, later, GET + UPGRADE + b"\r\n"):
                caller = await served.call(data)
                seen += sum(isinstance(each, Caller) for each in gc.get_objects())
                await caller.aclose()
                await trio.sleep(2 * LINGER_SECONDS)
                assert not any(isinstance(each, Caller) for each in gc.get_objects())
        assert seen > 1
    finally:
        gc.enable()


async def test_those_that_have_their_last_answer_give_way_first(autojump_clock: MockClock) -> None:
    last = GET + b"Connection: close\r\n\r\n"
    async with server(max_callers=4) as served:
        idle = await served.call(GET + b"\r\n")
        for _ in range(20):  # none of them ends by itself
            assert b"now" in await (await served.call(last)).receive_some()
        assert trio.current_time() == 0
        await idle.send_all(GET + b"\r\n")
        await settled()
        assert (await idle.receive_some()).count(b"HTTP/1.1 200 ") >= 1


async def test_the_idle_are_ended_without_waiting_for_them(autojump_clock: MockClock) -> None:
    async with server(max_callers=4) as served:
        for _ in range(50):  # none of them ends by itself
            caller = await served.call(b"")
        await caller.send_all(GET + b"\r\n")
        assert b"now" in await caller.receive_some()
        assert trio.current_time() == 0


CHUNKED = b"POST /%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"


async def test_a_body_that_nobody_reads_keeps_no_caller(autojump_clock: MockClock) -> None:
    async with server() as served:
        head = (CHUNKED % b"later").replace(b"POST", b"GET") + b"Expect: 100-continue\r\n\r\n"
        caller = await served.call(head + b"1\r\nx\r\n" * 100)
        served.later.set()
        with trio.fail_after(LINGER_SECONDS):
            assert (await rest(caller)).endswith(b"later")


async def test_an_answer_is_the_only_one(autojump_clock: MockClock) -> None:
    async with server() as served:
        caller = await served.call(CHUNKED % b"now" + b"\r\nnonsense\r\n")
        answer = await rest(caller)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_stop_lets_a_body_come_that_has_begun(autojump_clock: MockClock) -> None:
    async with server() as served:
        caller = await served.call(POST % 3 + b"1")
        served.stop.set()
        for byte in b"23":
            await settled()
            await caller.send_all(bytes([byte]))
        assert (await rest(caller)).endswith(b"\r\n\r\n123")


async def test_the_idle_that_give_way_are_gone_at_once(autojump_clock: MockClock) -> None:
    async with server(max_callers=4) as served:
        callers: list[Any] = [served.listener.connect() for _ in range(50)]
        await settled()
        there = 0
        for caller in callers:
            with suppress(trio.BrokenResourceError):
                await caller.send_all(b"G")
                there += 1
        assert there == 4
