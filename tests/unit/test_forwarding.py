"""Forwarding: which headers of a client the API gets, and that nothing else can get there."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_templar import ClientRequest
from trio_templar.core.forwarding import Forwarding, HeaderRule

PLAIN = Forwarding()


def request(target: str = "/ws/", *headers: tuple[bytes, bytes], peer: str = "192.0.2.7") -> ClientRequest:
    return ClientRequest(target, headers, peer)


def sent(forwarding: Forwarding, client: ClientRequest) -> dict[bytes, bytes]:
    headers = forwarding.api_headers(client)
    assert len({name.lower() for name, _ in headers}) == len(headers)
    return dict(headers)


def rule(text: str) -> Forwarding:
    return Forwarding(rules=[HeaderRule.parse(text)])


def test_a_bare_client_sends_nothing() -> None:
    assert sent(PLAIN, request()) == {}


def test_cookie_and_user_agent_go_as_they_are() -> None:
    client = request("/ws/", (b"cookie", b'a="1"; b=\xe9'), (b"user-agent", b"Firefox"), (b"referer", b"x"))
    assert sent(PLAIN, client) == {b"Cookie": b'a="1"; b=\xe9', b"User-Agent": b"Firefox"}


def test_repeated_cookie_headers_are_joined_with_semicolons() -> None:
    assert sent(PLAIN, request("/", (b"cookie", b"a=1"), (b"cookie", b"b=2"))) == {b"Cookie": b"a=1; b=2"}


def test_other_repeated_headers_are_joined_with_commas() -> None:
    assert request("/", (b"x", b"1"), (b"x", b"2")).header(b"x") == b"1, 2"


def test_the_csrf_token_is_a_cookie_that_becomes_a_header() -> None:
    client = request("/", (b"cookie", b'x=1;csrftoken="abc"; y=2'))
    assert sent(PLAIN, client)[b"X-CSRFToken"] == b"abc"


def test_of_two_cookies_of_a_name_the_last_is_taken_as_django_does() -> None:
    client = request("/", (b"cookie", b'csrftoken="abc"; s=1'), (b"cookie", b"csrftoken=second; s=2"))
    assert sent(PLAIN, client)[b"X-CSRFToken"] == b"second"
    assert sent(rule("X-Session=cookie:s"), client)[b"X-Session"] == b"2"


def test_the_token_of_the_query_becomes_an_authorization() -> None:
    assert sent(PLAIN, request("/ws/?a=1&token=t%2B%C3%A9&token=other")) == {
        b"Authorization": "Token t+é".encode(),
    }


@pytest.mark.parametrize("target", ["/ws/?token=", "/ws/?tokens=1", "/ws/", "/ws/?", "/token=1"])
def test_no_token_is_no_authorization(target: str) -> None:
    assert sent(PLAIN, request(target)) == {}


def test_a_client_cannot_send_an_authorization_of_its_own() -> None:
    assert sent(PLAIN, request("/", (b"authorization", b"Token stolen"), (b"host", b"elsewhere"))) == {}


def test_the_path_is_the_target_without_its_query() -> None:
    assert request("/ws/?a=/b?c").path == "/ws/"


# The client's address


def test_the_address_may_be_that_of_the_peer() -> None:
    client = request("/", (b"x-forwarded-for", b"spoofed"))
    assert sent(Forwarding(b"peer"), client) == {b"X-Forwarded-For": b"192.0.2.7"}


def test_the_address_may_come_from_the_proxy_in_front() -> None:
    forwarding = Forwarding(b"x-real-ip")
    assert sent(forwarding, request("/", (b"x-real-ip", b"203.0.113.9"))) == {b"X-Forwarded-For": b"203.0.113.9"}
    assert sent(forwarding, request("/")) == {}


def test_a_peer_without_an_address_sends_none() -> None:
    assert sent(Forwarding(b"peer"), request(peer="")) == {}


def test_x_real_ip_is_passed_on_by_dialect_3_alone() -> None:
    client = request("/", (b"x-real-ip", b"203.0.113.9"))
    assert sent(PLAIN, client) == {}
    assert sent(Forwarding(real_ip=True), client) == {b"X-Real-IP": b"203.0.113.9"}
    assert b"X-Real-IP" not in sent(Forwarding(b"peer", real_ip=True), client)


def test_the_clients_host_goes_on_only_by_setting() -> None:
    client = request("/", (b"host", b"app.example"))
    assert sent(Forwarding(host=True), client) == {b"Host": b"app.example"}


# Headers of the settings


def test_a_header_of_the_client_may_go_on() -> None:
    client = request("/", (b"accept-language", b"nl"))
    assert sent(rule("Accept-Language=key:Accept-Language"), client) == {b"Accept-Language": b"nl"}


def test_a_parameter_may_become_a_header() -> None:
    assert sent(rule("X-Session=param:s"), request("/?s=1%202&s=3")) == {b"X-Session": b"1 2"}


def test_a_cookie_may_become_a_header() -> None:
    assert sent(rule("X-Session=cookie:s"), request("/", (b"cookie", b"s=1")))[b"X-Session"] == b"1"


def test_a_fixed_value_keeps_its_colons() -> None:
    assert sent(rule("Referer=fixed:https://x.example/"), request()) == {b"Referer": b"https://x.example/"}


def test_a_format_stands_around_the_value() -> None:
    assert sent(rule("Authorization=param:jwt:Bearer: {}!"), request("/?jwt=a")) == {b"Authorization": b"Bearer: a!"}


def test_a_missing_or_empty_source_sends_nothing() -> None:
    assert sent(rule("X=param:a:Bearer {}"), request("/?a=")) == {}
    assert sent(rule("X=key:a"), request()) == {}


def test_a_rule_replaces_a_default_whatever_its_case() -> None:
    client = request("/?jwt=j&token=t")
    assert sent(rule("authorization=param:jwt:Bearer {}"), client) == {b"authorization": b"Bearer j"}


def test_a_rule_without_value_leaves_the_default() -> None:
    assert sent(rule("authorization=param:jwt:Bearer {}"), request("/?token=t")) == {b"Authorization": b"Token t"}


@pytest.mark.parametrize(
    "text",
    ["", "X", "X=", "X=key", "=key:a", "X Y=key:a", "X:=key:a", "é=key:a", "X=keys:a", "X=key:a:no braces", "X=key:"],
)
def test_anything_else_is_no_rule(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|the source is|has no"):
        HeaderRule.parse(text)


@pytest.mark.parametrize("value", ["a%0d%0aX-Admin:%201", "a%00", "%7f", "a%0ab"])
def test_a_value_that_would_be_another_header_is_left_out(value: str) -> None:
    assert sent(PLAIN, request(f"/?token={value}")) == {}


@given(
    st.text(max_size=20),
    st.lists(st.tuples(st.sampled_from([b"cookie", b"user-agent", b"x-real-ip", b"host"]), st.binary(max_size=20))),
)
def test_whatever_a_client_sends_the_request_to_the_api_can_be_written(
    target: str, headers: list[tuple[bytes, bytes]]
) -> None:
    rules = [HeaderRule.parse(text) for text in ("X-A=param:a", "X-B=cookie:b:Token {}", "X-C=key:user-agent")]
    forwarding = Forwarding(b"x-real-ip", host=False, real_ip=True, rules=rules)
    client = ClientRequest(f"/ws/?token={target}&a={target}", headers)
    found = forwarding.api_headers(client)
    assert all(value for _, value in found)
    h11.Connection(h11.CLIENT).send(h11.Request(method="GET", target="/", headers=[(b"Host", b"api"), *found]))
