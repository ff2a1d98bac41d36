"""Bad input over TCP: whoever sends it is answered, nobody else notices, and nothing of it stays behind."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from websockets.sync.client import ClientConnection

from tests.e2e.api import Api, Call, admit, serve_api
from tests.e2e.clients import (
    answer_of,
    closing,
    connect,
    dial,
    head,
    masked_text,
    raw_upgrade,
    read_to_end,
    receive,
    request,
    reset,
    subscriber,
    trigger,
)
from tests.e2e.processes import PATIENCE_SECONDS, SLOWNESS, GatewayProcess, gateway

OTHER = {"target": "car", "car": 2}  # the bystander is not there


@contextmanager
def unharmed(process: GatewayProcess) -> Iterator[ClientConnection]:
    """A bystander that must get its frame after whatever happens inside; then no descriptor may be left."""
    with subscriber(process.websocket_url) as bystander:
        yield bystander
        trigger(process, "still here")
        assert receive(bystander) == b'{"requestId": "a", "type": "publish", "data": "still here"}'
    process.wait_idle()
    assert process.crashes() == []


# Handshakes


def without(name: str, good: bytes) -> bytes:
    return b"\r\n".join(line for line in good.split(b"\r\n") if not line.lower().startswith(name.lower().encode()))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda good: without("Upgrade", good), 426),
        (lambda good: without("Connection", good), 426),
        (lambda good: without("Sec-WebSocket-Key", good), 400),
        (lambda good: without("Sec-WebSocket-Version", good), 426),
        (lambda good: without("Host", good), 400),
        (lambda good: good.replace(b"Version: 13", b"Version: 8"), 426),
        (lambda good: good.replace(b"Key: dGhl", b"Key: \xff\xfe"), 400),
        (lambda good: good.replace(b"/ws/", b"/other/"), 404),
        (lambda good: good.replace(b"/ws/", b"/\xff/"), 400),
        (lambda good: good.replace(b"GET", b"POST"), 405),
        (lambda good: good.replace(b"GET", b"G\x00T"), 400),
        (lambda good: good.replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        (lambda good: good.replace(b"HTTP/1.1", b"HTTP/9.9"), 505),
        (lambda good: good.replace(b"Host: ", b"Host : "), 400),
        (lambda good: good.replace(b"Host: ", b"Origin: https://evil.example\r\nHost: "), 403),
        (lambda good: good.replace(b"Host: ", b"Origin: null\r\nHost: "), 403),
        (lambda good: good.replace(b"Host: ", b"X: " + b"x" * 100_000 + b"\r\nHost: "), 431),
        (lambda good: good.replace(b"Host: ", b"X: y\r\n" * 20_000 + b"Host: "), 431),
        (lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100, 400),
        (lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (lambda _: b"\r\n\r\n\r\n\r\n\r\n", 400),
        (lambda _: b"\xff" * 1000 + b"\r\n\r\n", 400),
    ],
    ids=[
        "no upgrade",
        "no connection",
        "no key",
        "no version",
        "no host",
        "version 8",
        "key of bytes",
        "another path",
        "path of bytes",
        "POST",
        "method with a zero byte",
        "HTTP 1.0",
        "HTTP 9.9",
        "blank before a colon",
        "a foreign origin",
        "origin null",
        "100 kB in a header",
        "20 000 headers",
        "TLS",
        "HTTP 2",
        "only line ends",
        "bytes",
    ],
)
def test_a_bad_handshake_is_answered_in_http_with_one_line_in_the_log(
    shared: GatewayProcess, change: object, status: int
) -> None:
    assert callable(change)
    with unharmed(shared):
        lines = len(shared.log.matching("INFO refused|WARNING refused"))
        sock = dial(shared.address)
        sock.sendall(change(head(shared)))
        got, body, headers = answer_of(sock)
        assert got == status, body
        assert headers["Connection"] == "close" or status == 426
        assert body.decode().strip()
        shared.log.wait("refused", lines + 1)
    assert len(shared.log.matching(" refused ")) == lines + 1


@pytest.mark.parametrize(
    "header",
    ["Host: \xff", "Sec-WebSocket-Protocol: \xff", "Cookie: \xff\xfe=\xfd", "User-Agent: \xe9", "X-Real-IP: \xff"],
    ids=lambda header: header.partition(":")[0],
)
def test_headers_that_are_not_ascii_do_not_matter(shared: GatewayProcess, header: str) -> None:
    name = header.partition(":")[0]
    with unharmed(shared):
        sock = dial(shared.address)
        with sock:
            sock.sendall(without(name, head(shared))[:-4] + f"\r\n{header}\r\n\r\n".encode("latin-1"))
            assert sock.recv(12) == (b"HTTP/1.1 400" if name == "Host" else b"HTTP/1.1 101")


def test_a_path_without_its_last_slash_is_the_same_and_a_query_is_none_of_its_business(shared: GatewayProcess) -> None:
    with connect(shared.websocket_url.removesuffix("/") + "?x=%ff&&=") as client:
        assert receive(client).startswith(b'{"allowed_rooms"')


def test_garbage_and_a_reset_at_any_moment_harm_nobody(shared: GatewayProcess) -> None:
    with unharmed(shared):
        for data in (b"", b"\0", b"GET", b"\xff" * 70_000, head(shared)[:50], head(shared)):
            for end in (reset, socket.socket.close):
                sock = dial(shared.address)
                sock.sendall(data)
                end(sock)


def test_leaving_before_during_and_after_the_handshake_has_a_line_each_and_leaves_nothing() -> None:
    may_answer = threading.Event()
    arrived = threading.Semaphore(0)

    def answer(call: Call) -> tuple[int, bytes]:
        if call.header("Cookie") == "slow=1":
            arrived.release()
            may_answer.wait(PATIENCE_SECONDS)
        return admit()

    with serve_api() as api, gateway(f"--api-url={api.url}", "--max-bootstraps=3") as process:
        api.answer = answer
        with unharmed(process):
            for number in range(1, 6):
                for end in (reset, socket.socket.close):
                    end(dial(process.address))  # before the head
                    half = dial(process.address)
                    half.sendall(head(process)[:40])
                    end(half)  # in the middle of it
                process.log.wait("INFO left before it was let in", 4 * number)
            for number in range(1, 11):  # more often than there are slots
                asked = dial(process.address)
                asked.sendall(head(process, "Cookie: slow=1"))
                assert arrived.acquire(timeout=PATIENCE_SECONDS)
                (reset if number % 2 else socket.socket.close)(asked)
                process.log.wait("INFO left before it was let in", 20 + number)
            may_answer.set()
            for number in range(1, 5):
                (reset if number % 2 else socket.socket.close)(raw_upgrade(process))
                process.log.wait("INFO close .* code=1006 ", number)
        assert len(process.log.matching("INFO open ")) == len(process.log.wait("INFO close ", 5)) == 5


def test_one_byte_a_second_is_too_slow_for_a_request_head() -> None:
    with serve_api() as api, gateway(f"--api-url={api.url}", f"--handshake-seconds={SLOWNESS}") as process:
        with unharmed(process):
            sock = dial(process.address)
            sock.sendall(b"G")
            status, body, _ = answer_of(sock)
            assert (status, body) == (408, b"no whole request head in time (handshake_seconds)\n")
            process.log.wait("INFO refused status=408 ")


def test_a_head_in_many_pieces_and_a_message_right_behind_it_are_fine(shared: GatewayProcess) -> None:
    with dial(shared.address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head(shared):
            sock.sendall(bytes([byte]))
        sock.sendall(masked_text("ping") + b"\x88\x82\0\0\0\0\x03\xe8")
        data = read_to_end(sock)
    welcome = b'{"allowed_rooms": [{"target": "car", "car": "*"}]}'
    assert data.partition(b"\r\n\r\n")[2] == b"\x81\x32" + welcome + b"\x81\x04pong" + b"\x88\x02\x03\xe8"


def test_frames_sent_before_the_101_wait_for_the_welcome(api: Api) -> None:
    may_answer = threading.Event()

    def answer(_: Call) -> tuple[int, bytes]:
        may_answer.wait(PATIENCE_SECONDS)
        return admit()

    api.answer = answer
    with gateway(f"--api-url={api.url}") as process, dial(process.address) as sock:
        sock.sendall(head(process) + masked_text("ping"))
        api.called("/bootstrap/")
        sock.sendall(masked_text("{}") + b"\x88\x82\0\0\0\0\x03\xe8")
        may_answer.set()
        data = read_to_end(sock).partition(b"\r\n\r\n")[2]
    assert data.index(b"allowed_rooms") < data.index(b"pong") < data.index(b"message-type-not-allowed")


# Messages


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x80", None),  # an empty text is no JSON, and the connection stays
        (b"\x81\x04ping", 1002),  # not masked
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
        (b"\x83\x80\0\0\0\0", 1002),  # an unknown opcode
        (b"\x89\xfe\x00\x7e\0\0\0\0" + b"x" * 126, 1002),  # a ping over 125 bytes
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),
        (b"\x81\xff" + (1 << 40).to_bytes(8) + b"\0\0\0\0" + b"x" * 200_000, 1009),
        (b"\x81\xfe\xff\xff\0\0\0\0" + b"x" * 65_535 + b"\x80\x82\0\0\0\0xx", None),
        (b"\x01\xfe\xff\xff\0\0\0\0" + b"x" * 65_535 + b"\x80\x82\0\0\0\0xx", 1009),
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),  # 1005 may not be sent
        (b"\x88\x81\0\0\0\0\x03", 1002),  # half a code
    ],
    ids=[
        "a frame cut short",
        "not masked",
        "reserved bit",
        "opcode",
        "long ping",
        "not UTF-8",
        "a terabyte",
        "continuation of nothing",
        "too long in two frames",
        "close with 1005",
        "half a close code",
    ],
)
def test_a_frame_against_the_protocol_has_its_close_code(
    shared: GatewayProcess, frame: bytes, code: int | None
) -> None:
    with unharmed(shared):
        with raw_upgrade(shared) as sock:
            sock.sendall(frame)
            if code is None:
                sock.shutdown(socket.SHUT_WR)
            data = read_to_end(sock)
        if code is not None:
            assert b"\x88" in data
            close = data[data.rindex(b"\x88") :]
            assert int.from_bytes(close[2:4]) == code, data[-200:]
            shared.log.wait(f"INFO close .* code={code} ")


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        ("", '{"requestId": null, "code": "error", "message": "non-json-message"}'),
        ("{", '{"requestId": null, "code": "error", "message": "non-json-message"}'),
        ("[" * 60_000, '{"requestId": null, "code": "error", "message": "non-json-message"}'),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, '{"requestId": null, "code": "error", "message": "non-json-message"}'),
        ("NaN", '{"requestId": null, "code": "error", "message": "non-json-message"}'),
        ("[]", '{"requestId": null, "code": "error", "message": "message-type-not-allowed"}'),
        ('{"type": "x", "requestId": "ü"}', None),
        ('{"type": "subscribe"}', '{"requestId": null, "code": "error", "message": "no-request-id"}'),
        ('{"type": "subscribe", "requestId": []}', None),
        ('{"type": "subscribe", "requestId": 1}', '{"requestId": 1, "code": "error", "message": "invalid-room"}'),
        ('{"type": "subscribe", "requestId": 1, "room": {"a": 1}}', None),
    ],
    ids=range(11),
)
def test_a_bad_message_has_a_reply_and_the_connection_stays(
    shared: GatewayProcess, message: str, reply: str | None
) -> None:
    with connect(shared.websocket_url) as client:
        receive(client)
        client.send(message)
        got = receive(client).decode()
        assert got == (reply or got)
        assert json.loads(got)["code"] == "error"
        client.send("ping")
        assert receive(client) == b"pong"


def test_a_message_over_its_bound_closes_with_1009(shared: GatewayProcess) -> None:
    with connect(shared.websocket_url) as client:
        receive(client)
        client.send("x" * 65_537)
        assert closing(client)[0] == 1009


@pytest.mark.parametrize(
    ("since", "answer"),
    [
        (5, {"code": "error", "message": "invalid-since"}),
        ({"at": 1}, {"code": "error", "message": "invalid-since"}),
        ("", {"code": "success", "recovered": False}),
        ("nonsense", {"code": "success", "recovered": False}),
        ("0123456789ab.1", {"code": "success", "recovered": False}),  # of another gateway
        ("é.\0", {"code": "success", "recovered": False}),
        ("x" * 65_000, {"code": "success", "recovered": False}),
    ],
    ids=range(7),
)
def test_a_since_that_is_none_has_a_reply_and_what_comes_is_heard(
    shared: GatewayProcess, since: object, answer: dict[str, object]
) -> None:
    with unharmed(shared), connect(shared.websocket_url) as client:
        receive(client)
        client.send(json.dumps({"type": "subscribe", "requestId": 1, "room": OTHER, "since": since}))
        reply = json.loads(receive(client))
        at = reply.pop("at", None)
        assert reply == {"requestId": 1, **answer}
        assert (at is not None) == (answer["code"] == "success")
        if at is not None:
            trigger(shared, "heard", OTHER)
            assert json.loads(receive(client))["data"] == "heard"
            future = f"{at.partition('.')[0]}.{1 << 62:x}"
            client.send(json.dumps({"type": "subscribe", "requestId": 2, "room": OTHER, "since": future}))
            assert json.loads(receive(client))["recovered"] is False


def test_a_since_of_a_megabyte_is_a_message_over_its_bound(shared: GatewayProcess) -> None:
    with unharmed(shared), connect(shared.websocket_url) as client:
        receive(client)
        client.send(json.dumps({"type": "subscribe", "requestId": 1, "room": OTHER, "since": "x" * 1_000_000}))
        assert closing(client)[0] == 1009


def test_a_since_opens_no_room(shared: GatewayProcess) -> None:
    with unharmed(shared), connect(shared.websocket_url) as client:
        receive(client)
        client.send(json.dumps({"type": "subscribe", "requestId": 1, "room": OTHER, "since": None}))
        at = json.loads(receive(client))["at"]
        client.send(json.dumps({"type": "subscribe", "requestId": 2, "room": {"target": "ride"}, "since": at}))
        assert json.loads(receive(client)) == {"requestId": 2, "code": "error", "message": "room-not-found"}


# Triggers


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, b"the body is empty; expected JSON"),
        (b"{", 400, b"not JSON"),
        (b"5", 400, b"expected an object, got a number"),
        (b"null", 400, b"expected an object, got null"),
        (b"{}", 400, b"rooms not specified"),
        (b'{"data": 1}', 400, b"rooms not specified"),
        (b'{"rooms": []}', 400, b"data not specified"),
        (b'{"rooms": null, "data": 1}', 400, b"rooms: expected a list, got "),
        (b'{"rooms": {}, "data": 1}', 400, b"rooms: expected a list, got "),
        (b'{"rooms": [{}, 5], "data": 1}', 400, b"rooms[1]: expected an object, got a "),
        (b'{"rooms": [{"target": "car", "car": 1}, "x"], "data": 1}', 400, b"rooms[1]: expected an object, got a "),
        (b'{"rooms": [{"target": "car", "car": 1}], "data": NaN}', 400, b"not JSON"),
        (b'{"rooms": [{"target": "car", "car": 1}], "data": Infinity}', 400, b"not JSON"),
        (b'{"rooms": [{"target": "car", "car": 1}], "data": "\xff"}', 400, b"not UTF-8: invalid start byte at byte 50"),
        (b'{"rooms": [{"target": "car", "car": 1}], "data": "\xed\xa0\x80"}', 400, b"not UTF-8"),
        (b'{"rooms": [{"target": "car", "car": 1}], "data": "\\ud800"}', 400, b"surrogate"),
        (b'{"rooms": [{"target": "car", "car": 1}], "data": 1} trailing', 400, b"not JSON"),
        (b'{"rooms": [{"target": "car", "car": 1}], "data": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", 400, b"nested"),
        (b'{"rooms": [' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b'], "data": 1}', 400, b"nested"),
        (b'[{"rooms": [{"target": "car", "car": 1}], "data": 1}, {"rooms": []}]', 400, b"[1]: data not specified"),
        (
            b'[{"rooms": [{"target": "car", "car": 1}], "data": 1}, {"rooms": [1], "data": 1}]',
            400,
            b"[1]: rooms[0]: expected an object",
        ),
        (b'{"rooms": [{"target": "car", "car": 1}], "data": "' + b"x" * 600_000 + b'"}', 413, b"outbox_bytes"),
    ],
    ids=range(22),
)
def test_a_bad_trigger_says_what_and_where_and_nobody_gets_anything(
    shared: GatewayProcess, body: bytes, status: int, said: bytes
) -> None:
    with unharmed(shared):
        got, text, headers = request(shared.trigger_url, body)
        assert got == status
        assert said in text
        assert headers["content-type"].startswith("text/")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_form_is_no_trigger(shared: GatewayProcess, kind: str) -> None:
    status, text, _ = request(shared.trigger_url, b"rooms=1", {"Content-Type": kind})
    assert (status, text) == (415, b"a form is no trigger; send JSON as Content-Type: application/json, or as none")


def http(process: GatewayProcess) -> socket.socket:
    host, _, port = process.http_url.removeprefix("http://").rpartition(":")
    return dial((host, int(port)))


def test_a_hundred_megabytes_announced_are_refused_at_once(shared: GatewayProcess) -> None:
    with unharmed(shared):
        sock = http(shared)
        sock.sendall(b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1000)
        assert answer_of(sock)[:2] == (413, b"over 8388608 bytes (max_trigger_bytes)")


def test_a_hundred_megabytes_that_come_all_the_same_are_answered_too(shared: GatewayProcess) -> None:
    with unharmed(shared), http(shared) as sock:
        sock.sendall(b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n" % 1_000_000 + b"x" * 1_000_000 + b"\r\n"
        for _ in range(100):
            sock.sendall(chunk)
        sock.sendall(b"0\r\n\r\n")
        assert answer_of(sock)[:2] == (413, b"over 8388608 bytes (max_trigger_bytes)")


def test_half_a_body_is_a_408_and_a_caller_that_left_is_nobody() -> None:
    with serve_api() as api, gateway(f"--api-url={api.url}", f"--http-body-seconds={SLOWNESS}") as process:
        with unharmed(process):
            whole = b'{"rooms": [{"target": "car", "car": 1}], "data": 1}'
            start = b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(whole)
            sock = http(process)
            sock.sendall(start + whole[:-1])
            status, text, _ = answer_of(sock)
            assert (status, b"http_body_seconds" in text) == (408, True)
            for end in (reset, socket.socket.close):
                left = http(process)
                left.sendall(start + whole[:20])
                end(left)


@pytest.mark.parametrize(
    "start",
    [
        b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\xff\xfe\r\n\r\n",
    ],
    ids=["negative", "no number", "two lengths", "no chunk", "no HTTP"],
)
def test_a_wrong_length_is_a_400(shared: GatewayProcess, start: bytes) -> None:
    with unharmed(shared), http(shared) as sock:
        sock.sendall(start)
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock).startswith(b"HTTP/1.1 400 ")


def test_a_stream_publishes_what_came_before_its_bad_line(shared: GatewayProcess) -> None:
    good = b'{"rooms": [{"target": "car", "car": 1}], "data": %d}\n'
    headers = {"Content-Type": "application/x-ndjson"}
    with unharmed(shared) as bystander:
        status, text, _ = request(shared.trigger_url, good % 1 + b"\n" + good % 2 + b"{}\n" + good % 3, headers)
        assert (status, text) == (400, b"line 4: rooms not specified; published 2")
        assert receive(bystander).endswith(b'"data": 1}')
        assert receive(bystander).endswith(b'"data": 2}')
        assert request(shared.trigger_url, good % 4 + good % 5, headers)[:2] == (200, b"publish success: 2")
        assert receive(bystander).endswith(b'"data": 4}')
        assert receive(bystander).endswith(b'"data": 5}')


def test_an_array_is_all_or_nothing(shared: GatewayProcess) -> None:
    with unharmed(shared) as bystander:
        item = '{"rooms": [{"target": "car", "car": 1}], "data": %d}'
        body = f"[{item % 1}, {item % 2}]".encode()
        assert request(shared.trigger_url, body)[:2] == (200, b"publish success")
        assert [receive(bystander)[-10:] for _ in range(2)] == [b'"data": 1}', b'"data": 2}']
        assert request(shared.trigger_url, b"[]")[:2] == (200, b"publish success")


def test_a_storm_of_all_of_it_leaves_the_gateway_as_it_was(shared: GatewayProcess) -> None:
    with unharmed(shared), ExitStack() as open_sockets:
        for number in range(100):
            sock = open_sockets.enter_context(dial(shared.address))
            sock.sendall([b"", b"GET / HTTP", head(shared), b"\xff\r\n\r\n"][number % 4])
        for _ in range(20):
            sock = open_sockets.enter_context(http(shared))
            sock.sendall(b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
