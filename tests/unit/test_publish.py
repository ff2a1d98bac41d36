"""`trio-templar publish`: what is wrong is found here, by its place in the input; what is right arrives."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.unit.conftest import CAR, json_values
from trio_templar import Settings
from trio_templar.commands.addresses import http_address
from trio_templar.commands.command import CommandError, ExitStatus
from trio_templar.commands.gateway_api import GatewayApi
from trio_templar.commands.publish import read_rooms, said
from trio_templar.commands.triggers import PATH, Lines, _by_trigger, _Chunks, publish_stream, trigger_body
from trio_templar.testing import FakeBackend, MemoryGateway, open_gateway

REPORT = {"Accept": "application/json"}
PORT = Settings(bind=(), trigger_bind="127.0.0.1:0", trigger_token="t")


@asynccontextmanager
async def calling(settings: Settings = PORT, token: str = "t") -> AsyncIterator[tuple[MemoryGateway, GatewayApi]]:
    """A gateway with a listener for triggers, and a caller of it."""
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        address = http_address(running.gateway.trigger_url, settings)
        async with GatewayApi(address, token=token, timeout_seconds=10) as api:
            yield running, api


def reads(*chunks: bytes) -> Callable[[], bytes]:
    """What returns `chunks` one after the other, then nothing."""
    left = [*chunks, b""]
    return lambda: left.pop(0)


def fed(lines: Lines, chunks: Iterable[bytes]) -> list[Any]:
    return [json.loads(line) for chunk in chunks for line in lines.feed(chunk).splitlines()]


def test_rooms_are_json_objects() -> None:
    assert read_rooms(['{"car": 1}', "{}"]) == [{"car": 1}, {}]
    for bad in ("{car: 1}", "[1]", "", "1", "\udcff"):
        with pytest.raises(CommandError, match=r"^ROOM 2: ") as caught:
            read_rooms(["{}", bad])
        assert caught.value.status == ExitStatus.USAGE


@given(st.lists(json_values, max_size=5), st.integers(1, 40))
def test_lines_become_triggers_however_the_bytes_are_cut(values: list[Any], size: int) -> None:
    text = "\n".join(json.dumps(value) for value in values).encode()
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    triggers = fed(Lines([CAR], 10_000), [*chunks, b""])
    assert triggers == [{"rooms": [CAR], "data": value} for value in values]


def test_without_rooms_a_line_is_a_trigger_as_it_is() -> None:
    line = b'{"data": 1.50, "rooms": [], "key": "k"}'
    assert Lines([], 100).feed(line + b"\n") == line + b"\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"x", "not JSON"),
        (b'{"rooms": []}', "data not specified"),
        (b'{"data": 1}', "rooms not specified"),
        (b'{"rooms": [1], "data": 1}', "rooms"),
        (b'"\xff"', "not UTF-8"),
        (b" " * 101 + b"1", "over 100 bytes"),
    ],
)
def test_a_bad_line_ends_it_and_is_named_by_its_number(line: bytes, words: str) -> None:
    lines = Lines([], 100)
    good = b'{"rooms": [], "data": 1}\n'
    assert lines.feed(good + b"\n\n" + line + b"\n" + good) == good
    assert lines.error.startswith("line 4: ")
    assert words in lines.error


def test_a_line_without_end_is_not_kept_for_ever() -> None:
    lines = Lines([], 100)
    for _ in range(11):
        assert lines.feed(b" " * 9 + b"x") == b""
    assert lines.error.startswith("line 1: over 100 bytes")


async def test_a_quiet_stream_is_kept_open(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[bytes](1)
    send.send_nowait(b"line\n")
    chunks = _Chunks(receive)
    assert await anext(chunks) == b"line\n"
    start = trio.current_time()
    assert await anext(chunks) == b"\n"
    assert trio.current_time() - start == 3
    assert Settings().http_body_seconds > 2 * 3
    send.close()
    assert [chunk async for chunk in chunks] == []


def test_what_the_gateway_says_of_a_line_is_said_of_the_trigger() -> None:
    said = "http://x/trigger/: 503: line 7: a room is full; published 2"
    assert _by_trigger(said) == "http://x/trigger/: 503: trigger 3: a room is full; published 2"
    assert _by_trigger("nobody there") == "nobody there"


async def test_a_trigger_arrives_and_is_answered() -> None:
    async with calling() as (running, api):
        client = await running.subscriber(1, CAR)
        answer = await api.post(PATH, trigger_body([CAR], b"[1.50]"), {})
        assert answer.text == "publish success"
        assert await client.receive_text() == '{"requestId": 1, "type": "publish", "data": [1.50]}'


async def test_the_command_says_to_how_many_even_to_nobody() -> None:
    async with calling() as (running, api):

        async def publish(**headers: str) -> str:
            answer = await api.post(PATH, trigger_body([CAR, {"target": "x"}], b"1"), {**REPORT, **headers})
            return said(answer.content)

        assert await publish() == "publish success, to 0 subscribers"
        await running.subscriber(1, CAR)
        assert await publish() == "publish success, to 1 subscriber"
        await running.subscriber(1, CAR)
        assert await publish() == "publish success, to 2 subscribers"
        streamed = await publish_stream(api, reads(b"1\n2\n"), Lines([CAR], 100), REPORT)
        assert said(streamed.content) == "publish success: 2, 4 deliveries"


def test_an_answer_that_is_no_report_is_said_as_it_is() -> None:
    assert said("publish success") == "publish success"


async def test_a_stream_arrives_in_order_and_is_counted() -> None:
    async with calling() as (running, api):
        client = await running.subscriber(1, CAR)
        answer = await publish_stream(api, reads(b"1\n2", b"3\n\n", b"4"), Lines([CAR], 100), {})
        assert answer.text == "publish success: 3"
        assert [(await client.receive())["data"] for _ in range(3)] == [1, 23, 4]


async def test_what_comes_before_a_bad_line_is_published_and_said() -> None:
    async with calling() as (running, api):
        with pytest.raises(CommandError, match=r"^line 3: not JSON: .*; published 2$") as caught:
            await publish_stream(api, reads(b"1\n2\nx\n4\n"), Lines([CAR], 100), {})
        assert caught.value.status == ExitStatus.USAGE
        assert running.gateway.statistics().triggers == 2


async def test_with_a_report_a_bad_line_is_said_with_its_number_too() -> None:
    async with calling() as (_, api):
        with pytest.raises(CommandError, match=r"^line 2: not JSON: .*; published 1$"):
            await publish_stream(api, reads(b"1\nx\n"), Lines([CAR], 100), {"Accept": "application/json"})


async def test_a_line_the_gateway_refuses_is_named_by_its_number() -> None:
    async with calling() as (_, api):
        large = json.dumps("x" * 600_000).encode()
        with pytest.raises(CommandError, match=r": 413: trigger 2: data has .*; published 1$"):
            await publish_stream(api, reads(b"1\n", large, b"\n"), Lines([CAR], 10**6), {})


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_a_wrong_token_is_refused_and_said_so(token: str) -> None:
    async with calling(token=token) as (_, api):
        with pytest.raises(CommandError, match=r"401: the trigger token is missing or wrong \(give it") as caught:
            await api.post(PATH, b"{}", {})
        assert caught.value.status == ExitStatus.REFUSED


async def test_a_token_that_no_header_can_carry_is_a_usage_error() -> None:
    async with calling(token="a\nb") as (_, api):
        with pytest.raises(CommandError, match="cannot be sent") as caught:
            await api.post(PATH, b"{}", {})
        assert caught.value.status == ExitStatus.USAGE


async def test_a_gateway_that_is_not_there_is_named() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    await listener.aclose()
    async with GatewayApi(http_address(url, Settings()), timeout_seconds=10) as api:
        with pytest.raises(CommandError, match=f"^cannot reach {url}: Connection refused$") as caught:
            await api.post(PATH, b"{}", {})
        assert caught.value.status == ExitStatus.UNREACHABLE


async def test_a_unix_socket_that_is_not_there_is_named(tmp_path: object) -> None:
    async with GatewayApi(http_address(f"unix:{tmp_path}/x", Settings()), timeout_seconds=10) as api:
        with pytest.raises(CommandError, match=f"^cannot reach unix:{tmp_path}/x: No such file or directory$"):
            await api.post(PATH, b"{}", {})


async def test_a_gateway_that_does_not_answer_is_waited_for_so_long() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with GatewayApi(http_address(url, Settings()), timeout_seconds=0.1) as api:
        for call in (lambda: api.post(PATH, b"{}", {}), lambda: api.get("/status")):
            with pytest.raises(CommandError, match=rf"^{url}: no answer within 0\.1 s") as caught:
                await call()
            assert caught.value.status == ExitStatus.UNREACHABLE
    await listener.aclose()


async def test_what_is_no_gateway_is_said_to_be_none() -> None:
    async with calling() as (_, api):
        with pytest.raises(CommandError, match=r"/no/such/path: 404: nothing here \(is this the HTTP") as caught:
            await api.get("/no/such/path")
        assert caught.value.status == ExitStatus.FAILED
