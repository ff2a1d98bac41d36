"""The log: one line an event, for people or for machines, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_templar.log import JsonFormatter, TextFormatter, log


def written(formatter: logging.Formatter, event: str = "open", level: int = logging.INFO, **fields: object) -> str:
    """What one line looks like, without a handler of this process."""
    logger = logging.Logger("trio_templar.test", logging.INFO)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    log(logger, level, event, **fields)
    return stream.getvalue()


def test_a_text_line_has_time_level_event_and_fields() -> None:
    line = written(TextFormatter(), id="a-1", code=1000, seconds=1.23456, user=0)
    assert line.split(" ", 3)[3] == "open id=a-1 code=1000 seconds=1.235 user=0\n"
    assert " INFO open " in line


def test_a_text_line_has_local_time_with_its_zone() -> None:
    formatter = TextFormatter()
    for created in (0.9996, 1.001, 1.5, 1_750_000_000.25, 1_735_000_000.0):
        record = logging.LogRecord("x", logging.INFO, "file", 1, "open", (), None)
        record.created, record.msecs = created, created % 1 * 1000
        zone = time.strftime("%z", time.localtime(created))
        assert formatter.format(record) == f"{logging.Formatter().formatTime(record)}{zone} INFO open"


def test_fields_without_a_value_are_left_out() -> None:
    assert written(TextFormatter(), user=None, hint="", frames=0).endswith(" open frames=0\n")


def test_a_long_field_is_cut_and_says_so() -> None:
    assert written(TextFormatter(), user="x" * 2048).endswith(f" user={'x' * 2048}\n")
    assert written(TextFormatter(), user="x" * 2049).endswith(f" user={'x' * 2048}…\n")
    assert json.loads(written(JsonFormatter(), user="x" * 2049))["user"] == "x" * 2048 + "…"


@given(st.text(max_size=30))
def test_whatever_is_in_a_field_it_is_one_text_line_and_no_other_field(value: str) -> None:
    line = written(TextFormatter(), why=value, last="end")
    assert len(line.splitlines()) == 1
    _, _, rest = line.rstrip("\n").partition(" open")
    if value:
        shown = rest.removeprefix(" why=").removesuffix(" last=end")
        assert (json.loads(shown) if shown.startswith('"') else shown) == value


@given(st.dictionaries(st.sampled_from(["user", "why", "peer"]), st.text(max_size=10) | st.integers(), max_size=3))
def test_a_json_line_is_one_object(fields: dict[str, Any]) -> None:
    line = written(JsonFormatter(), **fields)
    assert len(line.splitlines()) == 1
    read = json.loads(line)
    assert (read["event"], read["level"], read["logger"]) == ("open", "info", "trio_templar.test")
    assert read["time"].endswith("Z")
    assert {name: read[name] for name in fields if fields[name] != ""} == {
        name: value for name, value in fields.items() if value != ""
    }


def test_what_json_cannot_carry_is_shown_as_text() -> None:
    assert json.loads(written(JsonFormatter(), user=b"x"))["user"] == "b'x'"


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_crash_has_its_traceback(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("a fault of ours")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "file", 1, "crashed", (), (ValueError, error, None))
    assert "a fault of ours" in formatter.format(record)


def test_a_level_that_is_not_logged_costs_nothing() -> None:
    assert written(TextFormatter(), level=logging.DEBUG) == ""
