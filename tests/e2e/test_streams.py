"""Standard streams that are closed, full, or read by nobody: the gateway serves all the same."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.e2e.api import Api
from tests.e2e.clients import connect, receive, request
from tests.e2e.processes import FREE_PORTS, PATIENCE_SECONDS, ROOT, eventually, gateway

BODY = b'{"rooms": [{"target": "car", "car": 1}], "data": 1}'


@contextmanager
def serving(
    api: Api, folder: Path, *arguments: str, stderr: int | IO[bytes] | None = None, closed: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A gateway with these standard streams, and what its ready file says."""
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "trio_templar", "serve", f"--api-url={api.url}", f"--ready-file={ready}"]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    with subprocess.Popen(
        [*shell, *command, *FREE_PORTS, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    ) as process:
        try:
            eventually(lambda: ready.exists() or process.poll() is not None)
            yield process, json.loads(ready.read_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0
            assert not ready.exists()
        finally:
            process.kill()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "<&-"])
def test_a_gateway_needs_no_standard_stream(closed: str, api: Api, tmp_path: Path) -> None:
    with serving(api, tmp_path, closed=closed) as (_, ready):
        with connect(ready["websockets"][0]) as client:
            assert receive(client).startswith(b'{"allowed_rooms"')
        assert request(ready["triggers"], BODY)[0] == 200


def test_a_full_disk_under_the_log_keeps_nobody_out(api: Api, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, serving(api, tmp_path, stderr=full) as (_, ready):
        with connect(ready["websockets"][0]) as client:
            receive(client)
        assert request(ready["triggers"], BODY)[0] == 200


def test_a_log_that_nobody_reads_stops_nothing_not_even_the_end(api: Api, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    try:
        with serving(api, tmp_path, stderr=writer) as (_, ready):
            for _ in range(50):
                with connect(ready["websockets"][0]) as client:
                    receive(client)
            assert request(ready["triggers"], BODY)[0] == 200
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    "command",
    [["check", "--demo", "--bind=127.0.0.1:0", "--trigger-bind=127.0.0.1:0"], ["--version"], ["serve", "--help"]],
)
def test_a_command_that_cannot_print_says_so(command: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "trio_templar", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        )
    assert (done.returncode, done.stderr) == (1, b"trio-templar: standard output: No space left on device\n")


def test_every_line_of_a_json_log_is_an_object_from_the_first_on(api: Api) -> None:
    with gateway(f"--api-url={api.url}", "--log-format=json", "--log-level=error") as process:
        (line,) = process.log.wait('"event": "ready"')
        ready = json.loads(line)
        assert ready["websockets"] == [process.websocket_url]
        assert (ready["triggers"], ready["dashboard"]) == (process.trigger_url, f"{process.http_url}/")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert len([json.loads(line) for line in process.log.all]) == 1
