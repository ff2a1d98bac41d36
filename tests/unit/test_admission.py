"""The admission: who is let in, what the others are told, and that nothing of them stays behind."""

from __future__ import annotations

import json
import logging
from collections import ChainMap
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from tests.unit.conftest import CAR, operator, parts, quiet, settled
from tests.unit.test_backend import api, response
from tests.unit.test_handshake import head
from trio_templar import BackendError, ClientRequest, Close, Refused, Unavailable
from trio_templar.clients.bootstrap import BootstrapLimiter
from trio_templar.testing import Closed, FakeBackend, MemoryGateway, Rejected, WebsocketClient, open_gateway


async def rejection(running: MemoryGateway, headers: dict[str, str] | None = None, target: str = "/ws/") -> Rejected:
    with pytest.raises(Rejected) as caught:
        await running.connect(headers, target=target)
    return caught.value


async def answer(running: MemoryGateway, data: bytes) -> bytes:
    """Send `data` and return all that comes until the gateway ends the connection."""
    stream = running.listener.connect()
    await stream.send_all(data)
    return await rest(stream)


async def rest(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    try:
        while data := await stream.receive_some():
            received += bytes(data)
    except trio.BrokenResourceError:
        pass
    return received


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [getattr(record, "fields", {}) for record in caplog.records if record.getMessage() == event]


async def test_an_admitted_client_is_welcomed_with_its_rooms(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR, {"x": "*"}])) as running:
        client = await running.connect()
        assert await client.receive_text() == json.dumps({"allowed_rooms": [CAR, {"x": "*"}]})


async def test_the_backend_is_asked_with_the_request_of_the_client(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        await running.connect({"Cookie": "sessionid=1"}, target="/ws?token=a")
        (request,) = running.backend.requests
        assert (request.target, request.header(b"cookie"), request.param("token")) == (
            "/ws?token=a",
            b"sessionid=1",
            b"a",
        )


async def test_the_101_comes_after_the_backends_answer(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        running.backend.seconds = 3
        await running.connect()
        assert trio.current_time() == 3


async def test_the_answer_to_an_upgrade_is_the_handshake_and_nothing_more(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        stream = running.listener.connect()
        await stream.send_all(head(Sec_WebSocket_Extensions="permessage-deflate", Sec_WebSocket_Protocol="chat"))
        await settled()
        response, _, frame = bytes(await stream.receive_some()).partition(b"\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 101 ")
        names = {line.partition(b":")[0].lower() for line in response.splitlines()[1:]}
        assert names == {b"upgrade", b"connection", b"sec-websocket-accept"}
        if not frame:
            frame = bytes(await stream.receive_some())
        assert frame[2:] == b'{"allowed_rooms": []}'


# What comes before the 101


async def test_messages_that_come_early_are_answered_after_the_welcome(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        running.backend.seconds = 1
        client = WebsocketClient(running.listener.connect())
        subscribe = b'{"type":"subscribe","requestId":1,"room":{"target":"car"}}'
        masked = b"\x81" + bytes([0x80 | len(subscribe)]) + bytes(4) + subscribe
        assert len(subscribe) < 126
        early = [masked[:10], masked[10:] + b"\x81\x84" + bytes(4) + b"ping"]
        await client.stream.send_all(head(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==") + early[0])
        await trio.sleep(0.5)
        await client.stream.send_all(early[1])
        await trio.sleep(1)
        received = bytes(await client.stream.receive_some())
        while b"pong" not in received:
            received += bytes(await client.stream.receive_some())
        welcome, success, pong = (received.find(text) for text in (b"allowed_rooms", b"success", b"pong"))
        assert 0 < welcome < success < pong


async def test_what_comes_early_is_bounded(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_message_bytes=1000)) as running:
        running.backend.seconds = 10
        stream = running.listener.connect(lockstep_stream_pair)
        await stream.send_all(head())
        with trio.move_on_after(5) as scope:
            for _ in range(100):
                await stream.send_all(b"x" * 100)
        assert scope.cancelled_caught, "the gateway stopped reading"


async def test_a_client_that_leaves_during_the_bootstrap_is_noticed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    asked: list[str] = []

    async def bootstrap(request: ClientRequest) -> dict[str, Any]:
        asked.append("asked")
        try:
            await trio.sleep_forever()
        finally:
            asked.append("cancelled")
        raise AssertionError

    backend: Any = bootstrap
    async with open_gateway(quiet(), backend=backend) as running:
        stream = running.listener.connect()
        await stream.send_all(head())
        await settled()
        assert asked == ["asked"]
        await stream.aclose()
        await settled()
        assert asked == ["asked", "cancelled"]
        assert trio.current_time() == 0
    assert len(caplog.records) == 1
    assert len(lines(caplog, "left before it was let in")) == 1


@pytest.mark.parametrize("size", [0, 1, 30, len(head()) - 1])
async def test_a_client_that_leaves_earlier_is_one_line_in_the_log(
    size: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway(quiet()) as running:
        stream = running.listener.connect()
        await stream.send_all(head()[:size])
        await stream.aclose()
        await settled()
    assert [record.getMessage() for record in caplog.records] == ["left before it was let in"]


# The backend's word


@pytest.mark.parametrize(("status", "answered"), [(401, 401), (403, 403), (302, 403), (404, 403), (429, 403)])
async def test_dialect_2_refuses_over_http(status: int, answered: int, autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        running.backend.error = Refused(status)
        assert (await rejection(running)).status == answered


async def test_dialect_3_refuses_in_a_message_and_closes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway(quiet(dialect="3")) as running:
        running.backend.error = Refused(401)
        client = await running.connect()
        assert await client.receive_text() == '{"is_authorized": false}'
        with pytest.raises(Closed) as caught:
            await client.receive()
        assert caught.value.close.code == 1000
        await client.stream.aclose()
        await settled()
        assert running.gateway.statistics().connections == 0
    assert [record.getMessage() for record in caplog.records] == ["refused"]


@pytest.mark.parametrize("dialect", ["2", "3"])
@pytest.mark.parametrize(
    ("said", "words"),
    [
        (response("", 204), "only 200"),
        (response("", 301, "Location: https://x/"), "--connection-header 'X-Forwarded-Proto=fixed:https'"),
        (response("", 302, "Location: /login/"), "login_required"),
        (response("", 400), "ALLOWED_HOSTS"),
        (response("", 404), "bootstrap/ is appended"),
    ],
    ids=["204", "301", "302", "400", "404"],
)
async def test_a_refusal_that_is_not_about_the_client_is_a_warning_with_a_way_out(
    said: bytes, words: str, dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with (
        api(said) as (backend, _),
        open_gateway(quiet(dialect=dialect), bootstrap=backend.bootstrap) as running,
    ):
        stream = running.listener.connect()
        await stream.send_all(head())
        await stream.receive_some()
        await stream.aclose()
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    fields = getattr(warning, "fields", {})
    assert (warning.getMessage(), f"status {said[9:12].decode()}" in fields["why"]) == ("refused", True)
    assert words in fields["hint"]


@pytest.mark.parametrize(
    ("said", "level", "status", "hint"),
    [
        (response("", 404), "WARNING", 403, "nothing there; bootstrap/ is appended to api_url"),
        (response("", 401), "INFO", 401, None),
        (response('{"allowed_rooms": [7]}'), "WARNING", 502, "allowed_rooms[0] is no object"),
    ],
    ids=["hint", "no hint", "no rooms"],
)
async def test_a_refusal_by_message_is_one_line_that_says_what_the_api_answered(
    said: bytes, level: str, status: int, hint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with (
        api(said) as (backend, _),
        open_gateway(quiet(dialect="3"), bootstrap=backend.bootstrap) as running,
    ):
        client = await running.connect()
        assert await client.receive() == {"is_authorized": False}
        assert parts(running).clients.admission.refused == {"not authorized": 1}
    (line,) = [record for record in caplog.records if record.getMessage() in ("refused", "close")]
    fields = getattr(line, "fields", {})
    assert (line.levelname, fields["status"], fields.get("hint")) == (level, status, hint)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_that_is_about_the_client_is_none(status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with api(response("", status)) as (backend, _), open_gateway(quiet(), bootstrap=backend.bootstrap) as running:
        assert (await rejection(running)).status == status
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("INFO", "refused")]


@pytest.mark.parametrize(("status", "cause"), [(429, "API busy"), (503, "API down")])
async def test_an_api_that_says_when_to_come_back_is_passed_on(status: int, cause: str) -> None:
    said = response("", status, "Retry-After: 7")
    async with api(said) as (backend, _), open_gateway(quiet(), bootstrap=backend.bootstrap) as running:
        rejected = await rejection(running)
        assert (rejected.status, rejected.headers["retry-after"]) == (503, "7")
        assert parts(running).clients.admission.refused == {cause: 1}


@pytest.mark.parametrize("dialect", ["2", "3"])
async def test_a_backend_that_is_down_is_a_503_and_a_warning(
    dialect: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(quiet(dialect=dialect)) as running:
        running.backend.error = Unavailable("the API is down: ConnectError")
        rejected = await rejection(running)
    assert (rejected.status, rejected.headers["retry-after"]) == (503, "1")
    (line,) = lines(caplog, "refused")
    assert (line["status"], line["why"], line["hint"]) == (
        503,
        "the API is not available",
        "the API is down: ConnectError",
    )


@pytest.mark.parametrize("dialect", ["2", "3"])
async def test_a_backend_that_is_slow_is_a_503_to_the_digit(
    dialect: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(quiet(dialect=dialect, bootstrap_seconds=7)) as running:
        running.backend.seconds = 8
        rejected = await rejection(running)
        assert (rejected.status, trio.current_time()) == (503, 7)
    assert "7 s" in lines(caplog, "refused")[0]["hint"]


@pytest.mark.parametrize("dialect", ["2", "3"])
@pytest.mark.parametrize("allowed", [{}, "rooms", 1, False])
async def test_nonsense_is_a_502_that_says_which(
    dialect: str, allowed: Any, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(quiet(dialect=dialect)) as running:
        running.backend.answer = {"allowed_rooms": allowed}
        rejected = await rejection(running)
    assert (rejected.status, lines(caplog, "refused")[0]["hint"]) == (502, "allowed_rooms is no list")


async def test_a_backend_error_is_a_502(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        running.backend.error = BackendError("the bootstrap answer is not JSON")
        assert (await rejection(running)).status == 502


async def test_an_allowed_room_that_is_no_object_is_a_502_or_a_refusal(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        running.backend.answer = {"allowed_rooms": [CAR, "foo"]}
        rejected = await rejection(running)
        assert (rejected.status, rejected.body) == (502, "the API's answer is of no use\n")
    async with open_gateway(quiet(dialect="3")) as running:
        running.backend.answer = {"allowed_rooms": ["foo"]}
        assert await (await running.connect()).receive() == {"is_authorized": False}


@pytest.mark.parametrize("error", [ValueError("secret of ours"), OSError(5, "secret of ours"), KeyError("secret")])
async def test_a_bootstrap_that_crashes_is_a_503_that_says_nothing_and_a_traceback_in_the_log(
    error: Exception, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(quiet()) as running:
        running.backend.error = error
        rejected = await rejection(running)
        assert rejected.status == 503
        assert "secret" not in rejected.body
        running.backend.error = None
        assert await running.connect()
    assert sum(record.exc_info is not None for record in caplog.records) == 1


async def test_rooms_that_json_cannot_carry_keep_that_client_alone_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(quiet()) as running:
        running.backend.answer = {"allowed_rooms": [{"x": object()}]}
        assert (await rejection(running)).status == 502
        running.backend.answer = {}
        assert await (await running.connect()).receive() == {"allowed_rooms": []}
    assert lines(caplog, "close") == []
    assert [line["why"] for line in lines(caplog, "refused")] == ["the API's answer is of no use"]


# Many allowed rooms


class Looked(dict[str, Any]):
    """A room that counts how often any of its kind is compared."""

    times = 0

    def keys(self) -> Any:
        Looked.times += 1
        return super().keys()


async def test_a_subscription_looks_at_few_of_many_allowed_rooms(autojump_clock: MockClock) -> None:
    allowed = [*(Looked(target="car", car=number) for number in range(3000)), Looked(target="news", on="*")]
    async with open_gateway(quiet(), backend=FakeBackend(allowed)) as running:
        client = await running.connect()
        await client.receive()
        Looked.times = 0
        for room in ({"target": "car", "car": 2999}, {"target": "news", "on": [1]}):
            assert (await client.subscribe(str(room), room))["code"] == "success"
        assert (await client.subscribe(3, {"target": "car", "car": 3000}))["code"] == "error"
        assert Looked.times < 10


async def test_others_get_their_turns_while_many_allowed_rooms_are_read(autojump_clock: MockClock) -> None:
    allowed = [{"target": "car", "car": number} for number in range(20_000)]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    limiter = BootstrapLimiter(FakeBackend(allowed), quiet())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        assert (await limiter.ask(ClientRequest("/ws/", []))).allowed_rooms == allowed
        nursery.cancel_scope.cancel()
    assert turns > 30


# Bounds


async def test_a_storm_of_clients_is_told_to_come_back_at_once(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_bootstraps=2, max_bootstraps_waiting=3)) as running:
        running.backend.seconds = 4
        outcomes: list[tuple[float, str]] = []

        async def come() -> None:
            try:
                await running.connect()
                outcomes.append((trio.current_time(), "in"))
            except Rejected as rejected:
                outcomes.append((trio.current_time(), str(rejected.status)))

        async with trio.open_nursery() as nursery:
            for _ in range(7):
                nursery.start_soon(come)
        assert sorted(outcomes) == [(0, "503"), (0, "503"), (4, "in"), (4, "in"), (8, "in"), (8, "in"), (12, "in")]


async def test_the_time_of_a_bootstrap_counts_from_its_slot(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_bootstraps=1, bootstrap_seconds=5)) as running:
        running.backend.seconds = 4
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(running.connect)
        assert trio.current_time() == 12


async def test_one_connection_too_many_is_a_503(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_connections=2)) as running:
        first = await running.connect()
        await running.connect()
        rejected = await rejection(running)
        assert (rejected.status, rejected.body) == (503, "too many connections (max_connections)\n")
        assert len(running.backend.requests) == 2
        await first.receive()
        await first.aclose()
        await settled()
        await running.connect()


async def test_a_head_over_its_bytes_is_a_431(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(max_handshake_bytes=1000)) as running:
        assert (await answer(running, head(X="x" * 100_000))).startswith(b"HTTP/1.1 431 ")


async def test_a_head_that_comes_byte_by_byte_has_a_deadline(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(handshake_seconds=10)) as running:
        stream = running.listener.connect()

        async def trickle() -> None:
            for byte in head():
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            received = b""
            while data := await stream.receive_some():
                received += bytes(data)
            assert (trio.current_time(), received.split(b"\r\n")[0]) == (10, b"HTTP/1.1 408 Request Timeout")
            nursery.cancel_scope.cancel()


async def test_a_client_that_does_not_read_its_refusal_is_left(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(goodbye_seconds=2, max_connections=1)) as running:
        stream = running.listener.connect(lockstep_stream_pair)
        await stream.send_all(b"nonsense\r\n\r\n")
        await trio.sleep(1.9)
        assert (await rejection(running)).status == 503, "it counts as long as it is there"
        await trio.sleep(0.2)
        assert await running.connect()


# Pages and paths


async def test_other_paths_are_not_found_and_other_requests_answered(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet()) as running:
        assert (await rejection(running, target="/other/")).status == 404
        assert (await answer(running, b"GET /ws/ HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 426 ")
        assert (await answer(running, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        assert (await answer(running, b"\x00\xff\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert running.backend.requests == []


async def test_a_page_of_another_host_is_refused_and_the_log_names_the_option(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(quiet()) as running:
        assert (await rejection(running, {"Origin": "https://evil.example"})).status == 403
        assert running.backend.requests == []
    (line,) = lines(caplog, "refused")
    assert line["hint"] == "--allowed-origin https://evil.example would let it in"


# The end


@pytest.mark.parametrize("sent", [head()[:20], head()], ids=["in its handshake", "in its bootstrap"])
async def test_a_client_that_comes_in_when_the_gateway_stops_is_told_so_at_once(
    sent: bytes, autojump_clock: MockClock
) -> None:
    async with open_gateway(quiet()) as running:
        running.backend.seconds = 9
        stream = running.listener.connect()
        await stream.send_all(sent)
        await settled()
        running.gateway.stop()
        assert (await rest(stream)).startswith(b"HTTP/1.1 503 ")
        await stream.aclose()
        await running.served.wait()
        assert trio.current_time() == 0


async def test_a_close_never_comes_before_the_101(autojump_clock: MockClock) -> None:
    begun = set()
    for turns in range(50):
        async with open_gateway(quiet()) as running:
            client, server = memory_stream_pair()
            stream = running.listener.connect(lambda pair=(client, server): pair)  # type: ignore[misc]
            await stream.send_all(head())
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            running.gateway.stop()
            received = await rest(stream)
            await stream.aclose()
            begun.add(received[:13])
    assert begun == {b"HTTP/1.1 503 ", b"HTTP/1.1 101 "}  # so many turns are more than it takes to be let in


def test_a_closed_says_how() -> None:
    assert str(Closed(Close(1012, "bye"))) == "1012 bye"


# What a program answers in place of the API


@pytest.mark.parametrize("dialect", ["2", "3"])
async def test_allowed_rooms_may_be_any_mappings(dialect: str, autojump_clock: MockClock) -> None:
    inner = MappingProxyType({"a": 1})
    async with open_gateway(quiet(dialect=dialect)) as running:
        running.backend.allowed_rooms = [MappingProxyType({"target": "car", "of": inner}), ChainMap({"x": "*"})]
        client = await running.connect()
        assert (await client.receive())["allowed_rooms"] == [{"target": "car", "of": {"a": 1}}, {"x": "*"}]
        rooms: list[dict[str, Any]] = [{"target": "car", "of": {"a": 1}}, {"x": 5}]
        for number, room in enumerate(rooms):
            assert (await client.subscribe(number, room))["code"] == "success"


async def test_a_user_id_may_be_what_has_a_form_in_json(autojump_clock: MockClock) -> None:
    user = UUID(int=7)
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        running.backend.answer = {"user": MappingProxyType({"id": user})}
        await running.subscriber(1, CAR)
        async with operator(running.gateway) as caller:
            assert (await caller.get("/connections/")).json()["connections"][0]["user"] == str(user)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ({"allowed_rooms": [{"target": object()}]}, "allowed_rooms"),
        ({"allowed_rooms": [{"target": float("nan")}]}, "allowed_rooms"),
        ({"allowed_rooms": [{"target": "\ud800"}]}, "allowed_rooms"),
        ({"allowed_rooms": [{(1, 2): 3}]}, "allowed_rooms"),
        ({"user": {"id": object()}}, "user.id"),
    ],
    ids=str,
)
async def test_what_cannot_be_json_is_named(
    answer: dict[str, Any], name: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_gateway(quiet()) as running:
        running.backend.answer = answer
        assert (await rejection(running)).status == 502
    [line] = lines(caplog, "refused")
    assert line["hint"].startswith(f"{name} ")
    assert "crashed" not in caplog.text


@pytest.mark.parametrize(
    ("error", "status"), [(Refused(401), 401), (Unavailable("no"), 503), (BackendError("no"), 502)]
)
async def test_what_is_raised_in_a_nursery_of_the_bootstrap_counts_as_raised_by_it(
    error: Exception, status: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise error

    async def bootstrap(request: ClientRequest) -> dict[str, Any]:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(fail)
        return {}

    async with open_gateway(quiet(), bootstrap=bootstrap) as running:
        assert (await rejection(running)).status == status
    assert "crashed" not in caplog.text


async def test_a_bootstrap_that_crashes_in_a_nursery_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def bootstrap(request: ClientRequest) -> dict[str, Any]:
        async with trio.open_nursery():
            raise KeyError("x")

    async with open_gateway(quiet(), bootstrap=bootstrap) as running:
        assert (await rejection(running)).status == 503
    assert "the bootstrap crashed" in caplog.messages


async def test_a_refused_client_that_does_not_leave_is_reset() -> None:
    async with open_gateway(quiet(bind=("127.0.0.1:0",), goodbye_seconds=0.05)) as running:
        host, _, port = running.gateway.websocket_urls[0].removeprefix("ws://").partition("/")[0].rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"GET /elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 404 " in await rest(stream)
            with trio.fail_after(5):
                while not stream.socket.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_ERROR):
                    await trio.sleep(0.01)  # a real socket


async def test_clients_beyond_all_bounds_are_counted_and_said_at_times(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_templar.clients.admission.TOLD_CLIENTS", 0)
    async with open_gateway(quiet(max_connections=1)) as running:
        await running.connect()
        for _ in range(3):
            assert await rest(running.listener.connect()) == b""
        await trio.sleep(10)
        assert await rest(running.listener.connect()) == b""
        assert parts(running).clients.admission.refused["overrun"] == 4
    assert lines(caplog, "overrun") == [{"clients": 2, "dropped": 1}, {"clients": 2, "dropped": 4}]
