"""Addresses: unix sockets with their mode, and sockets that somebody else opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

import trio_templar
from tests.unit.conftest import quiet
from trio_templar import Settings, SettingsError
from trio_templar.cli import make_parser
from trio_templar.commands.sources import read_settings
from trio_templar.listeners import open_listeners
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
        async with open_gateway(quiet(bind=(f"fd://{os.dup(held.fileno())}",))) as house:
            assert house.gateway.websocket_urls == (f"ws://127.0.0.1:{port}/ws/",)
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
