"""TLS on the websocket address of a real process, with certificates of an authority made for the test."""

from __future__ import annotations

import json
import signal
import ssl
from pathlib import Path

import pytest
import trustme

from tests.e2e.api import Api
from tests.e2e.clients import (
    closing,
    dial,
    head,
    masked_text,
    publish_until_cut,
    read_until,
    receive,
    subscribe,
    subscriber,
    trigger,
)
from tests.e2e.processes import FREE_PORTS, GatewayProcess, gateway


class Files:
    """A certificate for 127.0.0.1, its key, and a client that trusts both."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(self.key))
        self.trusting = ssl.create_default_context()
        authority.configure_trust(self.trusting)

    @property
    def options(self) -> list[str]:
        return [f"--tls-cert={self.cert}", f"--tls-key={self.key}"]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_the_ready_line_says_wss_and_clients_hear_what_is_published(api: Api, files: Files) -> None:
    with gateway(f"--api-url={api.url}", *files.options) as process:
        assert process.websocket_url.startswith("wss://127.0.0.1:")
        origin = {"Origin": "https://127.0.0.1"}
        with subscriber(process.websocket_url, origin, ssl=files.trusting) as client:
            for data in (1, "x" * 500_000, 2):
                trigger(process, data)
                assert json.loads(receive(client))["data"] == data
            assert subscribe(client, "b") == b'{"requestId": "b", "code": "success"}'
        process.log.wait("INFO close .* code=1000 ")
        with subscriber(process.websocket_url, ssl=files.trusting) as client:
            process.signal(signal.SIGTERM)
            assert closing(client) == (1012, "the gateway is stopping")
        assert process.wait() == 0


def test_a_slow_client_behind_tls_is_cut_and_the_others_hear_everything(api: Api, files: Files) -> None:
    bounds = ["--outbox-bytes=200000", "--goodbye-seconds=0.2"]
    with gateway(f"--api-url={api.url}", *files.options, *bounds) as process:
        with subscriber(process.websocket_url, ssl=files.trusting) as healthy:
            with files.trusting.wrap_socket(dial(process.address, 4096), server_hostname="127.0.0.1") as stuck:
                stuck.sendall(head(process))
                read_until(stuck, b"\r\n\r\n")
                stuck.sendall(masked_text('{"type": "subscribe", "requestId": 1, "room": {"target": "car", "car": 1}}'))
                read_until(stuck, b'"success"}')
                publish_until_cut(process, healthy)
                assert len(process.log.matching("WARNING slow ")) == 1
                process.wait_idle(connections=1)


def test_a_certificate_that_does_not_load_is_one_line_and_status_2(files: Files, tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    for options in ([f"--tls-cert={missing}"], [f"--tls-cert={files.cert}", f"--tls-key={missing}"]):
        process = GatewayProcess("--demo", *FREE_PORTS, *options)
        try:
            assert process.wait() == 2
            (line,) = process.log.rest()
            assert line.endswith(f": {missing}: No such file or directory")
        finally:
            process.end()
