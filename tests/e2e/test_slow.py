"""Clients that do not keep up, or say nothing: each costs only itself, and is named in the log."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack

from tests.e2e.api import Api
from tests.e2e.clients import publish_until_cut, raw_subscriber, raw_upgrade, read_to_end, receive, subscriber, trigger
from tests.e2e.processes import NEVER_LATE, SLOWNESS, gateway


def test_a_client_that_never_reads_is_cut_with_1013_and_only_it(api: Api) -> None:
    bounds = ["--outbox-bytes=200000", "--goodbye-seconds=0.2"]
    with gateway(f"--api-url={api.url}", *bounds) as process, ExitStack() as stack:
        healthy = [stack.enter_context(subscriber(process.websocket_url)) for _ in range(3)]
        stack.enter_context(raw_subscriber(process, receive_buffer=4096))
        publish_until_cut(process, *healthy)
        process.wait_idle(connections=3)
        trigger(process, "after")
        for client in healthy:
            assert receive(client) == b'{"requestId": "a", "type": "publish", "data": "after"}'
        assert len(process.log.wait('WARNING slow .*why="too slow: too many bytes wait".*waiting_bytes=')) == 1
        assert len(process.log.matching(" close .* code=1013")) == len(process.log.matching(" close ")) == 1


def test_frames_are_bounded_as_bytes_are(api: Api) -> None:
    bounds = ["--outbox-frames=50", "--outbox-bytes=50000000", "--goodbye-seconds=0.2", *NEVER_LATE]
    with gateway(f"--api-url={api.url}", *bounds) as process, raw_subscriber(process, receive_buffer=4096):
        for _ in range(10):
            trigger(process, "x" * 50_000)  # some of them wait
        for _ in range(50):
            trigger(process, 1)
        process.log.wait("WARNING slow .*too slow: too many frames wait")
        process.log.wait(" close .* code=1013 ")


def test_what_waits_without_progress_is_cut_after_slow_seconds(api: Api) -> None:
    seconds = ["--slow-seconds=0.4", "--goodbye-seconds=0.2"]
    with gateway(f"--api-url={api.url}", *seconds) as process, raw_subscriber(process, receive_buffer=4096):
        trigger(process, "x" * 500_000)
        process.log.wait("WARNING slow .*too slow: no progress")


def test_a_client_that_reads_late_gets_everything_in_order(api: Api) -> None:
    with gateway(f"--api-url={api.url}", *NEVER_LATE) as process, raw_subscriber(process, receive_buffer=4096) as late:
        for number in range(50):
            trigger(process, [number, "x" * 10_000])
        process.signal(signal.SIGTERM)
        data = read_to_end(late)
    positions = [data.index(b'"data": [%d,' % number) for number in range(50)]
    assert positions == sorted(positions)
    assert data.endswith(b"\x88\x19\x03\xf4the gateway is stopping")


def test_a_silent_client_is_pinged_and_closed_if_it_does_not_answer(api: Api) -> None:
    seconds = ["--ping-seconds=0.3", f"--pong-seconds={2 * SLOWNESS}", "--goodbye-seconds=0.2"]
    with gateway(f"--api-url={api.url}", *seconds) as process:
        with subscriber(process.websocket_url) as alive, raw_upgrade(process) as silent:
            data = read_to_end(silent)
            assert b"\x89\x00" in data
            assert data.endswith(b"\x88\x15\x03\xf3no answer to a ping")
            process.log.wait('code=1011 .*why="no answer to a ping"')
            trigger(process, 1)  # the `websockets` package answers pings
            assert receive(alive) == b'{"requestId": "a", "type": "publish", "data": 1}'


def test_a_stopped_process_blames_nobody_for_the_time_it_slept(api: Api) -> None:
    seconds = ["--ping-seconds=0.3", f"--pong-seconds={SLOWNESS}", "--slow-seconds=0.3"]
    with gateway(f"--api-url={api.url}", *seconds) as process, subscriber(process.websocket_url) as client:
        process.signal(signal.SIGSTOP)
        time.sleep(1.5 * SLOWNESS)  # no synchronisation: it is this time that must not count
        process.signal(signal.SIGCONT)
        trigger(process, 1)
        assert receive(client) == b'{"requestId": "a", "type": "publish", "data": 1}'
        assert process.log.matching(" close ") == []
