"""Where commands find the gateway: what the settings say, as the other end dials it, or a URL."""

from __future__ import annotations

import pytest

from tests.unit.conftest import one_line, quiet
from trio_templar import Settings, SettingsError
from trio_templar.commands.addresses import http_address, websocket_address
from trio_templar.commands.api_caller import caller_settings
from trio_templar.commands.command import CommandError, ExitStatus


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:8002", "http://127.0.0.1:8002"),
        ("0.0.0.0:8002", "http://127.0.0.1:8002"),
        ("[::]:8002", "http://[::1]:8002"),
        ("[2001:db8::1]:80", "http://[2001:db8::1]:80"),
        ("gateway.example:1", "http://gateway.example:1"),
    ],
)
def test_the_http_api_is_where_the_settings_have_it(bind: str, url: str) -> None:
    address = http_address(None, Settings(trigger_bind=bind, trigger_token="t"))
    assert (address.url, address.socket, str(address)) == (url, "", url)


def test_a_unix_socket_is_dialled_by_its_path() -> None:
    address = http_address(None, Settings(trigger_bind="unix:/run/x.sock"))
    assert (address.url, address.socket, str(address)) == ("http://localhost", "/run/x.sock", "unix:/run/x.sock")
    assert http_address("unix:/run/x.sock", Settings()) == address
    address = websocket_address(None, Settings(bind=("unix:/run/ws.sock",), path="/live/"))
    assert (address.url, address.socket) == ("ws://localhost/live/", "/run/ws.sock")


def test_the_websocket_is_at_the_first_address_and_the_path() -> None:
    assert websocket_address(None, Settings(bind=("0.0.0.0:1", "[::]:1"))).url == "ws://127.0.0.1:1/ws/"
    assert websocket_address("wss://example.com", Settings(path="/live/")).url == "wss://example.com/live/"
    assert websocket_address("ws://example.com/other/?a=b", Settings()).url == "ws://example.com/other/?a=b"


def test_a_url_without_a_path_gets_that_of_the_settings() -> None:
    assert websocket_address("ws://h:1", Settings()).url == "ws://h:1/ws/"
    assert websocket_address("ws://h:1/", Settings(path="/live/")).url == "ws://h:1/live/"
    assert websocket_address("ws://h:1?token=a/b", Settings()).url == "ws://h:1/ws/?token=a/b"
    assert websocket_address("ws://h:1/?", Settings()).url == "ws://h:1/ws/"


def test_a_scheme_may_be_in_capitals() -> None:
    address = websocket_address("WSS://Example.com/ws/", Settings())
    assert (address.url, address.secure, address.host_and_port) == ("wss://Example.com/ws/", True, ("example.com", 443))
    assert http_address("HTTPS://x", Settings()).secure


@pytest.mark.parametrize(
    "url", ["ws://u:s3cret@x", "ws://u@x/", "ws://x/ws/#a", "ws://x/a b", "ws://x/\n", "ws://ä/", "unix:"]
)
def test_a_url_no_websocket_can_have_is_refused(url: str) -> None:
    with pytest.raises(CommandError, match=r"^--url: ") as caught:
        websocket_address(url, Settings())
    assert caught.value.status == ExitStatus.USAGE
    assert "s3cret" not in str(caught.value)


def test_with_a_certificate_the_websocket_speaks_tls_but_on_a_unix_socket() -> None:
    assert websocket_address(None, Settings(bind=("[::]:1",), tls_cert="c")).url == "wss://[::1]:1/ws/"
    assert websocket_address(None, Settings(bind=("unix:/x",), tls_cert="c")).url == "ws://localhost/ws/"


def test_where_an_inherited_socket_is_has_to_be_said() -> None:
    with pytest.raises(CommandError, match=r"^bind: fd://3 is a socket of another process; .*--url"):
        websocket_address(None, Settings(bind=("fd://3",)))


def test_the_address_of_the_ready_line_will_do() -> None:
    assert http_address("http://127.0.0.1:5/trigger/", Settings()).url == "http://127.0.0.1:5"
    assert http_address("https://example.com/live/trigger", Settings()).url == "https://example.com/live"


@pytest.mark.parametrize("url", ["http://x?a=b", "http://x/#a", "http://x/a b", "http://ä", "unix:"])
def test_a_url_no_http_api_can_have_is_refused(url: str) -> None:
    with pytest.raises(CommandError, match=r"^--url: ") as caught:
        http_address(url, Settings())
    assert caught.value.status == ExitStatus.USAGE


@pytest.mark.parametrize(
    "url",
    [
        "http://u:s3cret@x",
        "https://s3cret@x:1/trigger/",
        "http://u:s3cret@[::1",
        "u:s3cret@x:8002",
        "http://x?token=s3cret",
        "ws://x?token=s3cret",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(CommandError, match=r"^--url: ") as caught:
        http_address(url, Settings())
    assert caught.value.status == ExitStatus.USAGE
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8002", "ftp://x", "http://", "http://[::1", "http://x:0", "ws://x"])
def test_a_bad_url_is_named(url: str) -> None:
    with pytest.raises(CommandError) as caught:
        http_address(url, Settings())
    assert caught.value.status == ExitStatus.USAGE
    assert repr(url) in str(caught.value)


def test_what_the_settings_do_not_say_is_asked_for() -> None:
    with pytest.raises(CommandError, match=r"^trigger_bind is empty.*--url"):
        http_address(None, quiet())
    with pytest.raises(CommandError, match=r"^bind is empty.*--url"):
        websocket_address(None, quiet())
    with pytest.raises(CommandError, match=r"^trigger_bind: port 0 .*--url"):
        http_address(None, Settings(trigger_bind="127.0.0.1:0"))


def test_the_token_is_that_of_the_options_then_of_the_settings(tmp_path: object) -> None:
    file = f"{tmp_path}/token"
    with open(file, "w") as token:  # noqa: PTH123  # a path as an operator gives it
        token.write("from file\n")
    options = {"config": None, "token": None, "token_file": None}
    environment = {"TRIO_TEMPLAR_TRIGGER_TOKEN_FILE": "/no/such/file"}
    assert caller_settings(options, {"TRIO_TEMPLAR_TRIGGER_TOKEN": "e"}).token == "e"
    assert caller_settings({**options, "token": "o"}, environment).token == "o"
    assert caller_settings({**options, "token": ""}, {}).token == ""
    assert caller_settings({**options, "token_file": file}, environment).token == "from file"
    with pytest.raises(SettingsError, match="/no/such/file") as caught:
        caller_settings(options, environment)
    assert one_line(str(caught.value))
