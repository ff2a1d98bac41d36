"""The commands as a shell runs them: what they print, on which side, and their exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.api import Api
from tests.e2e.clients import CAR, receive, subscriber, trigger
from tests.e2e.processes import PATIENCE_SECONDS, ROOT, SLOWNESS, GatewayProcess, Process, gateway, reserved_address
from tests.e2e.relay import relay

ROOM = json.dumps(CAR)


def command(
    *arguments: str, given: str | None = None, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a command to its end; return its status and what it wrote to standard output and standard error."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_TEMPLAR_")}
    done = subprocess.run(
        [sys.executable, "-m", "trio_templar", *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT), **(environment or {})},
        input=given or "",
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert len(done.stderr.splitlines()) <= 1, done.stderr
    return done.returncode, done.stdout, done.stderr


def at_http(running: GatewayProcess) -> str:
    return f"--url={running.http_url}"


def at_websocket(running: GatewayProcess) -> str:
    return f"--url={running.websocket_url}"


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address at which nobody listens."""
    with reserved_address() as address:
        yield address


def test_what_is_published_arrives_from_argument_file_and_standard_input(
    shared: GatewayProcess, tmp_path: Path
) -> None:
    file = tmp_path / "data.json"
    file.write_text('{"from": "file"}\n')
    with subscriber(shared.websocket_url) as client:
        publish = ["publish", ROOM, at_http(shared)]
        assert command("publish", "{}", at_http(shared), "--data=1") == (0, "publish success, to 0 subscribers\n", "")
        reached = (0, "publish success, to 1 subscriber\n", "")
        assert command(*publish, "--data=[1.50]") == reached
        assert command(*publish, f"--file={file}") == reached
        assert command(*publish, given='"piped"') == reached
        status, output, _ = command(*publish, "--stream", "--json", given="1\n\n2\n3")
        assert (status, json.loads(output)["answer"]["written"]) == (0, 3)
        data = [json.loads(receive(client))["data"] for _ in range(6)]
        assert data == [[1.5], {"from": "file"}, "piped", 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{target: car}", "--data=1"], "ROOM 1: '{target: car}'"),
        ([ROOM, "[]", "--data=1"], "ROOM 2: '[]'"),
        (["news", "--data=1"], "ROOM 1: 'news' is not a JSON object, as '{\"target\": \"news\"}' is: not JSON"),
        ([ROOM, "--data={"], "--data: not JSON"),
        ([ROOM, "--data=hello"], """a text needs quotes of its own: --data '"text"'"""),
        ([ROOM], "standard input: not JSON"),
        ([ROOM, "--file=/no/such"], "--file /no/such: No such file"),
        ([ROOM, "--file=/"], "--file /: Is a directory"),
        (["--data=1"], "which ROOM?"),
        (["--stream", "--file=/"], "--file /: Is a directory"),
        ([ROOM, "--data=1", "--stream"], "--data: not together"),
        ([ROOM, "--data=1", "--url=nonsense"], "--url: 'nonsense'"),
        ([ROOM, "--data=1", "--timeout=0"], "--timeout"),
        ([ROOM, "--data=1", "--token-file=/no/such"], "--token-file: /no/such: No such"),
        ([ROOM, "--data=1", "--url=https://127.0.0.1:1", "--ca=/no/such"], "--ca: /no/such"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_publish_is_one_line_and_status_2(arguments: list[str], words: str) -> None:
    status, output, error = command("publish", *arguments)
    assert (status, output) == (2, "")
    assert error.startswith("trio-templar: ")
    assert words in error


def test_the_status_says_what_kind_of_failure_it_was(shared: GatewayProcess, api: Api, nowhere: str) -> None:
    url = f"http://{nowhere}"
    assert command("publish", ROOM, "--data=1", f"--url={url}") == (
        3,
        "",
        f"trio-templar: cannot reach {url}: Connection refused\n",
    )
    status, _, error = command("publish", ROOM, at_http(shared), given=f'"{"x" * 600_000}"')
    assert (status, ": 413: data has" in error) == (1, True)
    with gateway(f"--api-url={api.url}", environment={"TRIO_TEMPLAR_TRIGGER_TOKEN": "right"}) as guarded:
        publish = ["publish", ROOM, "--data=1", at_http(guarded)]
        status, _, error = command(*publish, environment={"TRIO_TEMPLAR_TRIGGER_TOKEN": "wrong"})
        assert (status, ": 401: the trigger token" in error) == (4, True)
        assert command(*publish, "--token=right")[0] == 0
        assert command(*publish, environment={"TRIO_TEMPLAR_TRIGGER_TOKEN": "right"})[0] == 0


@pytest.mark.parametrize("asked", [["tree", "https"], ["listen", "wss"]], ids=str)
def test_an_address_without_tls_is_said_to_fail_at_tls(asked: list[str], shared: GatewayProcess) -> None:
    name, scheme = asked
    host = (shared.http_url if name == "tree" else shared.websocket_url).partition("://")[2]
    status, _, error = command(name, f"--url={scheme}://{host}")
    assert status == 3
    assert re.search(r"cannot reach .*: the TLS handshake failed: (wrong version number|record layer failure)$", error)


def test_commands_find_the_gateway_by_its_own_file(api: Api, tmp_path: Path) -> None:
    path, posts = tmp_path / "ws.sock", tmp_path / "http.sock"
    (tmp_path / "token").write_text("s3cret\n")
    file = tmp_path / "gateway.toml"
    file.write_text(
        f"api_url = '{api.url}'\nbind = ['unix:{path}']\ntrigger_bind = 'unix:{posts}'\npath = '/live/'\n"
        f"trigger_token_file = '{tmp_path}/token'\n"
    )
    with gateway(f"--config={file}", ports=[]):
        listener = Process([sys.executable, "-m", "trio_templar", "listen", ROOM, f"--config={file}", "--count=1"])
        try:
            listener.log.wait("listening to")
            assert command("publish", ROOM, "--data=7", f"--config={file}")[0] == 0
            assert listener.wait() == 0
            assert listener.output.all == ["7"]
        finally:
            listener.end()


def test_a_wrong_setting_of_the_environment_is_named_by_every_command() -> None:
    for arguments in (["publish", ROOM, "--data=1"], ["listen", ROOM]):
        status, _, error = command(*arguments, environment={"TRIO_TEMPLAR_BIND": "nonsense"})
        assert (status, "TRIO_TEMPLAR_BIND: 'nonsense'" in error) == (2, True)


def test_listen_ends_with_6_when_the_gateway_does_and_with_130_at_ctrl_c(api: Api) -> None:
    with gateway(f"--api-url={api.url}") as process:
        listen = [sys.executable, "-m", "trio_templar", "listen", ROOM, at_websocket(process)]
        one, other = Process(listen), Process(listen)
        try:
            one.log.wait("listening to")
            other.log.wait("listening to")
            one.signal(signal.SIGINT)
            assert one.wait() == 130
            process.signal(signal.SIGTERM)
            assert other.wait() == 6
            assert "closed with 1012: the gateway is stopping" in other.log.all[-1]
        finally:
            one.end()
            other.end()


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, -15),
        (signal.SIGHUP, -1),
    ],
)
def test_a_signal_ends_listen_with_a_goodbye(number: signal.Signals, status: int, api: Api) -> None:
    with gateway(f"--api-url={api.url}") as process:
        listener = Process([sys.executable, "-m", "trio_templar", "listen", ROOM, at_websocket(process)])
        try:
            listener.log.wait("listening to")
            listener.signal(number)
            assert listener.wait() == status
            assert " code=1000 " in process.log.wait(" close ")[0]
        finally:
            listener.end()


def test_a_listener_that_was_cut_off_prints_what_it_missed_and_can_be_followed_by_another(api: Api) -> None:
    with gateway(f"--api-url={api.url}") as process, relay(process.address) as way:
        listen = [sys.executable, "-m", "trio_templar", "listen", ROOM, f"--url={way.url}", "--json"]
        one = Process([*listen, "--reconnect", "--since", "--count=8"])
        try:
            for start in (0, 4):
                one.log.wait("listening to", 1 + start // 4)
                trigger(process, start)
                one.output.wait(f'"data": {start}}}')
                assert way.cut() == 1
                for number in (1, 2, 3):
                    trigger(process, start + number)
            assert one.wait() == 0
            lines = [json.loads(line) for line in one.output.all]
            assert [line["data"] for line in lines] == list(range(8))
            assert not [note for note in one.log.all if "missed" in note]
        finally:
            one.end()
        status, output, note = command(*listen[3:], "--count=5", f"--since={lines[2]['at']}")
        assert (status, [json.loads(line)["data"] for line in output.splitlines()]) == (0, list(range(3, 8)))
        assert "missed" not in note


def test_what_a_terminal_cannot_show_is_printed_as_json_escapes_it(shared: GatewayProcess) -> None:
    listen = [sys.executable, "-m", "trio_templar", "listen", ROOM, at_websocket(shared), "--count=1"]
    listener = Process(listen, environment={"PYTHONIOENCODING": "ascii"})
    try:
        listener.log.wait("listening to")
        assert command("publish", ROOM, at_http(shared), "--data", '{"name": "Käfer 🚗"}')[0] == 0
        assert listener.wait() == 0
        assert listener.output.all == [r'{"name": "K\u00e4fer \ud83d\ude97"}']
    finally:
        listener.end()


def test_data_that_comes_late_is_published_without_a_word(shared: GatewayProcess) -> None:
    publish = f"{sys.executable} -m trio_templar publish '{ROOM}' {at_http(shared)} --timeout={SLOWNESS}"
    done = subprocess.run(
        ["bash", "-c", f"(sleep {2 * SLOWNESS}; echo 1) | {publish}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "publish success, to 0 subscribers\n", "")


def test_listen_says_why_it_is_not_let_in(shared: GatewayProcess, api: Api, nowhere: str) -> None:
    api.answer = lambda _: (403, b"")
    with gateway(f"--api-url={api.url}") as strict:
        status, _, error = command("listen", ROOM, at_websocket(strict))
        assert (status, "403: not authorized" in error) == (4, True)
    assert command("listen", '{"no": 1}', at_websocket(shared))[0] == 4
    assert command("listen", ROOM, f"--url=ws://{nowhere}")[0] == 3
    status, _, error = command("listen", ROOM, f"--url={shared.websocket_url}nothing")
    assert (status, "404: nothing here (is this" in error) == (1, True)


def test_cookies_tokens_and_headers_reach_the_api(api: Api) -> None:
    with gateway(f"--api-url={api.url}", "--connection-header=X-Who=key:x-me") as process:
        who = ["--cookie=a=1", "--cookie=b=2", "--token=t&t", "--header=X-Me: me"]
        assert command("listen", "--rooms", at_websocket(process), *who)[:2] == (0, '{"target": "car", "car": "*"}\n')
    (call,) = api.calls
    assert call.header("cookie") == "a=1; b=2"
    assert call.header("authorization") == "Token t&t"
    assert call.header("x-who") == "me"


def test_who_stops_reading_ends_it_without_a_word(shared: GatewayProcess) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # before it begins, as `listen | true` may or may not
    with os.fdopen(writing) as output:
        listen = [sys.executable, "-m", "trio_templar", "listen", "--rooms", at_websocket(shared), "--quiet"]
        done = subprocess.run(
            listen, stdout=output, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_SECONDS, cwd=ROOT, check=False
        )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


# What clears a terminal: ESC [ in seven bits, and its C1 form; and what turns the order of letters round.
STEERING = "\x1b[2J\x9b2J\u202e"
READABLE = r"\u001b[2J\u009b2J\u202e"


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives one answer to every request, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65_536)
                sock.sendall(answer)

        served = pool.submit(serve)
        yield "{}:{}".format(*listener.getsockname())
        served.result(PATIENCE_SECONDS)


@pytest.mark.parametrize("asked", [["publish", ROOM, "--data=1"], ["tree"], ["top"], ["listen", ROOM]], ids=str)
def test_no_answer_steers_the_terminal(asked: list[str]) -> None:
    body = f"no{STEERING}".encode()
    head = f"HTTP/1.1 404 no\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with answering(head.encode() + body) as address:
        scheme = "ws" if asked[0] == "listen" else "http"
        where = f"--url={scheme}://{address}"
        status, _, error = command(*asked, where)
    assert status == 1
    assert f"404: no{READABLE} (" in error


def test_a_tree_does_not_steer_the_terminal() -> None:
    tree = json.dumps({"name": STEERING, "count": 1, "children": []})
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(tree)}\r\n\r\n"
    with answering((head + tree).encode()) as address:
        assert command("tree", f"--url=http://{address}") == (0, f"{READABLE}\n", "")


def test_a_publication_is_one_line_that_does_not_steer_the_terminal(shared: GatewayProcess) -> None:
    listening = Process([sys.executable, "-m", "trio_templar", "listen", ROOM, at_websocket(shared), "--count=2"])
    try:
        listening.log.wait("listening to")
        data = '{"a": "\x7f\x9b2J\u202e", "caf\u00e9": "10\u00a0\u20ac"}'
        assert command("publish", ROOM, at_http(shared), f"--data={data}")[0] == 0
        assert command("publish", ROOM, at_http(shared), "--data=[1,\n\t2]")[0] == 0
        assert listening.wait() == 0
        assert listening.output.all == [r'{"a": "\u007f\u009b2J\u202e", "café": "10 €"}', "[1,  2]"]
        assert json.loads(listening.output.all[0]) == json.loads(data)
    finally:
        listening.end()


def test_top_and_tree_show_a_running_gateway(shared: GatewayProcess, nowhere: str) -> None:
    with subscriber(shared.websocket_url):
        status, output, _ = command("top", "--once", "--json", at_http(shared))
        top = json.loads(output)
        assert (status, top["status"]["connections"], top["rooms"][0]["room"]) == (0, 1, CAR)
        status, output, _ = command("top", "--once", at_http(shared))
        assert (status, '{"car": 1, "target": "car"}' in output) == (0, True)
        status, output, _ = command("tree", at_http(shared))
        assert (status, "─ connection " in output) == (0, True)
        assert json.loads(command("tree", "--json", at_http(shared))[1])["children"]
    url = f"http://{nowhere}"
    for name in ("top", "tree"):
        assert command(name, f"--url={url}")[::2] == (3, f"trio-templar: cannot reach {url}: Connection refused\n")


def test_top_goes_on_until_ctrl_c(shared: GatewayProcess) -> None:
    process = Process([sys.executable, "-m", "trio_templar", "top", "--json", "--every=0.05", at_http(shared)])
    try:
        lines = process.output.wait('"per_second"', count=3)
        assert json.loads(lines[-1])["per_second"]["deliveries"] == 0
        process.signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.log.all == []
    finally:
        process.end()


def test_check_says_what_would_go_wrong(api: Api) -> None:
    ports = ["--bind=127.0.0.1:0", "--trigger-bind=127.0.0.1:0"]
    status, output, _ = command("check", f"--api-url={api.url}", *ports)
    assert (status, f"ok    api_url: {api.url}bootstrap/: 200: " in output) == (0, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, output, _ = command("check", f"--api-url={api.url}", *ports, f"--bind={address}", "--json")
        findings = json.loads(output)
        assert (status, findings["ok"]) == (1, False)
        text = f"cannot listen on {address}: Address already in use"
        assert {"level": "fail", "about": "bind", "text": text} in findings["findings"]
    assert command("check", "--dialect=4")[0] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_tests_start_is_ended_by_a_signal_even_if_they_run_where_it_is_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)  # as a shell's `&` does, or nohup
    try:
        process = Process([sys.executable, "-c", "print('up', flush=True); import signal; signal.pause()"])
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
    try:
        process.output.wait("^up$")
        process.signal(number)
        assert process.wait() == -number
    finally:
        process.end()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_that_knows_the_commands(shell: str) -> None:
    status, output, _ = command("completion", shell)
    assert status == 0
    assert all(word in output for word in ("publish", "listen", "--max-connections", "--api-url"))
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=output, text=True, check=True, timeout=PATIENCE_SECONDS)
