"""Settings: built once, checked at once, and every complaint names its setting."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from trio_templar import Settings, SettingsError
from trio_templar.core.options import PREFIX
from trio_templar.core.settings import is_local, options, settings_from
from trio_templar.core.texts import split_address


def complaint(**changes: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings(**changes)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_the_defaults_are_allowed_and_local() -> None:
    settings = Settings()
    assert (settings.bind, settings.trigger_bind) == (("127.0.0.1:8001",), "127.0.0.1:8002")
    assert (settings.path, settings.dialect, settings.token) == ("/ws/", "2", "")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().path = "/"  # type: ignore[misc]


def test_every_setting_has_a_description_and_a_default() -> None:
    for option in options():
        assert option.description, option.name
        assert getattr(Settings(), option.name) == option.default, option.name


def test_the_repr_hides_the_token() -> None:
    assert "s3cret" not in repr(Settings(trigger_token="s3cret"))


def test_lists_become_tuples() -> None:
    assert Settings(bind=["unix:/a", "unix:/b"]).bind == ("unix:/a", "unix:/b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"bind": "127.0.0.1:1"}, "bind"),
        ({"bind": ("nonsense",)}, "bind"),
        ({"bind": ("127.0.0.1:65536",)}, "bind"),
        ({"trigger_bind": "nonsense"}, "trigger_bind"),
        ({"path": "ws/"}, "path"),
        ({"dialect": "4"}, "dialect"),
        ({"dialect": 2}, "dialect"),
        ({"api_url": "ftp://x/"}, "api_url"),
        ({"api_url": "api.example/"}, "api_url"),
        ({"api_url": "http://"}, "api_url"),
        ({"api_url": "http://[::1/"}, "api_url"),
        ({"api_url": "http://h:port/"}, "api_url"),
        ({"api_socket": "/run/api"}, "api_socket"),
        ({"api_socket": "/run/api", "api_url": "https://x/"}, "api_socket"),
        ({"allowed_origin": ("example.org",)}, "allowed_origin"),
        ({"connection_header": ("X",)}, "connection_header"),
        ({"trigger_token_file": "/does/not/exist"}, "trigger_token_file"),
        ({"trigger_bind": "0.0.0.0:8002"}, "trigger_bind"),
        ({"max_connections": 0}, "max_connections"),
        ({"max_connections": 1.5}, "max_connections"),
        ({"outbox_bytes": 63}, "outbox_bytes"),
        ({"drain_seconds": 0}, "drain_seconds"),
        ({"drain_seconds": float("nan")}, "drain_seconds"),
        ({"slow_seconds": float("inf")}, "slow_seconds"),
        ({"idle_seconds": -1}, "idle_seconds"),
        ({"ping_seconds": "30"}, "ping_seconds"),
        ({"demo": "yes"}, "demo"),
        ({"log_level": "loud"}, "log_level"),
    ],
    ids=repr,
)
def test_a_wrong_value_is_named(changes: dict[str, Any], name: str) -> None:
    assert complaint(**changes).startswith(f"{name}: ")


@pytest.mark.parametrize("origin", ["https://example.org", "http://localhost:3000", "*", "null"])
def test_an_origin_is_what_browsers_send_or_a_star(origin: str) -> None:
    assert Settings(allowed_origin=(origin,)).allowed_origin == (origin,)


def test_a_token_that_is_no_text_is_not_shown() -> None:
    assert "73577357" not in complaint(trigger_token=73577357)


def test_idleness_may_be_unset_off_or_a_number() -> None:
    assert [Settings(idle_seconds=value).idle_seconds for value in (None, 0, 2.5)] == [None, 0, 2.5]


def test_whole_numbers_will_do_for_seconds() -> None:
    assert Settings(drain_seconds=5).drain_seconds == 5


# Triggers from other machines


@pytest.mark.parametrize("address", ["0.0.0.0:8002", "[::]:8002", "192.0.2.1:8002", "gateway.example:8002"])
def test_triggers_from_other_machines_need_a_token_or_a_decision(address: str) -> None:
    assert "insecure_trigger" in complaint(trigger_bind=address)
    assert Settings(trigger_bind=address, trigger_token="x")
    assert Settings(trigger_bind=address, insecure_trigger=True)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/x", ""])
def test_triggers_from_this_machine_need_none(address: str) -> None:
    assert Settings(trigger_bind=address).token == ""


def test_the_token_may_be_the_first_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("  s3cret \nsecond line\n")
    settings = Settings(trigger_token_file=str(file), trigger_bind="0.0.0.0:1")
    assert settings.token == "s3cret"
    file.unlink()
    assert settings.token == "s3cret"


@pytest.mark.parametrize("content", [b"", b"\ns3cret", b"  \n", b"\xff\xfe"])
def test_a_token_file_without_a_token_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    assert complaint(trigger_token_file=str(file)).startswith("trigger_token_file: ")


@pytest.mark.parametrize("name", ["trigger_token", "trigger_token_file"])
@pytest.mark.parametrize("text", ["", " \n"], ids=["empty", "blank"])
def test_a_token_that_is_given_and_empty_is_an_error_that_says_where(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name} in gateway.toml: it is empty, .* leave it out$"):
        settings_from({"path": ("/", "--path")}, {name: (text, f"{name} in gateway.toml")})


def test_an_empty_token_in_one_place_may_stand_beside_one_in_another() -> None:
    said = {"trigger_token": ("s3cret", "--trigger-token"), "trigger_token_file": ("", "--trigger-token-file")}
    assert settings_from(said).token == "s3cret"


# Addresses


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("host.example:0", ("host.example", 0)),
        ("[::1]:8001", ("::1", 8001)),
        ("[::]:65535", ("::", 65535)),
    ],
)
def test_an_address_is_host_and_port(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize(
    "address", ["", ":", "80", "host", "host:", ":80", "::1:80", "[::1]", "host:-1", "host:65536", "host:x", "host:٣x"]
)
def test_anything_else_is_no_address(address: str) -> None:
    with pytest.raises(SettingsError, match="is not HOST:PORT"):
        split_address(address)


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("localhost:1", True), ("unix:x", True), ("[::]:1", False)],
)
def test_who_can_reach_an_address_is_known(address: str, *, local: bool) -> None:
    assert is_local(address) is local


# Where they come from


def test_an_earlier_source_wins() -> None:
    settings = settings_from(
        {"path": ("/cli/", "--path")},
        {"path": ("/env/", "ENV"), "dialect": ("3", "ENV")},
        {"path": ("/file/", "file"), "dialect": ("2", "file"), "max_connections": (7, "file")},
    )
    assert (settings.path, settings.dialect, settings.max_connections) == ("/cli/", "3", 7)


def test_texts_become_numbers_and_booleans() -> None:
    said = {"max_connections": "7", "slow_seconds": "1.5", "forward_host": "true", "idle_seconds": "0"}
    settings = settings_from({name: (value, name) for name, value in said.items()})
    assert (settings.max_connections, settings.slow_seconds) == (7, 1.5)
    assert (settings.forward_host, settings.idle_seconds) == (True, 0)


def test_a_complaint_uses_the_name_its_user_used() -> None:
    with pytest.raises(SettingsError, match=r"^--max-connections: .*'many'"):
        settings_from({"max_connections": ("many", "--max-connections")})


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ({"history": "no"}, r"^room_policy\[1\]\.history in x\.toml: expected true or false "),
        ("{", r"^room_policy\[1\] in x\.toml: not JSON: "),
    ],
    ids=["a field", "an item"],
)
def test_the_place_in_a_setting_of_a_file_stands_before_the_file(policy: object, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        settings_from({"room_policy": ([{"match": {"a": 1}}, policy], "room_policy in x.toml")})


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"^colour in x.toml: there is no such setting"):
        settings_from({"colour": ("red", "colour in x.toml")})


def test_options_are_named_alike_everywhere() -> None:
    option = next(option for option in options() if option.name == "api_url")
    assert (option.flag, option.variable) == ("--api-url", PREFIX + "API_URL")
    assert len({option.flag for option in options()}) == len(options())


@pytest.mark.parametrize(
    ("name", "metavar", "default"),
    [
        ("dialect", "2|3", "2"),
        ("drain_seconds", "SECONDS", "10"),
        ("outbox_bytes", "BYTES", "1048576"),
        ("max_connections", "N", "10000"),
        ("bind", "VALUE", "127.0.0.1:8001"),
        ("allowed_origin", "VALUE", "none"),
        ("idle_seconds", "SECONDS", "unset"),
        ("demo", "VALUE", "off"),
    ],
)
def test_an_option_says_what_it_takes(name: str, metavar: str, default: str) -> None:
    option = next(option for option in options() if option.name == name)
    assert (option.metavar, option.default_text) == (metavar, default)


def test_a_publication_may_be_half_an_outbox() -> None:
    assert Settings(outbox_bytes=1000).max_publication_bytes == 500
