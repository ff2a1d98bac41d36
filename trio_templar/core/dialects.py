"""The two wire formats clients speak: High-templar 2 (2.5.0) and 3 (3.1.0), byte for byte.

Both parse the same commands; what they answer differs. Frames are what Python's `json.dumps` makes of a dict: `", "`
and `": "` between, ASCII only, keys in the order shown. A requestId is kept and echoed as its JSON text, which is its
identity too: `1`, `"1"`, `true` and `1.0` are four.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from trio_templar.core.frames import Publication
from trio_templar.core.rooms import Room
from trio_templar.errors import ClientError


@dataclass(frozen=True, slots=True)
class Ping:
    """The four letters `ping`."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Enter `room`; publications carry `request_id` (JSON text)."""

    request_id: str
    room: Room


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Leave the room entered under `request_id` (JSON text)."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Status:
    """Totals of the gateway (High-templar 3.1); `request_id` is for the refusal."""

    request_id: str | None = None


Command = Ping | Subscribe | Unsubscribe | Status


def parse(message: str | bytes, max_request_id_bytes: int) -> Command:
    """Turn one message of a client into a command.

    Raises ClientError: if it is none; never returns a half-checked one.
    """
    if message == "ping":
        return Ping()
    try:
        value = msgspec.json.decode(message)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ClientError("non-json-message") from None
    if not isinstance(value, dict):
        raise ClientError("message-type-not-allowed")
    request_id = _request_id(value, max_request_id_bytes)
    match value.get("type"):
        case "subscribe":
            return Subscribe(_usable(request_id), _room(value, request_id))
        case "unsubscribe":
            return Unsubscribe(_usable(request_id))
        case "status":
            return Status(request_id or None)
        case _:
            raise ClientError("message-type-not-allowed", request_id or None)


def _request_id(message: dict[str, Any], max_bytes: int) -> str | None:
    """Return the requestId as JSON text, `""` if it cannot be one, None if it is absent."""
    if "requestId" not in message:
        return None
    value = message["requestId"]
    if isinstance(value, dict | list):
        return ""
    text = json.dumps(value)
    return text if len(text) <= max_bytes else ""


def _usable(request_id: str | None) -> str:
    if request_id is None:
        raise ClientError("no-request-id")
    if not request_id:
        raise ClientError("invalid-request-id")
    return request_id


def _room(message: dict[str, Any], request_id: str | None) -> Room:
    room = message.get("room")
    if not isinstance(room, dict):
        raise ClientError("invalid-room", request_id)
    return room


class Dialect(Protocol):
    """How one generation of clients is spoken to. All texts are JSON in ASCII."""

    allows_status: bool
    idle_seconds: float | None

    def welcome(self, allowed_rooms: Sequence[Room]) -> str:
        """Return the first message an admitted client gets."""

    def refusal(self) -> str | None:
        """Return what a refused client is told after the 101, or None to refuse it over HTTP."""

    def success(self, request_id: str) -> str:
        """Return the reply to a subscribe or unsubscribe that was obeyed."""

    def error(self, error: ClientError, connection_id: str) -> str:
        """Return the reply to a message that was not."""

    def publication(self, data: bytes) -> Publication:
        """Return the two sides of a publish message around its requestId; `data` is JSON in UTF-8, kept as it is."""


def unsubscribed(request_id: str, reason: str) -> str:
    """Return what a client gets when we end its subscription `request_id` (JSON); the same in both dialects."""
    return f'{{"type": "unsubscribed", "requestId": {request_id}, "reason": {json.dumps(reason)}}}'


class Dialect2:
    """High-templar 2.5.0: replies carry the requestId; a refused client never gets a websocket."""

    allows_status = False
    idle_seconds: float | None = None

    def welcome(self, allowed_rooms: Sequence[Room]) -> str:
        """`{"allowed_rooms": […]}`."""
        return json.dumps({"allowed_rooms": allowed_rooms})

    def refusal(self) -> str | None:
        """None: refused over HTTP."""
        return None

    def success(self, request_id: str) -> str:
        """`{"requestId": …, "code": "success"}`."""
        return f'{{"requestId": {request_id}, "code": "success"}}'

    def error(self, error: ClientError, connection_id: str) -> str:
        """`{"requestId": … or null, "code": "error", "message": …}`."""
        return f'{{"requestId": {error.request_id or "null"}, "code": "error", "message": "{error.code}"}}'

    def publication(self, data: bytes) -> Publication:
        """`{"requestId": …, "type": "publish", "data": …}`."""
        return Publication(b'{"requestId": ', b', "type": "publish", "data": ' + data + b"}")


class Dialect3:
    """High-templar 3.1.0: replies carry no requestId, except two errors that carry the connection's id."""

    allows_status = True
    idle_seconds: float | None = 300.0

    def welcome(self, allowed_rooms: Sequence[Room]) -> str:
        """`{"is_authorized": true, "allowed_rooms": […]}`."""
        return json.dumps({"is_authorized": True, "allowed_rooms": allowed_rooms})

    def refusal(self) -> str | None:
        """`{"is_authorized": false}`, then close 1000."""
        return '{"is_authorized": false}'

    def success(self, request_id: str) -> str:
        """`{"code": "success"}`."""
        return '{"code": "success"}'

    def error(self, error: ClientError, connection_id: str) -> str:
        """`{"code": "error", "message": …}`, with the connection's id in front where 3.1 has it."""
        if error.code in ("non-json-message", "message-type-not-allowed"):
            return f'{{"requestId": "{connection_id}", "code": "error", "message": "{error.code}"}}'
        return f'{{"code": "error", "message": "{error.code}"}}'

    def publication(self, data: bytes) -> Publication:
        """`{"type": "publish", "data": …, "requestId": …}`."""
        return Publication(b'{"type": "publish", "data": ' + data + b', "requestId": ', b"}")


DIALECTS: dict[Literal["2", "3"], Dialect] = {"2": Dialect2(), "3": Dialect3()}
