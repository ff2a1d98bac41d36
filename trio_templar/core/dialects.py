"""The two wire formats clients speak: High-templar 2 (2.5.0) and 3 (3.1.0), byte for byte.

Both parse the same commands; what they answer differs. Frames are what Python's `json.dumps` makes of a dict, because
High-templar sends that and old clients may compare texts: `", "` and `": "` between, ASCII only, keys in the order
shown. Small replies are formatted by hand, which is faster.

A requestId is kept and echoed as its JSON text, which is its identity too: `1`, `"1"`, `true` and `1.0` are four.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal, Protocol

import msgspec

from trio_templar.core.frames import Publication
from trio_templar.core.rooms import Room
from trio_templar.errors import ClientError

# The position behind which a client asks; None: it wants positions; unset: it knows nothing of them.
Since = str | None | msgspec.UnsetType


class Ping(msgspec.Struct, frozen=True):
    """The four letters `ping`."""


class Subscribe(msgspec.Struct, frozen=True):
    """Subscribe to `room`; publications carry `request_id` (JSON text).

    With `since` they carry positions too: None asks for those alone, a position for what came behind it.
    """

    request_id: str
    room: Room
    since: Since = msgspec.UNSET


class Unsubscribe(msgspec.Struct, frozen=True):
    """End the subscription `request_id` (JSON text)."""

    request_id: str


class Status(msgspec.Struct, frozen=True):
    """Totals of the gateway (High-templar 3.1); `request_id` is for the refusal."""

    request_id: str | None = None


Command = Ping | Subscribe | Unsubscribe | Status


def parse(message: str | bytes, max_request_id_bytes: int) -> Command:
    """Return the command that one message of a client is, checked.

    Raises ClientError: if it is none, or its requestId or room cannot be used.
    """
    if message == "ping":  # High-templar's own ping is no JSON
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
            return Subscribe(_usable(request_id), _room(value, request_id), _since(value, request_id))
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
    text = json.dumps(value)  # ASCII: its length is its bytes
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


def _since(message: dict[str, Any], request_id: str | None) -> Since:
    since = message.get("since", msgspec.UNSET)
    if since is None or since is msgspec.UNSET or isinstance(since, str):
        return since
    raise ClientError("invalid-since", request_id)


class Dialect(Protocol):
    """How one generation of clients is spoken to. All texts are JSON in ASCII.

    Codes of errors and ids of connections are our own words, so they need no escaping; a requestId is JSON already.
    """

    allows_status: bool
    idle_seconds: float | None

    def welcome(self, rooms_text: str) -> str:
        """Return the first message an admitted client gets; `rooms_text` is the JSON of its allowed rooms."""

    def refusal(self) -> str | None:
        """Return the message for a refused client after the 101, or None: it is refused over HTTP."""

    def success(self, request_id: str) -> str:
        """Return the reply to a subscribe or unsubscribe that succeeded."""

    def error(self, error: ClientError, connection_id: str) -> str:
        """Return the reply to a message that failed with `error`."""

    def publication(self, data: bytes) -> Publication:
        """Return a publish message as its two sides around the requestId; `data` is JSON in UTF-8, sent as it is."""

    def data(self, left: bytes, right: bytes) -> bytes:
        """Return the `data` of which `publication` made these two sides, byte for byte."""


def unsubscribed(request_id: str, reason: str) -> str:
    """Return the message that we ended the subscription `request_id` (JSON); it is the same in both dialects."""
    return f'{{"type": "unsubscribed", "requestId": {request_id}, "reason": {json.dumps(reason)}}}'


def subscribed(request_id: str, at: str | None, recovered: bool | None) -> str:  # what is said
    """Return the reply to a subscribe with `since` (requestId: JSON); it is the same in both dialects."""
    fields = [f'"requestId": {request_id}', '"code": "success"']
    if at is not None:
        fields.append(f'"at": "{at}"')
    if recovered is not None:
        fields.append('"recovered": true' if recovered else '"recovered": false')
    return f"{{{', '.join(fields)}}}"


def position(at: str) -> str:
    """Return the message that all up to `at` was said, in each subscription; it is the same in both dialects."""
    return f'{{"type": "position", "at": "{at}"}}'


_DATA_2: Final = b', "type": "publish", "data": '
_DATA_3: Final = b'{"type": "publish", "data": '
_ID_3: Final = b', "requestId": '


class Dialect2:
    """High-templar 2.5.0: replies carry the requestId; a refused client never gets a websocket."""

    allows_status = False
    idle_seconds: float | None = None

    def welcome(self, rooms_text: str) -> str:
        """`{"allowed_rooms": […]}`."""
        return f'{{"allowed_rooms": {rooms_text}}}'

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
        return Publication(b'{"requestId": ', _DATA_2 + data + b"}")

    def data(self, left: bytes, right: bytes) -> bytes:  # it is on the right
        """Cut it out of `right`."""
        return right[len(_DATA_2) : -1]


class Dialect3:
    """High-templar 3.1.0: replies carry no requestId, except two errors that carry the connection's id."""

    allows_status = True
    idle_seconds: float | None = 300.0

    def welcome(self, rooms_text: str) -> str:
        """`{"is_authorized": true, "allowed_rooms": […]}`."""
        return f'{{"is_authorized": true, "allowed_rooms": {rooms_text}}}'

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
        return Publication(_DATA_3 + data + _ID_3, b"}")

    def data(self, left: bytes, right: bytes) -> bytes:  # it is on the left
        """Cut it out of `left`."""
        return left[len(_DATA_3) : -len(_ID_3)]


DIALECTS: dict[Literal["2", "3"], Dialect] = {"2": Dialect2(), "3": Dialect3()}
