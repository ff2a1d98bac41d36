"""New settings for a gateway that runs: taken over all at once, for whom it was promised, or not at all."""

from __future__ import annotations

import logging
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.unit.conftest import CAR, RIDE, operator, parts, quiet
from trio_templar import Settings, SettingsError
from trio_templar.core.options import Reload
from trio_templar.core.reload import merge
from trio_templar.core.settings import options
from trio_templar.errors import IDLE
from trio_templar.testing import Closed, FakeBackend, Rejected, open_gateway

ROOT = Path(__file__).parents[2]
PAGE = {"Origin": "https://page.example"}
POLICY = ({"policy": "drop_oldest"},)
PORT: dict[str, Any] = {"trigger_bind": "127.0.0.1:0"}


def test_what_can_be_taken_over_is_and_the_rest_stays() -> None:
    old = Settings(trigger_token="old", max_connections=5, dialect="2")
    reloaded = merge(old, Settings(trigger_token="new", max_connections=6, dialect="3", bind=("127.0.0.1:9",)))
    assert reloaded.settings == Settings(trigger_token="new", max_connections=6, dialect="2")
    assert reloaded.changed == ["trigger_token", "max_connections"]
    assert reloaded.restart == ["bind", "dialect"]


def test_the_same_settings_change_nothing() -> None:
    assert merge(Settings(), Settings()) == (Settings(), [], [])


def test_a_token_that_is_new_in_the_same_file_is_a_change(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    old = Settings(trigger_token_file=str(file))
    file.write_text("new")
    reloaded = merge(old, Settings(trigger_token_file=str(file)))
    assert (reloaded.settings.token, reloaded.changed) == ("new", ["trigger_token_file"])


def test_what_does_not_go_with_what_stays_is_a_settings_error() -> None:
    old = Settings(trigger_bind="0.0.0.0:1", trigger_token="t")
    with pytest.raises(SettingsError, match=r"^trigger_bind: 0\.0\.0\.0:1 can be reached"):
        merge(old, Settings(trigger_bind="127.0.0.1:1"))


def test_the_page_says_of_every_setting_when_it_is_taken_over() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    rows = re.findall(r"^\| `(--[a-z-]+)` \| [^|]+ \| ([a-z ]+) \| ", page, re.MULTILINE)
    assert dict(rows) == {option.flag: option.reload.value for option in options()}
    assert {rule for _, rule in rows} == {"at once", "new clients", "restart"}


def test_a_setting_is_taken_over_as_its_field_says() -> None:
    numbers = [option for option in options() if option.kind in (int, float) and option.default]
    assert len(numbers) > 30
    for option in numbers:
        reloaded = merge(Settings(), Settings(**{option.name: option.default * 2}))
        restart = option.reload is Reload.RESTART
        assert (reloaded.changed, reloaded.restart) == (([], [option.name]) if restart else ([option.name], []))


async def test_a_new_token_is_asked_for_and_the_old_one_is_nothing_any_more(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(trigger_token="old", **PORT)) as running:
        running.gateway.reload(quiet(trigger_token="new", **PORT))
        body = {"rooms": [], "data": 1}
        async with operator(running.gateway, "old") as one, operator(running.gateway, "new") as other:
            assert (await one.post("/trigger/", json=body)).status_code == 401
            assert (await other.post("/trigger/", json=body)).status_code == 200


async def test_a_new_origin_may_connect_at_once(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        with pytest.raises(Rejected, match="403"):
            await running.connect(PAGE)
        assert running.gateway.reload(quiet(allowed_origin=(PAGE["Origin"],))) == []
        client = await running.connect(PAGE)
        assert await client.receive() == {"allowed_rooms": [CAR]}
        running.gateway.reload(quiet())
        with pytest.raises(Rejected, match="403"):
            await running.connect(PAGE)
        assert (await client.subscribe(1, CAR))["code"] == "success"


async def test_bounds_are_for_clients_that_come_from_now_on(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR, RIDE])) as running:
        early = await running.subscriber(1, CAR)
        assert running.gateway.reload(quiet(max_subscriptions=1, max_connections=2)) == []
        late = await running.subscriber(1, CAR)
        assert (await early.subscribe(2, RIDE))["code"] == "success"
        assert (await late.subscribe(2, RIDE))["message"] == "too-many-subscriptions"
        with pytest.raises(Rejected, match="503"):
            await running.connect()


async def test_what_clients_share_is_made_again_by_a_reload_and_by_nothing_else(autojump_clock: MockClock) -> None:
    guarded: dict[str, Any] = {"trigger_bind": "0.0.0.0:0", "trigger_token": "t"}
    async with open_gateway(quiet(max_subscriptions=1, **guarded), backend=FakeBackend([CAR])) as running:
        current = parts(running).current
        first = current.context
        await running.connect()
        with pytest.raises(SettingsError):
            running.gateway.reload(quiet(max_subscriptions=2))
        assert current.context is first
        running.gateway.reload(quiet(max_subscriptions=2, **guarded))
        assert (first.rules.max_subscriptions, current.context.rules.max_subscriptions) == (1, 2)


async def test_a_new_policy_is_that_of_rooms_that_are_there(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        await running.subscriber(1, CAR)
        (room,) = parts(running).delivery.hub.rooms.values()
        before = room.policy
        running.gateway.reload(quiet(room_policy=POLICY))
        assert room.policy != before
        running.gateway.reload(quiet())
        assert room.policy == before


async def test_the_log_says_what_changed_and_what_needs_a_restart(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway(quiet()) as running:
        assert running.gateway.reload(quiet(trigger_token="s3cret", path="/other/")) == ["path"]
        assert (running.gateway.settings.path, running.gateway.settings.token) == ("/ws/", "s3cret")
    (record,) = [record for record in caplog.records if record.getMessage() == "reloaded"]
    assert record.levelname == "WARNING"
    assert vars(record)["fields"] == {"changed": "trigger_token", "restart": "path"}
    assert "s3cret" not in str(vars(record))


async def test_what_does_not_fit_changes_nothing(autojump_clock: MockClock) -> None:
    settings = Settings(bind=(), trigger_bind="0.0.0.0:0", trigger_token="t")
    async with open_gateway(settings) as running:
        with pytest.raises(SettingsError, match="can be reached from other machines"):
            running.gateway.reload(quiet(max_connections=1))
        assert running.gateway.settings is settings
        async with operator(running.gateway, "t") as caller:
            assert (await caller.get("/status")).status_code == 200


@pytest.mark.parametrize("allowed_before", [{"trigger_token": "t"}, {"insecure_trigger": True}], ids=repr)
async def test_an_inherited_socket_that_others_reach_stays_guarded(
    allowed_before: dict[str, Any], autojump_clock: MockClock
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as held:
        bound = f"fd://{os.dup(held.fileno())}"
        settings = quiet(trigger_bind=bound, **allowed_before)
        async with open_gateway(settings) as running:
            with pytest.raises(SettingsError, match=f"^trigger_bind: {bound} is open to other machines"):
                running.gateway.reload(quiet(trigger_bind=bound, max_connections=1))
            assert running.gateway.settings is settings
            async with operator(running.gateway) as stranger:
                answer = await stranger.get("/status")
            assert answer.status_code == (401 if settings.token else 200)
            assert running.gateway.reload(quiet(trigger_bind=bound, trigger_token="other")) == []


async def test_too_few_descriptors_are_said_at_start_and_by_a_reload_that_wants_more(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    def few() -> list[int]:
        records = [record for record in caplog.records if record.getMessage() == "few descriptors"]
        caplog.clear()
        return [vars(record)["fields"]["wanted"] for record in records]

    many = 2**31
    async with open_gateway(quiet(max_connections=1, max_callers=1, max_bootstraps=1)) as running:
        assert few() == []
        running.gateway.reload(quiet(max_connections=many, max_callers=1, max_bootstraps=1))
        assert few() == [many + 102]
        running.gateway.reload(quiet(max_connections=1, max_callers=1, max_bootstraps=1))
        assert few() == []
    async with open_gateway(quiet(max_connections=many, max_callers=1, max_bootstraps=1)):
        assert few() == [many + 102]


async def test_a_new_timeout_holds_for_clients_that_are_connected(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(), backend=FakeBackend([CAR])) as running:
        client = await running.subscriber(1, CAR)
        await trio.sleep(4.5)
        assert running.gateway.reload(quiet(idle_seconds=5)) == []
        with pytest.raises(Closed) as caught, trio.fail_after(60):
            await client.receive()
        assert caught.value.close == IDLE
        assert trio.current_time() == 5.0


async def test_new_bounds_of_rooms_hold_at_once(autojump_clock: MockClock) -> None:
    async with open_gateway(quiet(**PORT), backend=FakeBackend([CAR])) as running:
        await running.subscriber(1, CAR)
        two = [{"rooms": [CAR], "data": 1}] * 2
        async with operator(running.gateway) as caller:
            assert (await caller.post("/trigger/", json=two)).status_code == 200
            assert running.gateway.reload(quiet(room_publications=1, trigger_wait_seconds=1, **PORT)) == []
            assert (await caller.post("/trigger/", json=two)).status_code == 413
