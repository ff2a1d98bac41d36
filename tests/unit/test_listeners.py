"""Addresses: unix sockets with their mode, and sockets that somebody else opened."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_templar
from tests.unit.conftest import quiet
from trio_templar import Settings, SettingsError
from trio_templar.commands.cli import make_parser
from trio_templar.commands.settings_sources import read_settings
from trio_templar.net.listeners import open_listeners
from trio_templar.testing import FakeBackend, WebsocketClient, open_gateway


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(("mode", "expected"), [("0660", 0o660), ("600", 0o600), ("0777", 0o777)])
async def test_a_unix_socket_has_the_mode_it_is_told(mode: str, expected: int, tmp_path: Path) -> None:
    path = tmp_path / "ws.sock"
    (listener,) = await open_listeners(f"unix:{path}", quiet(unix_socket_mode=mode))
    assert mode_of(path) == expected
    await listener.aclose()


async def test_without_one_it_has_what_the_umask_leaves(tmp_path: Path) -> None:
    path = tmp_path / "ws.sock"
    before = os.umask(0o027)
    try:
        (listener,) = await open_listeners(f"unix:{path}", quiet())
    finally:
        os.umask(before)
    assert mode_of(path) == 0o750
    await listener.aclose()


@pytest.mark.parametrize("mode", ["0888", "rw", "7", "01777", "0o660"])
def test_a_mode_that_is_none_is_refused(mode: str) -> None:
    with pytest.raises(SettingsError, match=f"unix_socket_mode: '{mode}' is no mode in octal"):
        quiet(unix_socket_mode=mode)


# Inherited sockets


async def test_a_socket_that_is_open_already_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        async with open_gateway(quiet(bind=(f"fd://{os.dup(held.fileno())}",))) as running:
            assert running.gateway.websocket_urls == (f"ws://127.0.0.1:{port}/ws/",)
            client = WebsocketClient(await trio.open_tcp_stream("127.0.0.1", port))
            await client.open()
            await client.stream.aclose()
        held.getsockname()  # still open: only our copy was closed


@pytest.mark.parametrize("kind", ["closed", "file", "datagram", "not listening"])
async def test_a_descriptor_that_is_no_listening_socket_is_named(kind: str, tmp_path: Path) -> None:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, (tmp_path / "file").open("w") as file:
        number = {"closed": 9999, "file": file.fileno(), "datagram": udp.fileno(), "not listening": tcp.fileno()}[kind]
        if kind != "closed":
            number = os.dup(number)
        with pytest.raises(SettingsError, match=f"cannot listen on fd://{number}: "):
            await open_listeners(f"fd://{number}")
        if kind == "file":
            os.close(number)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_an_inherited_trigger_socket_that_others_reach_needs_a_token(host: str) -> None:
    for token, allowed in (("", host == "127.0.0.1"), ("secret", True)):
        with socket.create_server((host, 0)) as held:
            settings = quiet(trigger_bind=f"fd://{os.dup(held.fileno())}", trigger_token=token)
            if allowed:
                async with open_gateway(settings):
                    pass
            else:
                with pytest.raises(SettingsError, match=r"trigger_bind: fd://.* is open to other machines"):
                    await trio_templar.serve(settings, bootstrap=FakeBackend())


@pytest.mark.parametrize("address", ["fd://", "fd://-1", "fd://x", "fd:3x", "fd://99999999999"])
def test_what_only_looks_like_a_descriptor_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="bind: "):
        quiet(bind=(address,))


def test_a_descriptor_cannot_be_used_twice() -> None:
    with pytest.raises(SettingsError, match="given twice"):
        quiet(bind=("fd://3",), trigger_bind="fd://3")


# LISTEN_FDS


def settings(*argv: str, **environment: str) -> Settings:
    environment = {"LISTEN_PID": str(os.getpid()), **environment}
    return read_settings(vars(make_parser().parse_args(["serve", *argv])), environment)


def test_sockets_of_systemd_take_the_place_of_addresses_by_their_name() -> None:
    found = settings("--bind=127.0.0.1:1", LISTEN_FDS="3", LISTEN_FDNAMES="web:trigger:web")
    assert (found.bind, found.trigger_bind) == (("fd://3", "fd://5"), "fd://4")
    found = settings("--trigger-bind=127.0.0.1:1", LISTEN_FDS="2")
    assert (found.bind, found.trigger_bind) == (("fd://3", "fd://4"), "127.0.0.1:1")
    found = settings("--bind=127.0.0.1:1", LISTEN_FDS="1", LISTEN_FDNAMES="trigger")
    assert (found.bind, found.trigger_bind) == (("127.0.0.1:1",), "fd://3")


def test_sockets_of_another_process_are_not_ours() -> None:
    assert settings(LISTEN_FDS="2", LISTEN_PID="1") == Settings()
    assert settings() == Settings()


@pytest.mark.parametrize(
    "environment", [{"LISTEN_FDS": "two"}, {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "trigger:trigger"}], ids=repr
)
def test_a_list_of_sockets_that_makes_no_sense_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"^LISTEN_FD"):
        settings(**environment)


# A unix socket that is there already


async def serve_at(address: str) -> None:
    with trio.fail_after(10):  # where it is not refused
        await trio_templar.serve(quiet(bind=(address,)), bootstrap=FakeBackend())


async def test_a_socket_whose_queue_is_full_is_served_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "ws.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))  # accepted by nobody, it fills the queue
        with pytest.raises(SettingsError, match=f"cannot listen on unix:{path}: another process listens there"):
            await serve_at(f"unix:{path}")
        busy.accept()[0].close()  # it is still the one that is reached
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be nobody for a while, if we are root, whom no permission keeps out."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


async def test_a_socket_that_we_may_not_connect_to_stays() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as theirs:
        Path(folder).chmod(0o777)
        path = Path(folder) / "ws.sock"
        theirs.bind(str(path))
        theirs.listen()
        path.chmod(0)
        inode = path.stat().st_ino
        with without_privileges(), pytest.raises(SettingsError, match=f"unix:{path}: Permission denied"):
            await serve_at(f"unix:{path}")
        assert path.stat().st_ino == inode


async def test_one_that_nobody_serves_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ws.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with open_gateway(quiet(bind=(f"unix:{path}",))):
        client = WebsocketClient(await trio.open_unix_socket(str(path)))
        await client.open()
        await client.stream.aclose()


async def test_two_that_start_at_once_look_one_after_the_other(tmp_path: Path, autojump_clock: MockClock) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_at, f"unix:{tmp_path}/ws.sock")
            await trio.sleep(1)
            assert list(tmp_path.iterdir()) == []
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            await trio.sleep(1)
            assert [path.name for path in tmp_path.iterdir()] == ["ws.sock"]
            nursery.cancel_scope.cancel()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        start = trio.current_time()
        with pytest.raises(SettingsError, match="another process is about to listen in that folder"):
            await serve_at(f"unix:{tmp_path}/ws.sock")
        assert trio.current_time() - start == 5
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_at_the_end_nothing_of_a_unix_socket_is_left(how: str, tmp_path: Path) -> None:
    settings = quiet(bind=(f"unix:{tmp_path}/ws.sock",), trigger_bind=f"unix:{tmp_path}/trigger.sock")
    async with open_gateway(settings) as running:
        assert len(list(tmp_path.iterdir())) == 2
        if how == "stop":
            running.gateway.stop()
            await running.served.wait()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["socket", "file", "nothing"])
async def test_what_took_the_place_of_our_socket_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "ws.sock"
    with socket.socket(socket.AF_UNIX) as other:
        async with open_gateway(quiet(bind=(f"unix:{path}",))):
            path.unlink()
            if kind == "socket":
                other.bind(str(path))
            elif kind == "file":
                path.touch()
        assert path.exists() == (kind != "nothing")


async def test_an_inherited_unix_socket_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "ws.sock"
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen()
        async with open_gateway(quiet(bind=(f"fd://{os.dup(held.fileno())}",))):
            pass
        assert path.is_socket()


# Names


class Names(trio.abc.HostnameResolver):
    """Resolves every name to these addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[Any] = []

    async def getaddrinfo(self, host: Any, port: Any, *_: int) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in self.addresses]
        return [
            (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, int(port)))
            for family, address in zip(families, self.addresses, strict=True)
        ]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("name", ["localhost", "localhost."])
async def test_a_name_is_listened_on_where_this_machine_has_its_address(name: str) -> None:
    names = Names("2001:db8::1", "127.0.0.1")  # the first is kept for documentation, so nobody has it
    trio.socket.set_custom_hostname_resolver(names)
    async with open_gateway(quiet(bind=(f"{name}:0",), trigger_bind=f"{name}:0")) as running:
        [url] = running.gateway.websocket_urls
        assert url.startswith("ws://127.0.0.1:")
        assert str(running.gateway.trigger_url).startswith("http://127.0.0.1:")
    assert set(names.asked) == {b"localhost"}


async def test_an_address_that_a_name_has_twice_is_listened_on_once() -> None:
    trio.socket.set_custom_hostname_resolver(Names("127.0.0.1", "127.0.0.1"))
    async with open_gateway(quiet(bind=("twice:0",))) as running:
        assert len(running.gateway.websocket_urls) == 1


async def test_a_name_of_which_this_machine_has_no_address_is_refused() -> None:
    trio.socket.set_custom_hostname_resolver(Names("2001:db8::1", "192.0.2.1"))
    with pytest.raises(SettingsError, match="cannot listen on elsewhere:0: Cannot assign requested address"):
        await serve_at("elsewhere:0")


async def test_a_name_with_one_address_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        trio.socket.set_custom_hostname_resolver(Names("127.0.0.2", "127.0.0.1"))
        with pytest.raises(SettingsError, match=f"cannot listen on both:{port}: Address already in use"):
            await serve_at(f"both:{port}")
        with socket.create_server(("127.0.0.2", port)):
            pass  # what could be listened on was let go of
