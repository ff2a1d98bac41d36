"""Who may call the HTTP API, who is refused, and what a wrong token costs whom."""

from __future__ import annotations

import base64
import logging

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import operator, parts, quiet, settled
from tests.unit.test_http_app import NDJSON, ONE, api
from trio_templar import Settings, SettingsError
from trio_templar.http.authorization import (
    MAX_PENALTIES,
    PENALTY_SECONDS,
    QUIET_SECONDS,
    Access,
    Authorization,
    ForeignPage,
    Unauthorized,
    access_by,
)
from trio_templar.testing import open_gateway

RIGHT = {b"authorization": b"Bearer s3cret", b"host": b"gateway"}
WRONG = {b"authorization": b"Bearer guess", b"host": b"gateway"}


def basic(token: str, user: str = "x") -> str:
    return "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()


@pytest.mark.parametrize("authorization", ["Bearer s3:cret", "bearer s3:cret", basic("s3:cret"), basic("s3:cret", "")])
async def test_the_token_lets_in_as_bearer_or_password(authorization: str) -> None:
    async with api(token="s3:cret") as gateway:
        assert (await gateway.post(ONE, authorization=authorization)).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer s3",
        "Bearer s3:cret2",
        "s3:cret",
        "Basic s3:cret",
        "Basic ====",
        basic("x", "s3:cret"),
        basic(""),
    ],
)
async def test_anything_else_is_a_401_that_publishes_nothing(authorization: str, autojump_clock: MockClock) -> None:
    async with api(token="s3:cret") as gateway:
        for headers in ({}, NDJSON):
            response = await gateway.post(
                ONE, authorization=authorization, **{k.replace("-", "_"): v for k, v in headers.items()}
            )
            assert response.status_code == 401
            assert "Bearer" in response.headers["www-authenticate"]
            assert "s3" not in response.text
        assert gateway.car.data == []


@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        ("", 'Bearer, Basic realm="trigger"'),
        (basic("guess"), 'Bearer, Basic realm="trigger"'),
        ("Bearer guess", "Bearer"),
    ],
)
async def test_a_page_that_sends_bearer_is_no_reason_for_a_browser_to_ask_for_a_password(
    authorization: str, challenge: str, autojump_clock: MockClock
) -> None:
    async with api(token="s3:cret") as gateway:
        response = await gateway.post(ONE, authorization=authorization)
    assert response.headers["www-authenticate"] == challenge


# Pages


@pytest.mark.parametrize("token", ["", "secret"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://gateway.evil.example", "nonsense"])
async def test_a_page_of_another_host_is_refused_with_the_token_too(origin: str, token: str) -> None:
    async with api(token=token) as gateway:
        response = await gateway.post(ONE, origin=origin, authorization=f"Bearer {token}")
        assert (response.status_code, response.text) == (403, "pages of other hosts may not call this API")
        assert gateway.car.data == []


async def test_a_page_of_the_same_host_may_call() -> None:
    async with api() as gateway:
        assert (await gateway.post(ONE, origin="http://gateway:8080")).status_code == 200


async def test_every_route_that_needs_a_token_refuses_foreign_pages_and_no_answer_allows_them() -> None:
    async with open_gateway(quiet()) as running, operator(running.gateway) as caller:
        from trio_templar.wiring import http_app_of

        guarded = [key for key, route in http_app_of(parts(running)).routes.items() if not route.public]
        assert len(guarded) > 10
        for method, path in guarded:
            answer = await caller.request(method, path, headers={"Origin": "https://evil.example"})
            assert answer.status_code == 403, path
            same = await caller.request(method, path, headers={"Origin": "http://127.0.0.1:8002"})
            assert same.status_code in (200, 400), path
            for response in (answer, same):
                assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_a_preflight_is_not_answered_with_permission() -> None:
    async with api() as gateway:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        response = await gateway.publisher.request("OPTIONS", "/trigger/", headers=headers)
        assert response.status_code == 405
        assert not [name for name in response.headers if name.startswith("access-control-")]


# Names


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8002", "localhost:8002", "LOCALHOST", "app.localhost", "[::1]:8002", "10.1.2.3", "gateway.internal:80"],
)
async def test_loopback_addresses_and_trusted_names_may_be_asked_for(host: str) -> None:
    async with api(hosts=["Gateway.Internal"]) as gateway:
        assert (await gateway.post(ONE, host=host)).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8002", "127.0.0.1.evil.example", "[::"])
async def test_a_name_that_is_not_ours_is_refused(host: str) -> None:
    async with api(hosts=[]) as gateway:
        response = await gateway.post(ONE, host=host)
        assert response.status_code == 403
        assert "--trusted-host" in response.text
        assert gateway.car.data == []


async def test_a_request_without_a_host_comes_from_no_browser() -> None:
    await Authorization(Access(hosts=())).check({}, "")


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [
        ({"trigger_bind": "127.0.0.1:0", "trusted_host": ("a.example",)}, ("a.example",)),
        ({"trigger_bind": "localhost:0"}, ()),
        ({"trigger_bind": "127.0.0.1:0", "trigger_token": "x"}, None),
        ({"trigger_bind": "unix:/run/x"}, None),
        ({"trigger_bind": "0.0.0.0:0", "insecure_trigger": True}, None),
        ({"trigger_bind": ""}, None),
    ],
    ids=repr,
)
def test_names_matter_on_loopback_without_a_token(settings: dict[str, object], hosts: object) -> None:
    assert access_by(Settings(bind=(), **settings)).hosts == hosts  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a.example:80", "http://a.example", "a b"])
def test_a_trusted_host_is_a_name_alone(name: str) -> None:
    with pytest.raises(SettingsError, match="trusted_host"):
        Settings(trusted_host=(name,))


# Guessing


async def test_a_wrong_token_waits_and_the_right_one_does_not(autojump_clock: MockClock) -> None:
    authorization = Authorization(Access(b"s3cret"))
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3 * MAX_PENALTIES):
            nursery.start_soon(refused, authorization)
        await settled()
        await authorization.check(RIGHT, "10.0.0.1")
        assert trio.current_time() == start
    assert trio.current_time() - start == PENALTY_SECONDS


async def refused(authorization: Authorization) -> None:
    with pytest.raises(Unauthorized):
        await authorization.check(WRONG, "10.0.0.1")


async def test_those_who_wait_are_bounded_and_a_cancelled_one_waits_no_more(autojump_clock: MockClock) -> None:
    authorization = Authorization(Access(b"s3cret"))
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_PENALTIES):
            nursery.start_soon(refused, authorization)
        await settled()
        start = trio.current_time()
        await refused(authorization)
        assert trio.current_time() == start
        nursery.cancel_scope.cancel()
    await refused(authorization)
    assert trio.current_time() - start == PENALTY_SECONDS


async def test_who_shows_no_token_is_told_so_at_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    start = trio.current_time()
    with pytest.raises(Unauthorized):
        await Authorization(Access(b"s3cret")).check({}, "10.0.0.1")
    assert trio.current_time() == start
    assert caplog.records == []


async def test_wrong_tokens_are_counted_in_few_lines_that_do_not_show_them(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    authorization = Authorization(Access(b"s3cret"))
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(refused, authorization)
    await trio.sleep(QUIET_SECONDS)
    await refused(authorization)
    assert [record.__dict__["fields"] for record in caplog.records] == [
        {"count": 1, "peer": "10.0.0.1"},
        {"count": 50, "peer": "10.0.0.1"},
    ]
    assert {(record.levelno, record.getMessage()) for record in caplog.records} == {(logging.WARNING, "wrong token")}


async def test_what_is_asked_for_can_change_while_it_runs(autojump_clock: MockClock) -> None:
    authorization = Authorization(Access(b"s3cret"))
    authorization.access = Access(b"guess")
    await authorization.check(WRONG, "")
    with pytest.raises(Unauthorized):
        await authorization.check(RIGHT, "")
    authorization.access = Access(hosts=())
    with pytest.raises(ForeignPage):
        await authorization.check(RIGHT, "")


def test_a_token_is_not_shown() -> None:
    assert "s3cret" not in repr(Access(b"s3cret"))
