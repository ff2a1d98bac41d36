"""What an embedding program imports, and its tests use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from trio.testing import MockClock

import trio_templar
import trio_templar.testing
from tests.unit.conftest import CAR, PYTHON, RIDE, one_line, quiet, settled
from trio_templar.testing import FakeBackend, open_gateway


@pytest.mark.parametrize("name", ["Room", "Bootstrap"])
def test_what_a_program_annotates_is_exported(name: str) -> None:
    assert name in trio_templar.__all__
    assert getattr(trio_templar, name) is not None


def test_all_that_is_exported_is_shown_before_it_is_asked_for() -> None:
    code = "import trio_templar; print(set(trio_templar.__all__) - set(dir(trio_templar)))"
    assert subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_old_name_of_a_gateway_on_memory_streams_still_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="MemoryGateway") as warned:
        old = trio_templar.testing.House
    assert old is trio_templar.testing.MemoryGateway
    assert [warning.filename for warning in warned] == [__file__]


def test_the_page_names_all_that_a_program_sees_of_a_gateway() -> None:
    names = {name for name in vars(trio_templar.Gateway) if not name.startswith("_")} - {"stopped"}  # deprecated
    text = (Path(__file__).parents[2] / "docs/embedding.md").read_text()
    rows = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(?:await )?(\w+)", row)} == names


async def test_the_event_that_a_gateway_has_stopped_still_works_and_warns() -> None:
    async with open_gateway() as running:
        with pytest.warns(DeprecationWarning, match="draining"):
            stopped = running.gateway.stopped
        assert not stopped.is_set()
        running.gateway.stop()
        assert stopped.is_set()


def test_a_name_that_the_test_kit_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = trio_templar.testing.nonsense


def test_without_rich_top_names_what_it_needs_and_the_rest_works() -> None:
    code = "import sys; sys.modules['rich'] = None; from trio_templar.commands.cli import main; main(sys.argv[1:])"
    asked = subprocess.run([PYTHON, "-c", code, "top", "--once"], capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stdout) == (1, "")
    assert one_line(asked.stderr)
    assert "pip install 'trio-templar[top]', or in a checkout: pip install '.[top]'" in asked.stderr
    wrong = subprocess.run([PYTHON, "-c", code, "top", "--url=x"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "--url: 'x' is not" in wrong.stderr) == (2, True)
    other = subprocess.run([PYTHON, "-c", code, "top", "--help"], capture_output=True, text=True, check=False)
    assert other.returncode == 0


@pytest.mark.parametrize("dialect", ["2", "3"])
async def test_subscribe_returns_the_reply_and_keeps_what_came_before_it(
    dialect: str, autojump_clock: MockClock
) -> None:
    async with open_gateway(quiet(dialect=dialect), backend=FakeBackend([CAR, RIDE])) as running:
        client = await running.subscriber(1, CAR)
        for number in range(2):
            await running.gateway.publish([CAR], number)
        await settled()  # what is published is on its way to the client, before what it asks for now
        await client.send("ping")
        assert (await client.subscribe(2, RIDE))["code"] == "success"
        await running.gateway.publish([CAR, RIDE], 2)
        await settled()
        assert (await client.unsubscribe(2))["code"] == "success"
        assert [(await client.receive())["data"] for _ in range(2)] == [0, 1]
        assert await client.receive_text() == "pong"
        assert [(await client.receive())["data"] for _ in range(2)] == [2, 2]
        assert (await client.subscribe(3, {"target": "other"}))["message"] == "room-not-found"
