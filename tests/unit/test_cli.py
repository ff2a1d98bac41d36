"""The command: where settings come from, and one line for whatever is wrong with them."""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.unit.conftest import PYTHON, one_line
from trio_templar import Settings, SettingsError
from trio_templar.clock import RunningClock
from trio_templar.commands.cli import COMMANDS, main, make_parser
from trio_templar.commands.command import Command, run_on_trio
from trio_templar.commands.settings_sources import empty_tokens, misspelt, read_settings
from trio_templar.core.settings import GROUPS, groups, options


def settings(*argv: str, env: dict[str, str] | None = None) -> Settings:
    return read_settings(vars(make_parser().parse_args(["serve", *argv])), env or {})


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on standard error of a command that exits with 2."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert one_line(text)
    assert text.startswith("trio-templar: ")
    return text


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the command an empty environment, and take back what it does to the log."""
    monkeypatch.setattr("os.environ", {})
    logger = logging.getLogger("trio_templar")
    level = logger.level
    yield
    logger.setLevel(level)


def test_without_options_everything_is_its_default() -> None:
    assert settings() == Settings()


def test_the_command_line_wins_then_the_environment_then_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('path = "/file/"\ndialect = "3"\nmax-connections = 7\n')
    env = {"TRIO_TEMPLAR_PATH": "/env/", "TRIO_TEMPLAR_DIALECT": "2", "TRIO_TEMPLAR_CONFIG": str(file)}
    found = settings("--path=/cli/", env=env)
    assert (found.path, found.dialect, found.max_connections) == ("/cli/", "2", 7)
    assert settings("--config", str(file)).path == "/file/"


def test_a_repeated_option_is_a_list() -> None:
    assert settings("--bind", "a:1", "--bind=unix:b").bind == ("a:1", "unix:b")


def test_a_list_in_the_environment_is_split_at_blanks_or_lines() -> None:
    assert settings(env={"TRIO_TEMPLAR_BIND": "a:1  b:2"}).bind == ("a:1", "b:2")
    lines = "A=fixed:x y\nB=key:b"
    assert settings(env={"TRIO_TEMPLAR_CONNECTION_HEADER": lines}).connection_header == ("A=fixed:x y", "B=key:b")


def test_a_list_of_the_command_line_replaces_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('bind = ["a:1", "b:2"]')
    assert settings(f"--config={file}").bind == ("a:1", "b:2")
    assert settings(f"--config={file}", "--bind=c:3").bind == ("c:3",)


def test_a_switch_can_be_on_or_off(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("forward_host = true")
    assert settings(f"--config={file}").forward_host
    assert not settings(f"--config={file}", "--no-forward-host").forward_host
    assert settings("--forward-host").forward_host


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--nonsense"], "COMMAND"),
        (["serve", "--nonsense"], "--nonsense"),
        (["serve", "--dialect=4"], "--dialect"),
        (["serve", "--max-connections=many"], "--max-connections"),
        (["serve", "--max-conn=5"], "--max-conn"),
        (["serve", "--bind"], "--bind"),
        (["serve", "--bind=nonsense"], "bind: 'nonsense'"),
        (["serve", "--trigger-bind=0.0.0.0:0"], "insecure_trigger"),
        (["serve", "--config=/does/not/exist"], "/does/not/exist"),
        (["serve", "--bind=127.0.0.1:0", "--trigger-bind=127.0.0.1:0"], "api_url"),
    ],
    ids=repr,
)
def test_a_wrong_option_is_one_line_that_names_it_and_exit_status_2(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in complaint(capsys, *argv)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'colour = "red"', "colour in"),
        (b"[serve]\npath = '/'", "no such setting; settings stand at the top level, not in a table"),
        (b"dialect = 3", "dialect in"),
        (b"bind = 'a:1'", "bind in"),
        (b"nonsense", "gateway.toml"),
        (b"\xff", "gateway.toml"),
    ],
    ids=repr,
)
def test_a_wrong_file_is_one_line_that_names_the_key(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(content)
    assert words in complaint(capsys, "serve", f"--config={file}")


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^TRIO_TEMPLAR_DRAIN_SECONDS: "):
        settings(env={"TRIO_TEMPLAR_DRAIN_SECONDS": "soon"})


@pytest.mark.parametrize("option", ["--bind", "--trigger-bind"])
def test_an_address_in_use_is_one_line_that_names_it_and_its_setting(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        rest = ["--bind=127.0.0.1:0"] if option == "--trigger-bind" else []
        said = complaint(capsys, "serve", "--api-url=http://127.0.0.1:1/", *rest, option, address)
    name = option.removeprefix("--").replace("-", "_")
    assert f" {name}: cannot listen on {address}: Address already in use" in said


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(flag in text for flag in ("--api-url", "--drain-seconds", "--config", "--connection-header"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_terminal_that_is_not_utf8_gets_escapes(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit) as caught:
        main([command.name, "--help"])
    print("K\u00e4fer \U0001f697", flush=True)  # noqa: T201  # as a command does
    assert caught.value.code == 0
    assert written.getvalue().endswith(rb"K\u00e4fer \ud83d\ude97" + b"\n")  # in JSON: the same text


def test_client_commands_run_on_a_plain_clock() -> None:
    async def main() -> int:
        return isinstance(trio.lowlevel.current_clock(), RunningClock)

    assert run_on_trio(main) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_says_when_it_is_ready_tells_systemd_and_leaves_with_0(number: int, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        command = [PYTHON, "-m", "trio_templar", "serve", "--api-url=http://127.0.0.1:1/"]
        ports: list[Any] = ["--bind=127.0.0.1:0", "--bind=[::1]:0", "--trigger-bind=127.0.0.1:0"]
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with subprocess.Popen([*command, *ports], stderr=subprocess.PIPE, text=True, env=env) as process:
            assert process.stderr is not None
            log = (line for line in process.stderr if "did not run for " not in line)  # of this machine alone
            line = next(log)
            assert line.startswith("trio-templar: ready on ws://127.0.0.1:")
            assert ", ws://[::1]:" in line
            assert "/trigger/" in line
            assert ":0/" not in line
            assert systemd.recv(100) == b"READY=1"
            process.send_signal(number)
            assert systemd.recv(100) == b"STOPPING=1"
            assert process.wait(60) == 0
            logged = [line.partition(" INFO ")[2] for line in log]
            said = (
                "drain connections=0 seconds=10.000" if number == signal.SIGTERM else "stop connections=0 seconds=1.000"
            )
            assert logged == [f"{said}\n"]


# Whatever an operator gives


ODD_FILES = {
    "digits": "max_connections = " + "1" * 5000,
    "hexadecimal": "max_connections = 0x" + "f" * 5000,
    "lists": "bind = " + "[" * 5000 + "]" * 5000,
    "tables": "api_url" + ".a" * 5000 + " = 1",
    "policy": "room_policy = ['" + "[" * 5000 + "]" * 5000 + "']",
    "port": "bind = ['127.0.0.1:" + "1" * 5000 + "']",
    "descriptor": "bind = ['fd://" + "1" * 5000 + "']",
    "long": "#" * 2_000_000,
    **{
        f"NUL in {name}": f'{name} = "/a\\u0000b"\napi_url = "http://127.0.0.1:1/"'
        for name in ("trigger_token_file", "tls_cert", "api_ca", "api_socket", "path", "on_ping", "user_id_path")
    },
    "NUL in a unix socket": 'bind = ["unix:/a\\u0000b"]',
    "NUL in a host": 'bind = ["a\\u0000b:1"]',
}


@pytest.mark.parametrize("content", ODD_FILES.values(), ids=list(ODD_FILES))
def test_an_odd_file_is_one_short_line(content: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        settings(f"--config={file}")
    assert (one_line(str(caught.value)), len(str(caught.value)) < 400) == (True, True)


@pytest.mark.parametrize(
    "variables",
    [
        {"MAX_CONNECTIONS": "1" * 5000},
        {"DRAIN_SECONDS": "1" * 5000},
        {"BIND": "127.0.0.1:" + "1" * 5000},
        {"ROOM_POLICY": "[" * 5000},
        {"API_URL": "http://127.0.0.1:" + "1" * 5000},
        {"UNIX_SOCKET_MODE": "0" + "7" * 5000},
        {"PATH": "/\udcff"},
        {"TRIGGER_TOKEN": "\udcff"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_an_odd_variable_is_one_short_line_that_names_it(variables: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(env={f"TRIO_TEMPLAR_{name}": value for name, value in variables.items()})
    text = str(caught.value)
    assert (one_line(text), len(text) < 400, next(iter(variables)).lower() in text.lower()) == (True, True, True)


@pytest.mark.parametrize("count", ["1" * 5000, "1000000000000", "-1", "x"])
def test_no_number_of_sockets_that_systemd_hands_over_is_too_much_for_us(count: str) -> None:
    with pytest.raises(SettingsError, match=r"^LISTEN_FDS: "):
        settings(env={"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(b"\xef\xbb\xbfmax_connections = 7")
    assert settings(f"--config={file}").max_connections == 7


def test_a_file_without_an_end_is_not_read_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert "/dev/zero" in complaint(capsys, "serve", "--config=/dev/zero")
    assert "/dev/zero" in complaint(capsys, "serve", "--trigger-token-file=/dev/zero")


def test_a_gateway_without_an_address_for_clients_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("bind = []\napi_url = 'http://127.0.0.1:1/'")
    assert "bind: it is empty" in complaint(capsys, "serve", f"--config={file}")


# Help


def test_alone_it_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    printed = capsys.readouterr()
    assert (caught.value.code, printed.out) == (2, "")
    assert all(command.name in printed.err for command in COMMANDS)


def test_help_has_groups_an_example_and_where_the_file_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    titles = ["the API:", "addresses:", "bounds:", "deadlines:", "examples:"]
    assert [line for line in text.splitlines() if line in titles] == titles
    assert "TRIO_TEMPLAR_CONFIG" in text
    assert "  trio-templar serve --demo\n" in text


def test_every_group_has_settings_and_every_setting_a_group() -> None:
    assert list(groups()) == list(GROUPS.values())
    assert [option.name for listed in groups().values() for option in listed] == [option.name for option in options()]


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["serve", "--max-conections=5"], "--max-conections; did you mean --max-connections?"),
        (["serve", "--no-dem"], "did you mean --no-demo?"),
        (["publish", "--dta=1", "{}"], "did you mean --data?"),
        (["serv"], "did you mean serve?"),
        (["serve", "--log-level=warn"], "expected debug or info or warning or error"),
    ],
    ids=repr,
)
def test_what_is_nearly_right_is_told_what_is(argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hint in complaint(capsys, *argv)


def test_the_value_of_an_unknown_option_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert "s3cret" not in complaint(capsys, "serve", "--trigger-tokn=s3cret")


EMPTY = "it is empty, so it counts as unset, and callers need no token"


@pytest.mark.parametrize("name", ["TRIO_TEMPLAR_TRIGGER_TOKEN", "TRIO_TEMPLAR_TRIGGER_TOKEN_FILE"])
def test_a_variable_that_should_have_the_token_and_is_empty_is_told(name: str) -> None:
    assert empty_tokens(Settings(), {name: " "}) == {name: EMPTY}
    assert empty_tokens(Settings(), {name: "x"}) == empty_tokens(Settings(), {}) == {}
    assert empty_tokens(Settings(trigger_token="x"), {name: ""}) == {}
    assert empty_tokens(Settings(trigger_bind=""), {name: ""}) == {}


@pytest.mark.parametrize(("token", "told"), [("", True), ("x" * 16, False)], ids=["empty", "set"])
def test_check_says_that_a_token_is_empty(
    token: str, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIO_TEMPLAR_TRIGGER_TOKEN", token)
    with pytest.raises(SystemExit):
        main(["check", "--demo", "--bind=127.0.0.1:0", "--trigger-bind=127.0.0.1:0"])
    assert (f"warn  TRIO_TEMPLAR_TRIGGER_TOKEN: {EMPTY}" in capsys.readouterr().out) == told


def test_a_key_that_is_nearly_right_is_told_what_is(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("max-connection = 5")
    with pytest.raises(SettingsError, match=r"^max-connection in .*did you mean max_connections\?$"):
        settings(f"--config={file}")


def test_a_variable_that_is_nearly_right_is_told_what_is_and_those_of_others_are_left_alone() -> None:
    kubernetes = ["PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8001_TCP", "PORT_8001_TCP_ADDR"]
    environment = {
        f"TRIO_TEMPLAR_{name}": "x" for name in [*kubernetes, "PORT_8001_TCP_PROTO", "CONFIG", "BIND", "DRAIN_SECOND"]
    }
    found = misspelt(environment)
    assert found == {"TRIO_TEMPLAR_DRAIN_SECOND": "there is no such setting; did you mean TRIO_TEMPLAR_DRAIN_SECONDS?"}
