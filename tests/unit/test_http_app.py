"""The HTTP API: every body gets an answer that says what and where, and nothing of a bad one is published."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.unit.conftest import CAR, FakeReceiver, local_bus
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.hub import Hub
from trio_templar.core.rooms import room_key
from trio_templar.core.triggers import TriggerReader
from trio_templar.delivery.budget import Budget
from trio_templar.delivery.entrance import Bounds
from trio_templar.delivery.fanout import Fanout
from trio_templar.delivery.idempotency import IdempotencyCache
from trio_templar.errors import Busy
from trio_templar.http.app import HttpApi, Request, Response, Route
from trio_templar.http.authorization import Access, Authorization
from trio_templar.http.server import serve_http
from trio_templar.http.triggers import TriggerApi
from trio_templar.net.listeners import open_listeners, url_of

ONE = {"rooms": [CAR], "data": 1}
NDJSON = {"content-type": "application/x-ndjson"}


class Api:
    """An API with one subscriber of CAR, and a publisher."""

    def __init__(self, app: HttpApi, hub: Hub, fanout: Fanout, publisher: httpx.AsyncClient) -> None:
        self.app = app
        self.hub = hub
        self.fanout = fanout
        self.publisher = publisher
        self.car = self.listen(CAR)

    def listen(self, room: Any) -> FakeReceiver:
        receiver = FakeReceiver()
        self.hub.subscribe(room_key(room), receiver, b"1")
        return receiver

    async def post(self, body: Any, path: str = "/trigger/", **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes | str) or hasattr(body, "__aiter__") else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.publisher.post(path, content=content, headers=named)


def make_cache() -> IdempotencyCache[Any]:
    return IdempotencyCache(seconds=300, max_entries=100, max_bytes=100_000, now=trio.current_time)


def make_app(nursery: trio.Nursery, **bounds: Any) -> tuple[HttpApi, Hub, Fanout]:
    hub = Hub()
    bounds_ = Bounds(room_publications=5, room_bytes=10**6, max_triggers_waiting=2, wait_seconds=5)
    budget = Budget(10**7)
    fanout = Fanout(hub, nursery, budget, bounds_)
    reader = TriggerReader(DIALECTS["2"], 5000)
    access = Access(bounds.pop("token", "").encode(), bounds.pop("hosts", None))
    app = HttpApi(Authorization(access), **{"max_bytes": 10_000, "body_seconds": 10, "budget": Budget(10**7), **bounds})
    app.routes |= TriggerApi(local_bus(hub, fanout), reader, make_cache()).routes()
    return app, hub, fanout


@asynccontextmanager
async def api(**bounds: Any) -> AsyncIterator[Api]:
    """The app without a server."""
    async with trio.open_nursery() as nursery:
        app, hub, fanout = make_app(nursery, **bounds)
        transport: Any = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as publisher:
            yield Api(app, hub, fanout, publisher)


async def test_a_trigger_is_published_and_answered_in_the_words_of_2_5() -> None:
    async with api() as gateway:
        response = await gateway.post(ONE)
        assert (response.status_code, response.text) == (200, "publish success")
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert gateway.car.data == [1]


@pytest.mark.parametrize("path", ["/trigger/", "/trigger", "/trigger/?a=1"])
async def test_the_last_slash_does_not_matter(path: str) -> None:
    async with api() as gateway:
        assert (await gateway.post(ONE, path)).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "x", "", "application/json; charset=latin-1"]
)
async def test_any_content_type_will_do(content_type: str) -> None:
    async with api() as gateway:
        assert (await gateway.post(ONE, content_type=content_type)).status_code == 200


@pytest.mark.parametrize(
    "form", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "Multipart/Form-Data"]
)
async def test_a_form_is_no_trigger(form: str) -> None:
    async with api() as gateway:
        assert (await gateway.post(ONE, content_type=form)).status_code == 415
        assert gateway.car.data == []


@pytest.mark.parametrize("body", [{"rooms": [], "data": 1}, {"rooms": [{"nobody": 1}], "data": None}, []])
async def test_nobody_to_hear_is_a_success(body: Any) -> None:
    async with api() as gateway:
        assert (await gateway.post(body)).text == "publish success"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "the body is empty"),
        ("{", "not JSON"),
        ("{}", "rooms not specified"),
        ('{"rooms": []}', "data not specified"),
        ('{"rooms": null, "data": 1}', "rooms: expected a list"),
        ('{"rooms": [1], "data": 1}', "rooms[0]: expected an object"),
        ('{"rooms": [], "data": NaN}', "byte 22"),
        (b'{"rooms": [], "data": "\xff"}', "byte 23"),
        ("[" * 9000, "400"),
        ('{"rooms": [{"target": "car"}], "data": ' + "[" * 4000 + "]" * 4000 + "}", "nested too deeply"),
        ([ONE, {"rooms": [CAR]}, ONE], "[1]: data not specified"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_a_malformed_trigger_is_a_400_that_says_what_and_where(body: Any, words: str) -> None:
    async with api() as gateway:
        response = await gateway.post(body)
        assert response.status_code == 400
        assert words in response.text or words == "400"
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert gateway.car.data == []


async def test_an_array_is_published_in_order() -> None:
    async with api() as gateway:
        assert (await gateway.post([{**ONE, "data": number} for number in range(3)])).status_code == 200
        assert gateway.car.data == [0, 1, 2]


async def test_other_methods_and_paths_are_refused() -> None:
    async with api() as gateway:
        response = await gateway.publisher.get("/trigger/")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        assert (await gateway.publisher.get("/")).status_code == 404
        assert (await gateway.post(ONE, "/trigger//")).status_code == 404


async def test_routes_can_be_added() -> None:
    async def hello(request: Request) -> Response:
        return Response(200, b"hello")

    async with api() as gateway:
        gateway.app.routes["GET", "/"] = Route(hello)
        assert (await gateway.publisher.get("/")).text == "hello"


async def test_a_body_over_its_bytes_is_a_413_and_one_that_fits_is_not() -> None:
    async with api(max_bytes=1000) as gateway:
        body = json.dumps(ONE)
        assert (await gateway.post(body + " " * (1000 - len(body)))).status_code == 200
        response = await gateway.post(body + " " * (1001 - len(body)))
        assert (response.status_code, response.text) == (413, "over 1000 bytes (max_trigger_bytes)")
        assert gateway.car.data == [1]


async def test_data_over_half_an_outbox_is_a_413() -> None:
    async with api() as gateway:
        response = await gateway.post({**ONE, "data": "x" * 5000})
        assert response.status_code == 413
        assert "outbox_bytes" in response.text


async def test_more_than_a_room_ever_holds_is_a_413() -> None:
    async with api() as gateway:
        assert (await gateway.post([ONE] * 6)).status_code == 413
        assert gateway.car.data == []


async def test_a_gateway_that_is_full_is_a_503_with_a_time_to_come_back() -> None:
    async def full(request: Request) -> Response:
        raise Busy("full", 7)

    async with api() as gateway:
        gateway.app.routes["POST", "/trigger/"] = Route(full)
        response = await gateway.post(ONE)
        assert (response.status_code, response.headers["retry-after"]) == (503, "7")


# Streams


async def stream(gateway: Api, body: Any) -> httpx.Response:
    return await gateway.post(body, content_type="application/x-ndjson")


async def test_a_stream_is_published_line_by_line() -> None:
    async with api() as gateway:
        lines = "\n".join(json.dumps({**ONE, "data": number}) for number in range(20))
        for end in ("", "\n", "\r\n\n"):
            assert (await stream(gateway, lines + end)).text == "publish success: 20"
        assert gateway.car.data == [*range(20)] * 3


async def test_an_empty_stream_publishes_nothing() -> None:
    async with api() as gateway:
        assert (await stream(gateway, "")).text == "publish success: 0"


@pytest.mark.parametrize("bad", ["{", "[]", '{"rooms": []}', '{"rooms": [], "data": NaN}', "\x00"])
async def test_a_bad_line_is_named_and_what_came_before_it_is_published(bad: str) -> None:
    async with api() as gateway:
        good = json.dumps(ONE)
        response = await stream(gateway, "\n".join([good, "", good, bad, good]))
        assert response.status_code == 400
        assert response.text.startswith("line 4: ")
        assert response.text.endswith("; published 2")
        assert gateway.car.data == [1, 1]


@given(st.lists(st.integers(1, 60), max_size=12))
async def test_a_stream_cut_anyhow_is_the_same_stream(cuts: list[int]) -> None:
    async with api() as gateway:
        data = "".join(
            json.dumps({**ONE, "data": f"é{number}"}, ensure_ascii=False) + "\n" for number in range(6)
        ).encode()

        async def chunks() -> AsyncIterator[bytes]:  # noqa: ASYNC900  # httpx takes nothing else
            rest = data
            for cut in cuts:
                yield rest[:cut]
                rest = rest[cut:]
            yield rest

        assert (await stream(gateway, chunks())).text == "publish success: 6"
        assert gateway.car.data == [f"é{number}" for number in range(6)]


@pytest.mark.parametrize("end", ["", "\n"])
async def test_a_line_over_the_bytes_of_a_body_is_a_413_that_names_it(end: str) -> None:
    async with api(max_bytes=1000) as gateway:
        good = json.dumps(ONE)
        long = good + " " * (1001 - len(good))
        response = await stream(gateway, f"{good}\n{long}{end}")
        assert response.status_code == 413
        assert response.text == "line 2: over 1000 bytes (max_trigger_bytes); published 1"
        assert (await stream(gateway, f"{good}\n{long[:1000]}{end}")).status_code == 200


async def test_a_line_without_end_is_not_kept() -> None:
    async with api(max_bytes=1000) as gateway:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:  # noqa: ASYNC900  # httpx takes nothing else
            nonlocal sent
            yield json.dumps(ONE).encode() + b"\n"
            for _ in range(100):
                sent += 1
                yield b" " * 500

        response = await stream(gateway, endless())
        assert (response.status_code, response.text[:8]) == (413, "line 2: ")


async def test_each_line_of_a_stream_has_its_time(autojump_clock: MockClock) -> None:
    async with api(body_seconds=10) as gateway:

        async def slow(pause: float) -> AsyncIterator[bytes]:  # noqa: ASYNC900  # httpx takes nothing else
            for _ in range(4):
                await trio.sleep(pause)
                yield json.dumps(ONE).encode() + b"\n"

        assert (await stream(gateway, slow(9))).status_code == 200
        begun = trio.current_time()
        response = await stream(gateway, slow(11))
        assert (response.status_code, response.text[:8]) == (408, "line 1: ")
        assert trio.current_time() - begun >= 10


async def test_a_body_has_its_time(autojump_clock: MockClock) -> None:
    async with api(body_seconds=10) as gateway:

        async def slow() -> AsyncIterator[bytes]:  # noqa: ASYNC900  # httpx takes nothing else
            for byte in json.dumps(ONE).encode():
                yield bytes([byte])
                await trio.sleep(1)

        response = await gateway.post(slow())
        assert response.status_code == 408
        assert "http_body_seconds" in response.text
        assert gateway.car.data == []


async def test_other_scopes_are_answered_properly() -> None:
    async with trio.open_nursery() as nursery:
        app, _, _ = make_app(nursery)
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(events)

        await app({"type": "lifespan"}, receive, send)
        await app({"type": "websocket"}, receive, send)
        assert [message["type"] for message in sent] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
            "websocket.close",
        ]


# Behind the real server


@asynccontextmanager
async def server(**bounds: Any) -> AsyncIterator[tuple[FakeReceiver, str, Callable[[], int]]]:
    """The app on a port: who listens to CAR, the URL, and how many tasks the server has."""
    async with trio.open_nursery() as rooms, trio.open_nursery() as nursery:
        app, hub, _ = make_app(rooms, **bounds)
        car = FakeReceiver()
        hub.subscribe(room_key(CAR), car, b"1")
        stopped = trio.Event()
        listeners = await open_listeners("127.0.0.1:0")
        url = url_of(listeners[0], "http", "")
        nursery.start_soon(serve_http, app, listeners, stopped.wait, lambda: 1.0)  # noqa: ASYNC113  # who connects waits in the backlog
        await trio.testing.wait_all_tasks_blocked()
        task = next(iter(nursery.child_tasks))
        yield car, url, lambda: tasks_below(task)
        stopped.set()
        nursery.cancel_scope.cancel()


def tasks_below(task: trio.lowlevel.Task) -> int:
    return sum(1 + tasks_below(child) for nursery in task.child_nurseries for child in nursery.child_tasks)


async def raw(url: str, data: bytes, *, end: bool = False, until: bytes = b"") -> bytes:
    """Send `data` and return what comes until the server hangs up, or `until` has come."""
    host, port = url.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        answer = b""
        try:
            await stream.send_all(data)
            if end:
                await stream.send_eof()
            while not (until and until in answer) and (chunk := await stream.receive_some()):
                answer += bytes(chunk)
        except trio.BrokenResourceError:
            pass
        return answer


async def back_to(tasks: int, count: Callable[[], int]) -> None:
    with trio.fail_after(5):
        while count() != tasks:
            await trio.sleep(0.001)  # noqa: ASYNC110  # a real socket's close has no event of ours


HEAD = b"POST /trigger/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
HUNDRED_MB = 100_000_000


async def test_a_real_server_answers_a_trigger() -> None:
    async with server() as (car, url, _):
        body = json.dumps(ONE).encode()
        answer = await raw(url, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\npublish success")
        assert car.data == [1]


async def test_100_mb_that_are_announced_are_refused_before_they_are_read() -> None:
    async with server() as (car, url, count):
        before = count()
        sent = HEAD + b"Content-Length: %d\r\n\r\n" % HUNDRED_MB + b"x" * 1000
        answer = await raw(url, sent, until=b"max_trigger_bytes")
        assert answer.startswith(b"HTTP/1.1 413 ")
        await back_to(before, count)
        assert car.data == []


async def test_100_mb_in_chunks_are_refused_and_leave_nothing_behind() -> None:
    async with server() as (car, url, count):
        before = count()
        chunk = b"F4240\r\n" + b"x" * 1_000_000 + b"\r\n"
        async with httpx.AsyncClient() as publisher:

            async def chunks() -> AsyncIterator[bytes]:  # noqa: ASYNC900  # httpx takes nothing else
                for _ in range(100):
                    yield chunk

            response = await publisher.post(f"{url}/trigger/", content=chunks())
            assert response.status_code == 413
        await back_to(before, count)
        assert car.data == []


@pytest.mark.parametrize(
    "rest",
    [b"Content-Length: 50\r\n\r\n{", b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"roo', b"Content-Length: 5\r\n\r\n"],
    ids=repr,
)
async def test_half_a_body_publishes_nothing_and_leaves_nothing_behind(rest: bytes) -> None:
    async with server() as (car, url, count):
        before = count()
        await raw(url, HEAD + rest, end=True)
        await back_to(before, count)
        assert car.data == []


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: -1\r\n",
        b"Content-Length: x\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\n",
        b"Transfer-Encoding: gzip\r\n",
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a_length_that_is_none_is_a_400(headers: bytes) -> None:
    async with server() as (car, url, count):
        before = count()
        answer = await raw(url, HEAD + headers + b"\r\n{}")
        assert answer[:10] == b"HTTP/1.1 4" or answer[:12] == b"HTTP/1.1 501"
        await back_to(before, count)
        assert car.data == []


async def test_a_length_that_is_too_short_publishes_no_half_trigger() -> None:
    async with server() as (car, url, _):
        body = json.dumps(ONE).encode()
        answer = await raw(url, HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) - 1) + body)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert car.data == []


async def test_a_bad_request_with_a_long_body_leaves_nothing_behind() -> None:
    async with server(token="s3cret", max_bytes=10**6) as (car, url, count):
        before = count()
        chunks = (b"1388\r\n" + b"x" * 5000 + b"\r\n") * 200 + b"0\r\n\r\n"
        for path, status in ((b"/trigger/", b"401"), (b"/nowhere", b"404")):
            head = HEAD.replace(b"/trigger/", path) + b"Transfer-Encoding: chunked\r\n\r\n"
            assert (await raw(url, head + chunks)).startswith(b"HTTP/1.1 " + status)
        await back_to(before, count)
        assert car.data == []
