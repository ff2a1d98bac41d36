"""What goes to sleep, or away, in the middle: nobody is blamed for it, nothing is torn, nothing comes twice."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.e2e.api import Api, Call, admit
from tests.e2e.clients import (
    CAR,
    answer_of,
    connect,
    dial,
    head,
    raw_subscriber,
    read_until,
    receive,
    reset,
    subscriber,
    trigger,
)
from tests.e2e.processes import NEVER_LATE, PATIENCE_SECONDS, SLOWNESS, GatewayProcess, Process, gateway

PONG = b"\x8a\x80\0\0\0\0"
# Says when it is subscribed, and then the numbers it gets.
READER = """
import json, sys, websockets.sync.client
with websockets.sync.client.connect(sys.argv[1], proxy=None, ping_interval=None, max_queue=1) as client:
    client.recv()
    client.send(json.dumps({"type": "subscribe", "requestId": "a", "room": json.loads(sys.argv[2])}))
    client.recv()
    print("joined", flush=True)
    for message in client:
        print(json.loads(message)["data"][0], flush=True)
"""


def published(number: int, size: int = 10_000) -> Any:
    """Return data that is told apart by its number and too large to be lost in a buffer."""
    return [number, "x" * size]


def expect(sock: socket.socket, count: int, size: int = 10_000) -> None:
    """Read publications 0 to `count`, byte by byte what was published, between them nothing but pings."""
    data = bytearray()
    for number in range(count):
        text = json.dumps({"requestId": "a", "type": "publish", "data": published(number, size)}).encode()
        frame = b"\x81\x7e" + len(text).to_bytes(2) + text
        while len(data) < len(frame) or data.startswith(b"\x89\x00"):
            if data.startswith(b"\x89\x00"):
                del data[:2]
                continue
            chunk = sock.recv(65_536)
            assert chunk, f"ended before publication {number}"
            data += chunk
        assert data.startswith(frame), (number, bytes(data[:80]))
        del data[: len(frame)]
    assert bytes(data).replace(b"\x89\x00", b"") == b""


def late_subscriber(process: GatewayProcess) -> socket.socket:
    """Return a subscriber for which something waits as soon as more than a few kilobytes are published."""
    return raw_subscriber(process, receive_buffer=4096)


# The gateway


def test_a_gateway_that_slept_past_every_deadline_cuts_nobody(api: Api) -> None:
    seconds = [f"--{name}-seconds={2 * SLOWNESS}" for name in ("ping", "pong", "slow", "outbox")]
    with gateway(f"--api-url={api.url}", *seconds) as process, ExitStack() as stack:
        late = stack.enter_context(closing(late_subscriber(process)))
        silent = stack.enter_context(closing(late_subscriber(process)))
        alive = stack.enter_context(subscriber(process.websocket_url))
        for number in range(40):
            trigger(process, published(number))
        process.signal(signal.SIGSTOP)
        time.sleep(5 * SLOWNESS)  # no synchronisation: it is this time that must not count
        process.signal(signal.SIGCONT)
        expect(late, 40)
        expect(silent, 40)
        for number in range(40):
            assert json.loads(receive(alive))["data"][0] == number
        read_until(silent, b"\x89\x00")  # the supervisor has looked at everybody since
        silent.sendall(PONG)
        late.sendall(PONG)
        trigger(process, "after")
        for sock in (late, silent):
            assert read_until(sock, b'"after"}').count(b"publish") == 1
        assert json.loads(receive(alive))["data"] == "after"
        assert process.log.matching(" close | slow ") == []


def test_who_is_in_the_middle_of_asking_when_the_gateway_sleeps_gets_an_answer(api: Api) -> None:
    def answer_late(_: Call) -> tuple[int, bytes]:
        asked.set()
        assert answering.wait(PATIENCE_SECONDS)
        return admit()

    names = ["handshake", "bootstrap", "http-body"]
    seconds = [f"--{name}-seconds={2 * SLOWNESS}" for name in names]
    with gateway(f"--api-url={api.url}", *seconds) as process, ExitStack() as stack:
        asked, answering = threading.Event(), threading.Event()
        client = stack.enter_context(closing(late_subscriber(process)))
        api.answer = answer_late
        arriving, waiting = (stack.enter_context(closing(dial(process.address))) for _ in range(2))
        publishing = stack.enter_context(closing(dial(answerer(process))))
        arriving.sendall(head(process)[:-9])
        waiting.sendall(head(process))
        publishing.sendall(request_head(process, JSON_HEADER, f"Content-Length: {len(one(1))}") + one(1)[:-1])
        assert asked.wait(PATIENCE_SECONDS)
        process.signal(signal.SIGSTOP)
        time.sleep(4 * SLOWNESS)  # as above
        answering.set()
        arriving.sendall(head(process)[-9:])
        publishing.sendall(one(1)[-1:])
        process.signal(signal.SIGCONT)
        for sock in (arriving, waiting):
            assert read_until(sock, b"\r\n").startswith(b"HTTP/1.1 101 ")
        assert answer_of(publishing)[:2] == (200, b"publish success")
        assert read_until(client, b'"data": 1}').count(b"publish") == 1


def test_a_gateway_that_slept_still_cuts_who_stays_slow(api: Api) -> None:
    with gateway(f"--api-url={api.url}", "--slow-seconds=1", "--goodbye-seconds=0.2") as process:
        with closing(late_subscriber(process)):
            for number in range(40):
                trigger(process, published(number))
            process.signal(signal.SIGSTOP)
            time.sleep(2)  # as above
            process.signal(signal.SIGCONT)
            process.log.wait("WARNING slow .*too slow: no progress")


# Clients


def test_a_client_process_that_was_stopped_gets_everything_in_order(api: Api) -> None:
    with gateway(f"--api-url={api.url}", *NEVER_LATE) as process:
        client = Process([sys.executable, "-c", READER, process.websocket_url, json.dumps(CAR)])
        try:
            client.output.wait("^joined$")
            client.signal(signal.SIGSTOP)
            for number in range(300):
                trigger(process, published(number, 3000))
            client.signal(signal.SIGCONT)
            client.output.wait("^299$")
            assert client.output.all == ["joined", *map(str, range(300))]
        finally:
            client.end()
        assert process.log.matching("slow") == []


def test_a_client_that_pauses_for_less_than_slow_seconds_gets_everything(api: Api) -> None:
    seconds = f"--slow-seconds={6 * SLOWNESS}"
    with gateway(f"--api-url={api.url}", seconds) as process, closing(late_subscriber(process)) as late:
        for number in range(60):
            trigger(process, published(number))
        time.sleep(2 * SLOWNESS)  # a pause is what this is about
        expect(late, 60)
        trigger(process, "after")
        assert read_until(late, b'"after"}').count(b"publish") == 1
        assert process.log.matching(" close | slow ") == []


# Publishers


def request_head(process: GatewayProcess, *headers: str) -> bytes:
    host = process.trigger_url.removeprefix("http://").partition("/")[0]
    return "\r\n".join(["POST /trigger/ HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


def one(number: int) -> bytes:
    return json.dumps({"rooms": [CAR], "data": number}).encode()


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


JSON_HEADER = "Content-Type: application/json"
NDJSON_HEADER = "Content-Type: application/x-ndjson"
WHOLE, TORN = one(1) + b"\n" + one(2) + b"\n", one(3)
BREAKS = {
    "json, length": ([JSON_HEADER, f"Content-Length: {len(one(1))}"], one(1)[:-1], []),
    "json, length, a whole trigger in more": ([JSON_HEADER, f"Content-Length: {len(one(1)) + 1}"], one(1), []),
    "json, chunked": ([JSON_HEADER, "Transfer-Encoding: chunked"], chunked(one(1)), []),
    "json, chunked, inside a chunk": ([JSON_HEADER, "Transfer-Encoding: chunked"], chunked(one(1))[:-9], []),
    "array": ([JSON_HEADER, "Content-Length: 1000"], b"[" + one(1) + b"," + one(2), []),
    "stream, length": ([NDJSON_HEADER, f"Content-Length: {len(WHOLE) + len(TORN)}"], WHOLE + TORN[:-1], [1, 2]),
    "stream, length, a whole line in more": ([NDJSON_HEADER, "Content-Length: 1000"], WHOLE + TORN, [1, 2]),
    "stream, chunked": ([NDJSON_HEADER, "Transfer-Encoding: chunked"], chunked(WHOLE, TORN), [1, 2]),
    "stream, inside a chunk": ([NDJSON_HEADER, "Transfer-Encoding: chunked"], chunked(WHOLE, TORN)[:-9], [1, 2]),
}


@pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["reset", "close"])
@pytest.mark.parametrize("how", BREAKS)
def test_a_publisher_gone_in_the_middle_publishes_nothing_torn(shared: GatewayProcess, how: str, leave: Any) -> None:
    headers, body, whole = BREAKS[how]
    with subscriber(shared.websocket_url) as client:
        sock = dial(answerer(shared))
        sock.sendall(request_head(shared, *headers) + body)
        for number in whole:  # lines are published as they come
            assert json.loads(receive(client))["data"] == number
        leave(sock)
        trigger(shared, "after")
        assert json.loads(receive(client))["data"] == "after"
        again = dial(answerer(shared))
        again.sendall(request_head(shared, JSON_HEADER, f"Content-Length: {len(one(9))}") + one(9))
        assert answer_of(again)[:2] == (200, b"publish success")
        assert json.loads(receive(client))["data"] == 9


def answerer(process: GatewayProcess) -> tuple[str, int]:
    """The trigger listener, for a bare socket."""
    host, _, port = process.trigger_url.removeprefix("http://").partition("/")[0].rpartition(":")
    return host, int(port)


# Gaps


def policy(**entry: Any) -> str:
    return f"--room-policy={json.dumps(entry)}"


def late_messages(process: GatewayProcess, count: int) -> list[dict[str, Any]]:
    """Publish `count` while a client of another library does not read; return what it gets of it, up to "after"."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(process.address)
    with connect(process.websocket_url, sock=small, max_queue=1) as client:
        receive(client)
        client.send(json.dumps({"type": "subscribe", "requestId": "a", "room": CAR}))
        assert json.loads(receive(client))["code"] == "success"
        for number in range(count):
            trigger(process, published(number))
        messages: list[dict[str, Any]] = []
        while not messages or messages[-1].get("data") != "after":
            messages.append(json.loads(receive(client)))
            if messages[-1].get("data", [None])[0] == count - 1:
                trigger(process, "after")
        return messages


@pytest.mark.parametrize(
    "entry",
    [{"policy": "conflate"}, {"policy": "drop_oldest", "outbox_bytes": 30_000}],
    ids=["conflate", "drop_oldest"],
)
def test_a_late_reader_is_told_how_many_it_lost_before_the_next(api: Api, entry: dict[str, Any]) -> None:
    with gateway(f"--api-url={api.url}", policy(match={"target": "car", "car": "*"}, **entry), *NEVER_LATE) as process:
        messages = late_messages(process, 100)
        assert messages.pop()["data"] == "after"
        gaps = [message for message in messages if message["type"] == "gap"]
        assert gaps
        at = 0
        for message in messages:  # each number is either got, or counted by the gap before the next one
            assert message["requestId"] == "a"
            if message["type"] == "gap":
                assert message["lost"] > 0
                at += message["lost"]
            else:
                assert message["data"] == published(at)
                at += 1
        assert at == 100
        assert process.log.matching(" slow ") == []
