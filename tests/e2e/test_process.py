"""The process: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import errno
import re
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import unix_connect

from tests.e2e.api import Api, Call, admit
from tests.e2e.clients import (
    closing,
    connect,
    dial,
    raw_subscriber,
    read_to_end,
    receive,
    request,
    seconds_of,
    subscribe,
    subscriber,
    trigger,
)
from tests.e2e.processes import (
    FREE_PORTS,
    PATIENCE_SECONDS,
    SLOWNESS,
    GatewayProcess,
    Process,
    eventually,
    gateway,
)

API = "--api-url=http://127.0.0.1:9/"
ENDLESS = ["--drain-seconds=86400", "--goodbye-seconds=86400"]


def test_the_ready_line_has_the_addresses_that_work(api: Api) -> None:
    ports = ["--bind=127.0.0.1:0", "--bind=[::1]:0", "--trigger-bind=localhost:0"]
    with gateway(f"--api-url={api.url}", ports=ports) as process:
        pattern = r"ready on ws://127\.0\.0\.1:\d+/ws/, ws://\[::1\]:\d+/ws/, (http://\S+)/trigger/, dashboard at \1/$"
        assert len(process.log.matching(pattern)) == 1
        for url in process.places[:2]:
            with connect(url) as client:
                assert receive(client).startswith(b'{"allowed_rooms"')
        trigger(process, 1)


def test_unix_sockets_serve_both_sides_and_one_left_behind_is_replaced(api: Api, tmp_path: Path) -> None:
    path, posts = tmp_path / "ws.sock", tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))  # as after a crash: the file is there, nobody listens
    ports = [f"--bind=unix:{path}", f"--trigger-bind=unix:{posts}"]
    with gateway(f"--api-url={api.url}", ports=ports) as process:
        assert process.places == [f"unix:{path}", f"unix:{posts}"]
        with unix_connect(str(path), "ws://any/ws/", open_timeout=PATIENCE_SECONDS) as client:
            assert receive(client).startswith(b'{"allowed_rooms"')
            assert subscribe(client) == b'{"requestId": "a", "code": "success"}'
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(posts))
                body = b'{"rooms": [{"target": "car", "car": 1}], "data": 5}'
                caller.sendall(
                    b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
                    % (len(body), body)
                )
                assert read_to_end(caller).endswith(b"publish success")
            assert receive(client) == b'{"requestId": "a", "type": "publish", "data": 5}'


def test_systemd_hears_that_it_is_ready_and_that_it_stops(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(path))
        notified.settimeout(PATIENCE_SECONDS)
        with gateway(API, environment={"NOTIFY_SOCKET": str(path)}) as process:
            assert notified.recv(100) == b"READY=1"
            process.signal(signal.SIGTERM)
            assert notified.recv(100) == b"STOPPING=1"
            assert process.wait() == 0


def refused(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Start a gateway that cannot start and return the one line it says; its exit status is 2."""
    process = GatewayProcess(*arguments, environment=environment)
    try:
        assert process.wait() == 2
        assert process.output.rest() == []
        (line,) = process.log.rest()
        return line
    finally:
        process.end()


def test_whatever_is_wrong_is_named_in_one_line_with_status_2(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("api_url = 'http://127.0.0.1:9/'\nbinds = '127.0.0.1:0'\n")
    assert refused(f"--config={file}") == f"trio-templar: binds in {file}: there is no such setting; did you mean bind?"
    file.write_text("api_url = 'http")
    assert refused(f"--config={file}").startswith(f"trio-templar: --config {file}: ")
    assert refused(f"--config={tmp_path}/none").startswith(f"trio-templar: --config: {tmp_path}/none: ")
    assert "--no-such" in refused(API, "--no-such=1")
    assert "--drain-seconds" in refused(API, "--drain-seconds=soon")
    assert "TRIO_TEMPLAR_DIALECT" in refused(API, environment={"TRIO_TEMPLAR_DIALECT": "4"})
    assert "api_url" in refused(*FREE_PORTS)
    assert "connection_header" in refused(API, "--connection-header=X")


def test_an_address_that_cannot_be_listened_on_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"cannot listen on {address}: " in refused(API, f"--bind={address}", "--trigger-bind=")
        assert f"cannot listen on {address}: " in refused(API, "--bind=127.0.0.1:0", f"--trigger-bind={address}")
    assert "cannot listen on 192.0.2.1:0" in refused(API, "--bind=192.0.2.1:0", "--trigger-bind=")
    assert "no.such.host.invalid:0" in refused(API, "--bind=no.such.host.invalid:0", "--trigger-bind=")
    assert f"unix:{tmp_path}/no/x" in refused(API, f"--bind=unix:{tmp_path}/no/x", "--trigger-bind=")
    assert "no port at all" in refused(API, "--bind=no port at all", "--trigger-bind=")


def test_triggers_from_other_machines_need_a_token_or_a_word() -> None:
    said = refused(API, "--bind=127.0.0.1:0", "--trigger-bind=0.0.0.0:0")
    assert "trigger_bind: 0.0.0.0:0 can be reached from other machines" in said
    assert "insecure_trigger" in said
    ports = ["--bind=127.0.0.1:0", "--trigger-bind=0.0.0.0:0"]
    with gateway(API, "--insecure-trigger", ports=ports):
        pass
    with gateway(API, ports=ports, environment={"TRIO_TEMPLAR_TRIGGER_TOKEN": "t"}):
        pass


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        "api-url = 'http://127.0.0.1:9/'\nbind = ['127.0.0.1:0']\ntrigger_bind = '127.0.0.1:0'\n"
        "path = '/file/'\nlog_format = 'text'\nlog-level = 'error'\n"
    )
    environment = {"TRIO_TEMPLAR_CONFIG": str(file), "TRIO_TEMPLAR_PATH": "/environment/"}
    with gateway("--log-format=json", ports=[], environment=environment) as process:
        assert process.websocket_url.endswith("/environment/")
    with gateway("--path=/line/", ports=[], environment=environment) as process:
        assert process.websocket_url.endswith("/line/")


def test_the_installed_command_is_the_same() -> None:
    script = Path(sys.executable).with_name("trio-templar")
    if not script.exists():
        pytest.skip("the package is not installed here, so there is no trio-templar script")
    process = Process([str(script), "serve", API, *FREE_PORTS])
    try:
        process.log.wait("^trio-templar: ready on ")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    finally:
        process.end()


def test_sigterm_sends_what_waits_closes_with_1012_and_exits_with_0(api: Api, running: GatewayProcess) -> None:
    with raw_subscriber(running, receive_buffer=4096) as sock:
        data = "x" * 300_000
        trigger(running, data)  # more than the socket takes: the end of it waits in the outbox
        with subscriber(running.websocket_url) as client:
            running.signal(signal.SIGTERM)
            assert closing(client) == (1012, "the gateway is stopping")
        received = read_to_end(sock)
    assert received.endswith(b"\x88\x19\x03\xf4the gateway is stopping")
    assert data.encode() in received
    assert running.wait() == 0
    assert len(running.log.matching('INFO close .* code=1012 .* why="the gateway is stopping"')) == 2


def test_sigterm_runs_the_disconnect_hooks(api: Api) -> None:
    api.answer = lambda call: admit() if call.method == "GET" else (204, b"")
    settings = ["--on-disconnect=offline/", f"--drain-seconds={2 * SLOWNESS}"]
    with gateway(f"--api-url={api.url}", *settings) as process, ExitStack() as stack:
        for _ in range(3):
            receive(stack.enter_context(connect(process.websocket_url)))
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert len([call for call in api.calls if call.path == "/offline/"]) == 3


def test_who_does_not_read_cannot_delay_the_end(api: Api) -> None:
    settings = ["--drain-seconds=3", f"--goodbye-seconds={10 * PATIENCE_SECONDS}"]
    with gateway(f"--api-url={api.url}", *settings) as process, ExitStack() as stack:
        stack.enter_context(raw_subscriber(process, receive_buffer=4096))
        trigger(process, "x" * 500_000)
        caller = stack.enter_context(dial_http(process, receive_buffer=2048))
        caller.settimeout(0.3)
        questions = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000_000
        with pytest.raises(TimeoutError):  # it does not read our questions any more, as we do not read its answers
            caller.sendall(questions)
        silent = stack.enter_context(dial_http(process))
        silent.sendall(b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0  # long before the goodbye is over


def dial_http(process: GatewayProcess, receive_buffer: int | None = None) -> socket.socket:
    host, _, port = process.http_url.removeprefix("http://").rpartition(":")
    return dial((host, int(port)), receive_buffer)


@pytest.mark.timed  # its promise: a second, and what Python takes to end
def test_sigint_waits_a_second_at_most(api: Api) -> None:
    with gateway(f"--api-url={api.url}", *ENDLESS) as process, ExitStack() as stack:
        stack.enter_context(raw_subscriber(process, receive_buffer=4096))
        trigger(process, "x" * 500_000)
        client = stack.enter_context(connect(process.websocket_url))
        start = time.monotonic()
        process.signal(signal.SIGINT)
        assert closing(client)[0] == 1012
        assert process.wait() == 0
        assert seconds_of(start) < 2.5


def test_a_second_signal_ends_it_now(api: Api) -> None:
    with gateway(f"--api-url={api.url}", *ENDLESS) as process, raw_subscriber(process, receive_buffer=4096):
        trigger(process, "x" * 500_000)
        process.signal(signal.SIGTERM)
        process.log.wait("INFO drain connections=1 ")
        process.signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM


def test_while_it_stops_a_client_that_is_being_asked_about_gets_503_and_nobody_new_gets_in(api: Api) -> None:
    may_answer = threading.Event()

    def wait(_: Call) -> tuple[int, bytes]:
        may_answer.wait(PATIENCE_SECONDS)
        return admit()

    api.answer = wait
    statuses: list[int] = []
    with gateway(f"--api-url={api.url}") as process:

        def visit() -> None:
            with pytest.raises(InvalidStatus) as refused, connect(process.websocket_url):
                pass
            statuses.append(refused.value.response.status_code)

        visitor = threading.Thread(target=visit)
        visitor.start()
        api.called("/bootstrap/")
        process.signal(signal.SIGTERM)
        eventually(lambda: is_closed(process.address))
        may_answer.set()
        visitor.join()
        assert statuses == [503]
        assert process.wait() == 0


def is_closed(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == errno.ECONNREFUSED


def test_out_of_descriptors_it_pauses_says_so_once_and_goes_on(api: Api, running: GatewayProcess) -> None:
    with connect(running.websocket_url) as early, ExitStack() as waiting:
        receive(early)
        limit = running.descriptors() + 20
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (limit, limit))
        for _ in range(40):
            waiting.enter_context(dial(running.address))
        running.log.wait("WARNING cannot accept clients for now: Too many open files")
        early.send("ping")
        assert receive(early) == b"pong"
        waiting.close()
        with connect(running.websocket_url) as late:
            assert receive(late).startswith(b'{"allowed_rooms"')
    assert len(running.log.matching("cannot accept")) == 1


def test_out_of_descriptors_triggers_and_probes_are_answered_all_the_while(api: Api, running: GatewayProcess) -> None:
    live = running.trigger_url.replace("/trigger/", "/health/live")
    with ExitStack() as waiting:
        limit = running.descriptors() + 40
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (limit, limit))
        for number in range(60):
            waiting.enter_context(dial(running.address))
            waiting.enter_context(dial_http(running))
            if not number % 10:
                trigger(running, number)
                assert request(live)[0] == 200
        running.log.wait("WARNING cannot accept clients for now: Too many open files")
        for number in range(5):
            trigger(running, number)
            assert request(live)[0] == 200


def test_callers_of_the_http_port_leave_descriptors_to_clients(api: Api, running: GatewayProcess) -> None:
    with ExitStack() as waiting:
        limit = running.descriptors() + 40
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (limit, limit))
        for _ in range(100):
            waiting.enter_context(dial_http(running))
        with connect(running.websocket_url) as client:
            assert receive(client).startswith(b'{"allowed_rooms"')
    assert running.log.matching("cannot accept") == []


@pytest.mark.parametrize(("hard", "few"), [(300, ["limit=300 wanted=1532"]), (2000, [])])
def test_it_takes_the_descriptors_it_may_and_says_at_start_if_they_are_few(hard: int, few: list[str]) -> None:
    limited = ["sh", "-c", f'ulimit -Sn 256 && ulimit -Hn {hard} && exec "$@"', "sh"]
    process = Process(
        [*limited, sys.executable, "-m", "trio_templar", "serve", API, "--max-connections=400", *FREE_PORTS]
    )
    try:
        process.log.wait("ready on ")
        found = [re.search("limit=.* wanted=[0-9]+", line) for line in process.log.matching("WARNING few descriptors ")]
        assert [match and match[0] for match in found] == few
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == min(hard, 1532)
    finally:
        process.end()


def test_one_more_than_max_connections_gets_503(api: Api) -> None:
    with gateway(f"--api-url={api.url}", "--max-connections=1") as process:
        with connect(process.websocket_url) as client:
            receive(client)
            with pytest.raises(InvalidStatus) as refused, connect(process.websocket_url):
                pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"]
            process.log.wait(r"status=503 .*max_connections")
        process.wait_idle()
        with connect(process.websocket_url) as client:
            receive(client)


def test_the_log_has_one_line_at_open_and_one_at_close(api: Api, running: GatewayProcess) -> None:
    with subscriber(running.websocket_url) as client:
        trigger(running, 1)
        receive(client)
        client.close(1000, "enough")
    uuid, peer = "[0-9a-f-]{36}", r"127\.0\.0\.1:\d+"
    opened = running.log.wait(f" INFO open id={uuid} user=7 peer={peer}$")
    closed = running.log.wait(
        rf" INFO close id={uuid} user=7 peer={peer} code=1000 seconds=\d+\.\d+ frames=1 bytes=\d+ why=enough$"
    )
    assert [len(opened), len(closed)] == [1, 1]
    assert len(running.log.all) == 3


def test_a_json_log_has_one_object_a_line(api: Api) -> None:
    import json

    with gateway(f"--api-url={api.url}", "--log-format=json") as process:
        with connect(process.websocket_url) as client:
            receive(client)
        line = json.loads(process.log.wait('"event": "close"')[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert (line["level"], line["logger"], line["code"], line["user"]) == ("info", "trio_templar.connection", 1000, "7")


def test_help_and_an_unknown_path_of_the_http_side_are_plain(shared: GatewayProcess) -> None:
    assert request(shared.http_url + "/nothing")[:2] == (404, b"nothing here")
    assert request(shared.http_url + "/trigger/")[0] == 405
