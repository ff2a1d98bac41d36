"""Each setting: what becomes of what an operator gives, or the one line that says why it cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from trio_templar import Settings, SettingsError
from trio_templar.commands.cli import make_parser
from trio_templar.commands.settings_sources import read_settings
from trio_templar.core.options import Option
from trio_templar.core.settings import options, settings_from

# What goes with a setting so that it may be given.
WITH: dict[str, dict[str, Any]] = {
    "api_socket": {"api_url": "http://api/"},
    "tls_key": {"tls_cert": "/c"},
}

ADDRESS = "is not HOST:PORT, [V6]:PORT, unix:PATH or fd://N"
ORIGIN = "is not scheme://host[:port], null or *"
IN_ORIGIN = "an origin is scheme://host[:port] alone"

GIVEN: dict[str, list[tuple[Any, Any]]] = {
    "api_url": [
        ("http://api:8000/api/", "http://api:8000/api/"),
        (" http://api/ \n", "http://api/"),
        ("HTTP://Api.Example/Path/", "http://api.example/Path/"),
        ("https://[::1]:8443/a", "https://[::1]:8443/a"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
    ],
    "api_socket": [("/run/api.sock", "/run/api.sock"), ("unix:/run/api.sock", "/run/api.sock")],
    "api_ca": [(" /etc/ca.pem\n", "/etc/ca.pem")],
    "bind": [
        (["127.0.0.1:1", " [::1]:2"], ("127.0.0.1:1", "[::1]:2")),
        (["unix:/run/x", "fd://3"], ("unix:/run/x", "fd://3")),
    ],
    "trigger_bind": [(" localhost:1 ", "localhost:1"), ("", ""), ("none", "")],
    "tls_cert": [("/c ", "/c")],
    "tls_key": [("/k\n", "/k")],
    "unix_socket_mode": [("0660", "0660"), ("660", "660")],
    "path": [("/", "/"), ("/ws", "/ws"), (" /ws/ ", "/ws/"), ("/wß/", "/w%C3%9F/"), ("/a%20b/", "/a%20b/")],
    "dialect": [("3", "3"), (" 3\n", "3")],
    "allowed_origin": [
        (["https://x.example", "*", "null"], ("https://x.example", "*", "null")),
        (["HTTPS://X.Example/"], ("https://x.example",)),
        (["https://x:443", "http://x:80", "http://x:443"], ("https://x", "http://x", "http://x:443")),
        (["https://bücher.example"], ("https://xn--bcher-kva.example",)),
        (["http://[::1]:3000"], ("http://[::1]:3000",)),
        (["capacitor://localhost"], ("capacitor://localhost",)),
    ],
    "trigger_token": [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), (" s3cret\r\n", "s3cret")],
    "trigger_token_file": [],
    "insecure_trigger": [("true", True), ("0", False)],
    "trusted_host": [(["Api.Example "], ("api.example",)), (["bücher"], ("xn--bcher-kva",))],
    "subprotocol": [([" rooms.v1", "v2"], ("rooms.v1", "v2"))],
    "forward_ip_from": [("X-Real-IP", "X-Real-IP"), ("peer", "peer"), (" X-Real-IP ", "X-Real-IP")],
    "forward_host": [("true", True), ("True", True), ("on", True), ("off", False), ("YES", True), (" no ", False)],
    "connection_header": [(["X=fixed:a b"], ("X=fixed:a b",))],
    "user_id_path": [("user.id", "user.id"), (" id ", "id"), ("", "")],
    "on_connect": [("/hook/", "/hook/"), ("hook?a=1", "hook?a=1")],
    "on_ping": [(" /hook/ ", "/hook/")],
    "on_disconnect": [("/hook/", "/hook/")],
    "allow_status": [("1", True)],
    "demo": [("false", False)],
    "ready_file": [(" /run/ready\n", "/run/ready")],
    "log_format": [("JSON", "json")],
    "log_level": [("INFO", "info"), (" Warning", "warning")],
    "room_policy": [(['{"policy": "conflate"}'], 1)],
    "max_connections": [("7", 7), (" 7 ", 7), ("20_000", 20_000)],
    "messages_per_second": [("0.5", 0.5), ("5", 5)],
    "drain_seconds": [("2.5", 2.5), (" 5\n", 5), ("1_000", 1000)],
    "memory_bytes": [("64", 64)],
    "idle_seconds": [("0", 0), ("2.5", 2.5)],
}

REFUSED: dict[str, list[tuple[Any, str]]] = {
    "api_url": [
        ("ftp://x/", "'ftp://x/' is not an http:// or https:// URL"),
        ("http://x:0/", "'http://x:0/' is not an http:// or https:// URL"),
        ("http://x/?a=1", "it has a query, which would not be sent"),
        ("http://x/?", "it has a query, which would not be sent"),
        ("http://x/#a", "it has a fragment, which would not be sent"),
        ("http://x/a b/", "'http://x/a b/' has a blank in it"),
        (
            "http://me:s3cret@x/",
            (
                "it has a name or password, which would not be sent; "
                "--connection-header 'Authorization=fixed:Basic …' sends one"
            ),
        ),
    ],
    "api_socket": [
        ("unix:", "there is no path behind unix:"),
        ("/" + "a" * 108, "the path of a unix socket has at most 107 bytes"),
    ],
    "bind": [
        ([""], f"'' {ADDRESS}"),
        (["unix:"], "'unix:' has no path"),
        (["unix: "], "'unix:' has no path"),
        (["unix:/" + "a" * 108], "the path of a unix socket has at most 107 bytes"),
        (["*:8001"], "'*:8001': every address is 0.0.0.0:8001 or [::]:8001"),
        (["ws://h:1"], f"'ws://h:1' {ADDRESS}"),
        (["a b:1"], f"'a b:1' {ADDRESS}"),
        (["h/x:1"], f"'h/x:1' {ADDRESS}"),
        (["[h]:1"], f"'[h]:1' {ADDRESS}"),
        ("h:1", "expected a list (it is 'h:1')"),
        ([5], "expected a text (it is [5])"),
    ],
    "trigger_bind": [("unix:", "'unix:' has no path"), ("null", f"'null' {ADDRESS}")],
    "unix_socket_mode": [
        ("rw", "'rw' is no mode in octal, like 0660"),
        ("0o660", "'0o660' is no mode in octal, like 0660"),
        ("0000", "with '0000' nobody could connect: that takes the right to write"),
    ],
    "path": [
        ("ws/", "'ws/' does not start with /"),
        ("", "'' does not start with /"),
        ("/ws/?a=1", "'/ws/?a=1' has a query or fragment, which no path has"),
        ("/ws/#a", "'/ws/#a' has a query or fragment, which no path has"),
        ("/a b/", "'/a b/' has a blank in it"),
        ("/a/../b", "'/a/../b' has . or .. in it, which browsers take out"),
    ],
    "dialect": [("4", "expected 2 or 3 (it is '4')")],
    "allowed_origin": [
        (["example.org"], f"'example.org' {ORIGIN}"),
        (["https://x/page"], f"'https://x/page': {IN_ORIGIN}"),
        (["https://x?a"], f"'https://x?a': {IN_ORIGIN}"),
        (["https://me@x"], f"'https://me@x': {IN_ORIGIN}"),
        (["https://x:port"], f"'https://x:port' {ORIGIN}"),
        (["https://"], f"'https://' {ORIGIN}"),
        (["https://a,https://b"], "'https://a,https://b': a comma is in no origin; give the option once for each"),
        (["https://*.x"], "'https://*.x': there are no patterns but *; name each origin"),
        (["wss://x"], "'wss://x': a page has http or https, not wss"),
        (["file:///x"], "'file:///x': pages from files have the origin null"),
        (["https://straße.example"], "'https://straße.example': give it as its browser sends it, with xn--"),
    ],
    "trigger_token": [("a\nb", "a line end is in it")],
    "insecure_trigger": [("perhaps", "expected true or false (it is 'perhaps')")],
    "subprotocol": [(["a,b"], "'a,b' is not a name without blanks, commas and the like")],
    "trusted_host": [(["h:1"], "'h:1' is not the name of a host alone"), ([""], "'' is not the name of a host alone")],
    "forward_ip_from": [("X-Real-IP:", "'X-Real-IP:' is not the name of a header, or peer")],
    "forward_host": [("", "expected true or false (it is '')"), (1, "expected true or false (it is 1)")],
    "connection_header": [
        (["X"], "'X' is not NAME=key:…, param:…, cookie:… or fixed:…"),
        (["X=fixed:"], "'X=fixed:' has no value"),
    ],
    "user_id_path": [("user..id", "'user..id' is no path like user.id")],
    "on_connect": [("https://other/hook", "'https://other/hook' is no path; it is appended to api_url")],
    "on_ping": [("/a b", "'/a b' has a blank in it"), ("/a#b", "'/a#b' is no path; it is appended to api_url")],
    "demo": [(2, "expected true or false (it is 2)")],
    "log_format": [("xml", "expected text or json (it is 'xml')")],
    "log_level": [("warn", "expected debug or info or warning or error (it is 'warn')")],
    "room_policy": [
        (["{"], "not JSON: Input data was truncated (it is '{')"),
        ([{"match": 1}], "expected a table (it is [{'match': 1}])"),
    ],
    "max_connections": [
        ("many", "expected a whole number from 1 to 2147483648 (it is 'many')"),
        (0, "expected a whole number from 1 to 2147483648 (it is 0)"),
        (True, "expected a whole number from 1 to 2147483648 (it is True)"),
        (1.5, "expected a whole number from 1 to 2147483648 (it is 1.5)"),
        ("", "expected a whole number from 1 to 2147483648 (it is '')"),
        ("1" * 5000, f"expected a whole number from 1 to 2147483648 (it is '{'1' * 60}…)"),
    ],
    "messages_per_second": [(0, "expected a number over 0, at most 1000000 (it is 0)")],
    "memory_bytes": [
        ("64k", "expected a whole number from 64 to 1099511627776 (it is '64k')"),
        ("null", "expected a whole number from 64 to 1099511627776 (it is 'null')"),
    ],
    "drain_seconds": [
        ("soon", "expected a number over 0, at most 31536000 (it is 'soon')"),
        ("nan", "expected a number over 0, at most 31536000 (it is 'nan')"),
        ("inf", "expected a number over 0, at most 31536000 (it is 'inf')"),
    ],
    "idle_seconds": [("-1", "expected a number from 0 to 31536000 (it is '-1')")],
}


def given(name: str, value: Any) -> Any:
    """What `value` becomes where a file has it."""
    said = {name: (value, name), **{other: (this, other) for other, this in WITH.get(name, {}).items()}}
    return getattr(settings_from(said), name)


def rows(table: dict[str, list[tuple[Any, Any]]]) -> list[Any]:
    return [pytest.param(name, *row, id=f"{name}={row[0]!r:.40}") for name, listed in table.items() for row in listed]


@pytest.mark.parametrize(("name", "value", "becomes"), rows(GIVEN))
def test_what_can_be_meant_is_taken(name: str, value: Any, becomes: Any) -> None:
    found = given(name, value)
    assert (len(found) if name == "room_policy" else found) == becomes


@pytest.mark.parametrize(("name", "value", "words"), rows(REFUSED))
def test_what_cannot_be_meant_is_refused_in_words(name: str, value: Any, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        given(name, value)
    text = str(caught.value)
    assert text.partition(": ")[0].partition("[")[0].partition(".")[0] == name
    assert text.partition(": ")[2] == words


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_every_setting_refuses_nonsense_in_one_line_without_words_of_a_library(option: Option) -> None:
    for nonsense in (object(), b"x", {"a": 1}, "\x00", "\udcff\n\x7f", [["x"]], 10**5000, "[" * 5000, float("nan")):
        try:
            given(option.name, nonsense)
        except SettingsError as error:
            text = str(error)
            assert text.startswith(option.name)
            assert (len(text.splitlines()), len(text) < 400, "`" in text, "null" in text) == (1, True, False, False)
        else:
            assert str(nonsense).isprintable(), nonsense  # a text as good as any


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_every_default_is_taken_as_it_is(option: Option) -> None:
    assert getattr(Settings(), option.name) == option.default


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_an_empty_variable_is_unset(option: Option) -> None:
    for empty in ("", " ", "\n"):
        arguments = vars(make_parser().parse_args(["serve"]))
        assert read_settings(arguments, {option.variable: empty}) == Settings()


@pytest.mark.parametrize("kind", [int, float, bool])
def test_every_number_and_switch_is_like_those_of_the_table(kind: type) -> None:
    for option in options():
        if option.plain is kind and option.name not in WITH and kind is not bool:
            with pytest.raises(SettingsError, match=r"expected a (whole )?number .* \(it is 'x'\)$"):
                given(option.name, "x")


def test_every_text_is_in_the_tables() -> None:
    texts = {option.name for option in options() if option.plain not in (int, float)}
    assert texts - set(GIVEN) == set()
