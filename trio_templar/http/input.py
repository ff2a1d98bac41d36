"""What a caller of the HTTP API asks for, its query or its JSON body, checked and as a struct."""

from __future__ import annotations

from typing import Any, Final, TypeVar, get_args, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from msgspec import UnsetType

from trio_templar.core.rooms import Room, room_key
from trio_templar.errors import RequestError
from trio_templar.http.app import Request

T = TypeVar("T")

# What msgspec calls things, and what a caller of ours calls them.
_WORDS: Final = (
    ("Object contains unknown field", "there is no such name:"),
    ("Object missing required field", "missing:"),
    ("`object`", "an object"),
    ("`int`", "a whole number"),
    ("`str`", "a text"),
)


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query of a route that takes none."""


def read_query(request: Request, type_: type[T]) -> T:
    """Return the query of `request` as a `type_`, a struct that forbids unknown fields; texts become numbers.

    Raises RequestError: if it does not fit; the text names what does not.
    """
    try:
        pairs = parse_qsl(request.query.decode(), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise RequestError(f"the query cannot be read: {error}") from error
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise RequestError(f"{name}: given twice")
        values[name] = value
    try:
        return msgspec.convert(values, type_, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(_plainer(error, type_)) from error


async def read_body(request: Request, type_: type[T]) -> T:
    """Return the JSON body of `request` as a `type_`, a struct that forbids unknown fields.

    Raises RequestError: if it is no JSON, or does not fit; the text names what does not.
    """
    body = await request.body.whole()
    try:
        body.decode()  # msgspec checks UTF-8 only in strings that it decodes
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise RequestError(_plainer(error, type_)) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise RequestError(f"not JSON: {error}") from error


def given(value: T | UnsetType) -> T | None:
    """Return `value`, or None where it was left out."""
    return None if isinstance(value, UnsetType) else value


def read_room(text: str) -> bytes:
    """Return the room key of `text`, a room as JSON. Raises RequestError: if it is none."""
    try:
        return key_of(msgspec.json.decode(text, type=dict[str, Any]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise RequestError(f"room: not a JSON object: {error}") from error


def key_of(room: Room) -> bytes:
    """Return the key of `room`. Raises RequestError: if it cannot be one."""
    try:
        return room_key(room)
    except ValueError as error:
        raise RequestError(f"room: {error}") from error


def _plainer(error: msgspec.ValidationError, type_: type[T]) -> str:
    """Return what msgspec says is wrong, with the place in front: `limit: expected …`."""
    text, _, place = str(error).partition(" - at `$")
    for theirs, ours in _WORDS:
        text = text.replace(theirs, ours)
    name = place.rstrip("`").lstrip(".")
    if "enum value" in text:
        text = f"expected {' or '.join(get_args(get_type_hints(type_)[name]))}"
    text = text.replace("Expected", "expected").replace("Invalid", "invalid")
    return f"{name}: {text}" if name else text
