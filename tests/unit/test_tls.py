"""TLS: which certificate is shown, which file is at fault, and that a broken one changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trustme

from tests.unit.conftest import CAR, parts, quiet, settled
from trio_templar import Gateway, Settings, SettingsError
from trio_templar.net.tls import Certificate
from trio_templar.testing import Closed, FakeBackend, MemoryGateway, Rejected, WebsocketClient, open_gateway


class Authority:
    """Makes certificates of 127.0.0.1 as files, and clients that trust them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = trustme.CA()
        self.client = ssl.create_default_context()
        self.ca.configure_trust(self.client)

    def issue(self, name: str) -> tuple[str, str]:
        issued = self.ca.issue_cert("127.0.0.1", common_name=name)
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        issued.private_key_pem.write_to_path(str(key))
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return str(cert), str(key)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def tls_gateway(authority: Authority, name: str = "first") -> AsyncIterator[MemoryGateway]:
    cert, key = authority.issue(name)
    settings = quiet(bind=("127.0.0.1:0",), tls_cert=cert, tls_key=key, goodbye_seconds=5)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        yield running


def address_of(gateway: Gateway) -> tuple[str, int]:
    host, _, port = gateway.websocket_urls[0].removeprefix("wss://").partition("/")[0].rpartition(":")
    return host, int(port)


async def secure_stream(authority: Authority, gateway: Gateway) -> trio.SSLStream[trio.SocketStream]:
    host, port = address_of(gateway)
    return trio.SSLStream(await trio.open_tcp_stream(host, port), authority.client, server_hostname=host)


async def shown_name(authority: Authority, gateway: Gateway) -> object:
    """The common name of the certificate that a new client is shown."""
    async with await secure_stream(authority, gateway) as stream:
        await stream.do_handshake()
        subject = stream.getpeercert()["subject"]
    return dict(pair for (pair,) in subject)["commonName"]


async def test_a_client_speaks_through_tls_as_it_would_without(authority: Authority) -> None:
    async with tls_gateway(authority) as running:
        (url,) = running.gateway.websocket_urls
        assert url.startswith("wss://127.0.0.1:")
        client = WebsocketClient(await secure_stream(authority, running.gateway))
        await client.open()
        await client.receive()
        await client.subscribe(1, CAR)
        large = "x" * 300_000  # many TLS records, more than the socket takes at once
        for data in (large, 2, 3):
            await running.gateway.publish([CAR], data)
        assert [(await client.receive())["data"] for _ in range(3)] == [large, 2, 3]
        (connection,) = parts(running).clients.connections
        assert connection.peer.startswith("127.0.0.1:")
        running.gateway.stop()
        with pytest.raises(Closed, match="1012"):
            await client.receive()
        with trio.fail_after(3):  # the end comes with the close frame, not after goodbye_seconds
            assert await client.stream.receive_some() == b""
        await client.stream.aclose()
        with trio.fail_after(3):
            await running.served.wait()


def dead_for_good(**changes: object) -> Settings:
    """Settings by which a dead peer is found soon, and only by its silence."""
    return quiet(**{"ping_seconds": 0.1, "pong_seconds": 0.1, "slow_seconds": 60, "goodbye_seconds": 0.1, **changes})


async def until_closed(caplog: pytest.LogCaptureFixture, code: int) -> None:
    with trio.fail_after(10):
        while not [1 for record in caplog.records if getattr(record, "fields", {}).get("code") == code]:
            await trio.sleep(0.01)  # a real socket


@asynccontextmanager
async def subscriber(
    authority: Authority, transport: trio.SocketStream
) -> AsyncIterator[tuple[trio.SSLStream[trio.SocketStream], WebsocketClient]]:
    """A client on `transport` that is subscribed; what it does not do is read in the background."""
    stream = trio.SSLStream(transport, authority.client, server_hostname="127.0.0.1")
    client = WebsocketClient(stream)
    try:
        await client.open()
        await client.receive()
        await client.subscribe(1, CAR)
        yield stream, client
    finally:
        await trio.aclose_forcefully(stream)


async def small_socket(gateway: Gateway) -> trio.SocketStream:
    """A connection that takes little at once."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(address_of(gateway))
    return trio.SocketStream(sock)


async def test_a_dead_peer_is_found_behind_tls(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trio_templar")
    cert, key = authority.issue("any")
    settings = dead_for_good(bind=("127.0.0.1:0",), tls_cert=cert, tls_key=key)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        transport = await trio.open_tcp_stream(*address_of(running.gateway))
        async with subscriber(authority, transport):
            await running.gateway.publish([CAR], 1)  # and from now on it neither reads nor says anything
            await until_closed(caplog, 1011)


async def test_a_dead_peer_is_found_behind_somebody_elses_tls(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trio_templar")
    context = Certificate(*authority.issue("any")).context
    async with open_gateway(dead_for_good(), backend=FakeBackend([CAR])) as running:
        ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in socket.socketpair())
        running.listener.connect(lambda: (ours, trio.SSLStream(theirs, context, server_side=True)))
        async with subscriber(authority, ours):
            await running.gateway.publish([CAR], 1)
            await until_closed(caplog, 1011)


async def test_a_client_behind_tls_that_reads_slowly_and_says_nothing_lives(authority: Authority) -> None:
    cert, key = authority.issue("any")
    settings = dead_for_good(bind=("127.0.0.1:0",), tls_cert=cert, tls_key=key, pong_seconds=0.4)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        async with subscriber(authority, await small_socket(running.gateway)) as (stream, _):
            for number in range(30):
                await running.gateway.publish([CAR], [number, "x" * 30_000])
            for _ in range(60):
                await stream.receive_some(10_000)
                await trio.sleep(0.03)
            assert running.gateway.statistics().connections == 1


async def test_a_publication_is_written_to_tls_before_publish_returns(authority: Authority) -> None:
    async with tls_gateway(authority) as running:
        transport = await trio.open_tcp_stream(*address_of(running.gateway))
        async with subscriber(authority, transport):
            await running.gateway.publish([CAR], "x" * 100_000)
            assert len(os.read(transport.socket.fileno(), 200_000)) > 50_000
            assert running.gateway.statistics().queued == 0
            assert running.gateway.statistics().slow_connections == 0


async def test_what_a_client_behind_tls_takes_bit_by_bit_is_whole_and_in_order(authority: Authority) -> None:
    cert, key = authority.issue("any")
    settings = quiet(bind=("127.0.0.1:0",), tls_cert=cert, tls_key=key, outbox_bytes=8_000_000)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        async with subscriber(authority, await small_socket(running.gateway)) as (_, client):
            sent = [[number, "x" * (number * 997 % 20_000)] for number in range(300)]
            for data in sent:
                await running.gateway.publish([CAR], data)
            assert running.gateway.statistics().slow_connections == 1
            await client.send("ping")
            heard = [await client.receive_text() for _ in range(len(sent) + 1)]
            heard.remove("pong")
            assert [json.loads(text)["data"] for text in heard] == sent


async def test_a_client_that_is_cut_in_the_middle_of_a_record_gets_its_close_frame(authority: Authority) -> None:
    cert, key = authority.issue("any")
    settings = quiet(bind=("127.0.0.1:0",), tls_cert=cert, tls_key=key, outbox_bytes=200_000, goodbye_seconds=5)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        async with subscriber(authority, await small_socket(running.gateway)) as (_, client):
            number = 0
            while running.gateway.statistics().drops["bytes"] == 0:
                await running.gateway.publish([CAR], [number, "x" * 1500])
                number += 1
            heard, code = [], 0
            with trio.fail_after(5):
                while not code:
                    try:
                        heard.append((await client.receive())["data"][0])
                    except Closed as closed:
                        code = closed.close.code
            assert code == 1013
            assert heard == list(range(len(heard)))
            assert 0 < len(heard) < number


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
async def test_a_client_that_wants_new_keys_gets_them_and_hears_on(authority: Authority) -> None:
    async with tls_gateway(authority) as running:
        host, port = address_of(running.gateway)
        command = ["openssl", "s_client", "-connect", f"{host}:{port}"]
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdin
        assert process.stdout
        shown = b""

        async def wait_for(text: bytes, times: int = 1) -> None:
            nonlocal shown
            assert process.stdout
            with trio.fail_after(10):
                while shown.count(text) < times:
                    shown += await process.stdout.receive_some()

        head = "GET /ws/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        head += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        try:
            await wait_for(b"SSL handshake has read")
            await process.stdin.send_all(head.encode())
            await wait_for(b"allowed_rooms")
            for times in range(1, 4):
                await process.stdin.send_all(b"K\n")
                await wait_for(b"KEYUPDATE", times)  # both ends take new keys
                await process.stdin.send_all(b"\x81\x84\0\0\0\0ping")
                await wait_for(b"pong", times)
        finally:
            process.kill()
            with trio.move_on_after(5, shield=True):
                await process.wait()
                await process.stdin.aclose()
                await process.stdout.aclose()


async def test_who_is_not_let_in_is_answered_through_tls(authority: Authority) -> None:
    async with tls_gateway(authority) as running:
        async with await secure_stream(authority, running.gateway) as stream:
            with pytest.raises(Rejected) as caught:
                await WebsocketClient(stream).open("/elsewhere/")
        assert caught.value.status == 404


async def test_a_page_without_tls_may_not_open_a_websocket_with_it_unless_it_is_allowed(authority: Authority) -> None:
    async def refused(origin: str) -> bool:
        client = WebsocketClient(await secure_stream(authority, running.gateway))
        try:
            await client.open(headers={"Origin": origin})
        except Rejected as rejected:
            return rejected.status == 403
        finally:
            await trio.aclose_forcefully(client.stream)
        return False

    page = "http://localhost:3000"
    async with tls_gateway(authority) as running:
        assert [await refused(page), await refused(page.replace("http", "https"))] == [True, False]
        running.gateway.reload(replace(running.gateway.settings, allowed_origin=(page,)))
        assert not await refused(page)


async def test_a_reload_shows_a_new_certificate_to_new_clients_and_a_broken_one_changes_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trio_templar.gateway")
    async with tls_gateway(authority) as running:
        settings = running.gateway.settings
        client = WebsocketClient(await secure_stream(authority, running.gateway))
        await client.open()
        cert, key = authority.issue("second")
        assert running.gateway.reload(replace(settings, tls_cert=cert, tls_key=key)) == []
        assert await shown_name(authority, running.gateway) == "second"
        Path(key).write_text("nonsense")
        with pytest.raises(SettingsError, match=r"tls_key: .*second\.key"):
            running.gateway.reload(replace(running.gateway.settings, drain_seconds=77))
        assert running.gateway.settings.drain_seconds == settings.drain_seconds
        assert await shown_name(authority, running.gateway) == "second"
        third_cert, third_key = authority.issue("third")  # in the same files
        Path(third_key).rename(key)
        Path(third_cert).rename(cert)
        running.gateway.reload(running.gateway.settings)
        assert await shown_name(authority, running.gateway) == "third"
        assert await client.receive() == {"allowed_rooms": [CAR]}  # on the first
        await client.aclose()
    reloads = [record.fields for record in caplog.records if record.getMessage() == "reloaded"]  # type: ignore[attr-defined]
    assert [line["changed"].split() for line in reloads] == [["tls_cert", "tls_key"], ["tls_cert"]]


async def test_to_begin_or_end_with_tls_needs_a_restart(authority: Authority) -> None:
    cert, key = authority.issue("any")
    async with tls_gateway(authority) as running:
        settings = running.gateway.settings
        assert set(running.gateway.reload(replace(settings, tls_cert="", tls_key=""))) == {"tls_cert", "tls_key"}
        assert running.gateway.settings == settings
    async with open_gateway(quiet()) as running:
        assert set(running.gateway.reload(quiet(tls_cert=cert, tls_key=key))) == {"tls_cert", "tls_key"}
        assert parts(running).endpoints.certificate is None


async def test_a_unix_socket_stays_plain(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("any")
    settings = quiet(bind=(f"unix:{tmp_path}/ws",), tls_cert=cert, tls_key=key)
    async with open_gateway(settings) as running:
        assert running.gateway.websocket_urls == (f"unix:{tmp_path}/ws",)
        client = WebsocketClient(await trio.open_unix_socket(f"{tmp_path}/ws"))
        await client.open()
        await client.stream.aclose()


async def test_who_speaks_plain_http_is_told_so(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trio_templar")
    async with tls_gateway(authority) as running:
        client = WebsocketClient(await trio.open_tcp_stream(*address_of(running.gateway)))
        with pytest.raises(Rejected) as caught:
            await client.open()
        assert (caught.value.status, caught.value.body) == (400, "this address speaks TLS: wss://, not ws://\n")
        await client.stream.aclose()
        while not caplog.records:
            await trio.sleep(0.01)  # noqa: ASYNC110  # a real socket
    (line,) = caplog.records
    assert line.fields["why"] == "no TLS: http request"  # type: ignore[attr-defined]


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01", b"\xff" * 100])
async def test_a_handshake_has_its_deadline(authority: Authority, data: bytes) -> None:
    cert, key = authority.issue("any")
    settings = quiet(bind=("127.0.0.1:0",), tls_cert=cert, tls_key=key, handshake_seconds=0.2, goodbye_seconds=60)
    async with open_gateway(settings) as running:
        async with await trio.open_tcp_stream(*address_of(running.gateway)) as stream:
            await stream.send_all(data)
            with trio.fail_after(5):
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""


async def test_a_client_in_its_handshake_does_not_hold_up_a_stop(authority: Authority) -> None:
    async with tls_gateway(authority) as running:
        async with await trio.open_tcp_stream(*address_of(running.gateway)):
            await settled()
            running.gateway.stop()
            with trio.fail_after(3):
                await running.served.wait()


async def test_a_client_that_does_not_read_is_cut_and_its_socket_closed(authority: Authority) -> None:
    cert, key = authority.issue("any")
    settings = quiet(bind=("127.0.0.1:0",), tls_cert=cert, tls_key=key, outbox_bytes=100_000, goodbye_seconds=0.2)
    async with open_gateway(settings, backend=FakeBackend([CAR])) as running:
        host, port = address_of(running.gateway)
        slow = trio.socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await slow.connect((host, port))
        stream = trio.SSLStream(trio.SocketStream(slow), authority.client, server_hostname=host)
        client = WebsocketClient(stream)
        await client.open()
        await client.receive()
        await client.subscribe(1, CAR)
        with trio.fail_after(10):
            while running.gateway.statistics().connections:
                await running.gateway.publish([CAR], "x" * 40_000)
                await trio.sleep(0.01)
        assert running.gateway.statistics().waiting_bytes == 0
        await trio.aclose_forcefully(stream)


# Files


def broken(cert: str, key: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Certificate(cert, key)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_that_is_at_fault_is_named(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("one")
    _, other_key = authority.issue("other")
    nonsense, missing = tmp_path / "nonsense", tmp_path / "missing"
    nonsense.write_text("nonsense")
    assert broken(str(missing), key) == f"tls_cert: {missing}: No such file or directory"
    assert broken(cert, str(missing)) == f"tls_key: {missing}: No such file or directory"
    assert broken(str(nonsense), key) == f"tls_cert: {nonsense}: there is no certificate in it that can be read"
    assert broken(cert, str(nonsense)).startswith(f"tls_key: {nonsense}: there is no key in it that can be read")
    assert broken(cert, "").startswith(f"tls_key: {cert}: there is no key")
    assert broken(cert, other_key) == f"tls_key: {other_key}: it is not the key of the certificate in {cert}"
    assert broken(key, cert).startswith(f"tls_cert: {key}: ")
    assert broken(str(tmp_path), key) == f"tls_cert: {tmp_path}: Is a directory"


def test_the_key_may_be_in_the_file_of_the_certificate(authority: Authority, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(Path(path).read_bytes() for path in authority.issue("one")))
    Certificate(str(both), "")


def test_a_key_with_a_passphrase_is_refused_without_asking_for_it(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    cert, key = authority.issue("one")
    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert broken(cert, str(locked)) == f"tls_key: {locked}: the key has a passphrase, which nobody is there to enter"


def test_a_key_without_a_certificate_is_refused() -> None:
    with pytest.raises(SettingsError, match="tls_key: needs a tls_cert"):
        quiet(tls_key="key.pem")
