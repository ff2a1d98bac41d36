"""SIGHUP, over real processes: a new token, a broken file, what needs a restart, and nobody who is disconnected."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.e2e.api import Api
from tests.e2e.clients import receive, request, subscriber
from tests.e2e.processes import PATIENCE_SECONDS, gateway

BODY = b'{"rooms": [{"target": "car", "car": 1}], "data": 1}'


def publish(url: str, token: str) -> int:
    return request(url, BODY, {"Authorization": f"Bearer {token}"})[0]


def test_sighup_takes_over_a_new_token_and_a_broken_file_changes_nothing(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"

    def write(*lines: str) -> None:
        file.write_text("\n".join([f"api_url = '{api.url}'", *lines]))

    write("trigger_token = 'old'")
    with gateway(f"--config={file}", "--max-subscriptions=7") as process, subscriber(process.websocket_url) as client:
        write("trigger_token = 'new'", "max_subscriptions = 5", "path = '/other/'")
        assert publish(process.trigger_url, "old") == 200
        process.signal(signal.SIGHUP)
        process.log.wait(" WARNING reloaded changed=trigger_token restart=path$")
        assert [publish(process.trigger_url, token) for token in ("old", "new")] == [401, 200]

        for broken, words in (
            ("trigger_token = 5", "trigger_token in"),
            ("trigger_token = ''", f"trigger_token in {file}: it is empty"),
            ("nonsense", f"--config {file}: "),
        ):
            write(broken)
            process.signal(signal.SIGHUP)
            process.log.wait(f" ERROR not reloaded why=.*{words}")
        file.unlink()
        process.signal(signal.SIGHUP)
        process.log.wait(" ERROR not reloaded .*No such file")
        assert publish(process.trigger_url, "new") == 200
        assert [receive(client)[-2:] for _ in range(3)] == [b"1}"] * 3

        write("trigger_token = 'last'", "log_level = 'warning'")
        process.signal(signal.SIGHUP)
        process.log.wait(" INFO reloaded changed=.*trigger_token")
        assert publish(process.trigger_url, "last") == 200
        with subscriber(process.websocket_url):
            pass
    assert len(process.log.matching("INFO open ")) == 1


def test_systemd_hears_of_a_reload(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(path))
        notified.settimeout(PATIENCE_SECONDS)
        with gateway(f"--api-url={api.url}", environment={"NOTIFY_SOCKET": str(path)}) as process:
            assert notified.recv(100) == b"READY=1"
            process.signal(signal.SIGHUP)
            assert notified.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert notified.recv(100) == b"READY=1"


ODD = {
    "digits": "max_connections = " + "1" * 5000,
    "lists": "bind = " + "[" * 5000 + "]" * 5000,
    "NUL": 'trigger_token_file = "/a\\u0000b"',
}


@pytest.mark.parametrize("content", ODD.values(), ids=list(ODD))
def test_whatever_is_in_the_file_a_gateway_lives_on(content: str, api: Api, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f"api_url = '{api.url}'")
    with gateway(f"--config={file}") as process, subscriber(process.websocket_url) as client:
        file.write_text(f"api_url = '{api.url}'\n{content}")
        process.signal(signal.SIGHUP)
        (line,) = process.log.wait(" ERROR not reloaded why=")
        assert len(line) < 400
        assert publish(process.trigger_url, "") == 200
        assert receive(client).endswith(b"1}")
