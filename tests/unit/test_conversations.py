"""Whatever a caller of the HTTP API asks in one go, however it is cut, each request gets its answer, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import h11
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.unit.conftest import settled
from tests.unit.test_callers import server
from trio_templar.http.caller import IDLE_SECONDS
from trio_templar.http.server import LINGER_SECONDS

REST = b" HTTP/1.1\r\nHost: x\r\n"


class Asked(NamedTuple):
    """A request, and its answer: status and content, of a failure no content."""

    data: bytes
    answer: tuple[int, bytes | None]
    is_last: bool = False


def echo(framing: bytes, body: bytes, content: bytes) -> Asked:
    return Asked(b"POST /echo" + REST + framing + b"\r\n" + body, (200, content))


def chunked(chunks: Sequence[bytes]) -> Asked:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    return echo(b"Transfer-Encoding: chunked\r\n", body, b"".join(chunks))


def measured(content: bytes, *, expect: bool) -> Asked:
    framing = b"Content-Length: %d\r\n" % len(content) + expect * b"Expect: 100-continue\r\n"
    return echo(framing, content, content)


NOW = Asked(b"GET /now" + REST + b"\r\n", (200, b"now"))
bodies = st.binary(min_size=1, max_size=40) | st.just(b"\r\n\r\n") | st.just(NOW.data)
asked = (
    st.just(NOW)
    | st.just(NOW._replace(data=b"\r\n" + NOW.data))
    | st.just(Asked(b"HEAD /now" + REST + b"\r\n", (200, b"")))
    | st.just(Asked(b"GET /now" + REST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", (200, b"now")))
    | st.just(Asked(b"GET /nothing" + REST + b"\r\n", (404, None)))
    | st.lists(bodies, max_size=20).map(chunked)
    | st.builds(measured, bodies, expect=st.booleans())
)
ends = st.sampled_from(
    [
        Asked(b"GET /now" + REST + b"Connection: close\r\n\r\n", (200, b"now"), is_last=True),
        Asked(b"nonsense that is none\r\n\r\n", (400, None), is_last=True),
        Asked(b"POST /nothing" + REST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n", (400, None), is_last=True),
        Asked(b"POST /echo" + REST + b"Content-Length: 5000\r\n\r\n", (413, None), is_last=True),
    ]
)


@given(
    requests=st.tuples(st.lists(asked, max_size=6), st.lists(ends, max_size=1)).map(lambda both: both[0] + both[1]),
    cuts=st.lists(st.integers(1, 200), max_size=30),
    ends=st.booleans(),
)
def test_each_request_gets_its_answer_in_order_however_they_are_cut(
    requests: list[Asked], cuts: list[int], ends: bool
) -> None:
    said, seconds = trio.run(converse, requests, cuts, ends, clock=MockClock(autojump_threshold=0))
    assert answers(said, requests) == [request.answer for request in requests]
    is_over = ends or any(request.is_last for request in requests)
    assert seconds == (0 if is_over else IDLE_SECONDS)


async def converse(requests: list[Asked], cuts: list[int], ends: bool) -> tuple[bytes, float]:
    """Return what a caller hears, and after how long the server ends it."""
    data = b"".join(request.data for request in requests)
    said = b""
    async with server() as served:
        caller = await served.call(b"")
        for cut in cuts:
            piece, data = data[:cut], data[cut:]
            await caller.send_all(piece)
            await settled()
        await caller.send_all(data)
        if ends:
            await caller.send_eof()
        while some := await caller.receive_some():
            said += some
        seconds = trio.current_time()
        await trio.sleep(2 * LINGER_SECONDS)
    return said, seconds


def answers(said: bytes, requests: list[Asked]) -> list[tuple[int, bytes | None]]:
    """Read `said` as a client of these requests does, to its end."""
    found: list[tuple[int, bytes | None]] = []
    for request in requests:
        client = h11.Connection(h11.CLIENT)
        method = request.data.lstrip().partition(b" ")[0]
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(said)
        client.receive_data(b"")
        content = b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += event.data
        found.append((status, content if status == 200 else None))
        said = client.trailing_data[0]
    assert said == b""
    return found
