"""What a publisher asks of the answer."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_templar.core.preferences import MAX_WAIT_SECONDS, Preferences
from trio_templar.errors import TriggerError


def preferences(**headers: str) -> Preferences:
    return Preferences.of({name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()})


def test_without_headers_nothing_is_asked() -> None:
    assert preferences() == Preferences()
    assert not preferences().counted


@pytest.mark.parametrize(
    ("accept", "report"),
    [
        ("application/json", True),
        ("image/png, Application/JSON;q=0.9", True),
        ("*/*", False),
        ("application/*", False),
        ("application/json;q=0", False),
        ("application/json; q=0.000", False),
        ("", False),
        ("application/json, text/plain;q=0.9", True),
        ("application/json, text/javascript, */*; q=0.01", True),
        ("application/json, text/plain, */*", False),
        ("application/json, */*", False),
        ("application/json;q=0.5, text/plain", False),
        ("application/json;q=0.5, text/html;q=0.8, text/*;q=0.1", False),
    ],
)
def test_a_report_is_asked_for_by_accepting_json(accept: str, report: bool) -> None:
    assert preferences(accept=accept).report is report


@pytest.mark.parametrize(
    ("prefer", "wait"),
    [
        ("wait=5", 5),
        ("Wait = 5", 5),
        ('wait="5"', 5),
        ("respond-async, wait=10; x=y", 10),
        ("wait=1, wait=2", 1),
        ("wait=0", 0),
        (f"wait={MAX_WAIT_SECONDS + 1}", MAX_WAIT_SECONDS),
        ("respond-async", None),
        ('handling="lenient"', None),
        ("  ", None),
    ],
)
def test_the_wait_is_read_as_the_rfc_has_it(prefer: str, wait: int | None) -> None:
    assert preferences(prefer=prefer).wait == wait


@pytest.mark.parametrize(
    "prefer", ["wait", "wait=", "wait=soon", "wait=-1", "wait=1.5", "=5", "wait=5 5", "a,,b", "wait=²"]
)
def test_a_malformed_preference_is_refused(prefer: str) -> None:
    with pytest.raises(TriggerError, match=r"^Prefer: "):
        preferences(prefer=prefer)


@pytest.mark.parametrize(
    ("sent", "key"), [("abc", "abc"), ('"8e03978e-40d5"', "8e03978e-40d5"), (" a ", "a"), ("x" * 255, "x" * 255)]
)
def test_a_key_may_be_bare_or_in_quotes(sent: str, key: str) -> None:
    assert preferences(idempotency_key=sent).idempotency_key == key


@pytest.mark.parametrize("sent", ["", '""', "two words", "é", "x" * 256, "a\tb"])
def test_a_malformed_key_is_refused(sent: str) -> None:
    with pytest.raises(TriggerError, match=r"^Idempotency-Key: "):
        preferences(idempotency_key=sent)


@given(st.text(st.characters(codec="latin-1")))
def test_any_header_is_read_or_refused(value: str) -> None:
    for name in ("accept", "prefer", "idempotency_key"):
        with suppress(TriggerError):
            preferences(**{name: value})
