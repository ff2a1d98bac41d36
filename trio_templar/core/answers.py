"""What an answer of the API about a client means, and what an operator can do if it is wrong. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from trio_templar.core.rooms import Room, RoomIndex
from trio_templar.errors import BackendError, Busy, Refused, TemplarError, Unavailable

# The API wants to be asked again: too slow a request, too early, too many (RFC 9110, 15.5.9; RFC 8470; RFC 6585).
LATER: Final = frozenset({408, 425, 429})
# A longer `Retry-After` is not passed on: a client that waits an hour has given up.
MAX_RETRY_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class BootstrapAnswer:
    """What the backend says about a client that it admits. `user_id` is any JSON value, or None.

    `rooms_text` is what `json.dumps` writes of `allowed_rooms`. Many of them have an `index`; a few are read through as
    quickly, and an index takes memory.
    """

    allowed_rooms: Sequence[Room]
    rooms_text: str
    user_id: Any = None
    index: RoomIndex | None = None


class NoRoom(BackendError):
    """An allowed room is no object: for High-templar 3 a refusal, not an error."""


def rooms_in(answer: object) -> Sequence[object]:
    """Return the allowed rooms of `answer`, unchecked. Raises BackendError: if it is no bootstrap answer."""
    if not isinstance(answer, Mapping):
        raise BackendError(f"the bootstrap answer is no object but {type(answer).__name__}")
    allowed_rooms = answer.get("allowed_rooms")
    if allowed_rooms is None:
        return []
    if not isinstance(allowed_rooms, list | tuple):
        raise BackendError("allowed_rooms is no list")
    return allowed_rooms


def read_rooms(rooms: Sequence[object], first: int = 0) -> tuple[Sequence[Room], str]:
    """Return allowed rooms, checked, and the text of their list; `first` is the place of the first in the answer.

    Raises NoRoom: if one is no object.
    Raises BackendError: if one cannot be JSON.
    """
    for index, room in enumerate(rooms, first):
        if not isinstance(room, Mapping):
            raise NoRoom(f"allowed_rooms[{index}] is no object")
    return as_json("allowed_rooms", rooms)


def joined(texts: Iterable[str]) -> str:
    """Return the text of one list with all items of the lists that have these texts; none of them is empty."""
    return f"[{', '.join([text[1:-1] for text in texts])}]"


def user_id_in(answer: object, path: Sequence[str]) -> Any:
    """Return the user id, at `path` in `answer` (High-templar 2.5). Raises BackendError: if it cannot be JSON."""
    return as_json(".".join(path), _follow(answer, path))[0]


def _follow(value: Any, path: Sequence[str]) -> Any:
    """Return what `path` (keys, or indices of lists) leads to in `value`, or None."""
    for step in path:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, TypeError, IndexError, ValueError):
            return None
    return value if path else None


def failure(status: int, headers: Mapping[str, str], now: datetime) -> TemplarError:
    """Return what a `status` other than 200 means. `headers` have lower case names, `now` is for a date in them."""
    seconds = retry_seconds(headers.get("retry-after", ""), now)
    if status in LATER:
        return Busy(f"the API asks to come back later (status {status})", seconds)
    if status >= 500:
        return Unavailable(f"the API answered {status}", seconds)
    return Refused(status, hint_of(status, headers.get("location", "")))


def hint_of(status: int, location: str = "") -> str:
    """Return why an API may answer `status`, and the way out; empty for 401 and 403, which are about the client.

    The words of the API, its `location` too, are not repeated: a login page may have a token in its address.
    """
    match status:
        case 401 | 403:
            return ""
        case 400:
            return "refused as malformed; is the host of api_url one that the API expects (Django: ALLOWED_HOSTS)?"
        case 404:
            return "nothing there; bootstrap/ is appended to api_url"
        case 301 | 308 if location.startswith("https:"):
            return (
                "a redirect to https; if the API is asked inside a proxy that speaks TLS, say so to it: "
                "--connection-header 'X-Forwarded-Proto=fixed:https'"
            )
        case 301 | 308:
            return "a redirect; is api_url complete, and the address at which the API answers itself?"
        case _ if 300 <= status < 400:
            return "a redirect, to a login page? The view must not have login_required, but answer 401 or 403 itself"
        case _ if status < 300:
            return "only 200 lets a client in"
        case _:
            return "only 401 and 403 say that it is about the client"


def retry_seconds(retry_after: str, now: datetime) -> int:
    """Return how many seconds `retry_after`, a number of them or a date (RFC 9110, 10.2.3), is from `now`.

    At least 1, at most MAX_RETRY_SECONDS; 1 if it is neither.
    """
    if re.fullmatch(r"[0-9]+", retry_after):
        seconds = int(retry_after[:9])
    else:
        try:
            date = parsedate_to_datetime(retry_after)
        except ValueError:
            return 1
        seconds = round((date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())
    return min(max(1, seconds), MAX_RETRY_SECONDS)


def read_as_python(body: bytes) -> dict[str, Any]:
    """Return the object that `body` is to Python's own parser.

    That parser takes more than JSON has: NaN, Infinity, half a surrogate pair, a byte order mark. An API in Python may
    send them in fields that nobody needs, so only what is used of the answer must be JSON: ask `as_json` about it.

    Raises BackendError: if the parser stops, saying where, or if it is no object.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BackendError(f"the bootstrap answer is not JSON: {error}") from error
    if not isinstance(answer, dict):
        raise BackendError("the bootstrap answer is not JSON of an object")
    return answer


def as_json(name: str, value: Any) -> tuple[Any, str]:
    """Return `value` as JSON carries it, and its text as `json.dumps` writes it.

    An embedding program may answer with any Mapping, a UUID, a date. What is JSON already stays as it is, and so does a
    tuple in place of a list.

    Raises BackendError: if it cannot be JSON.
    """
    try:
        try:
            text = _writer.encode(value)
        except TypeError:
            text = _foreign_writer.encode(value)
            foreign = True
        else:
            foreign = False
        if "\\ud" in text:  # it has surrogates: half a pair cannot be encoded
            _plain_writer.encode(value).encode()
    except TypeError as error:
        raise BackendError(f"{name} has what cannot be JSON in it: {error}") from error
    except (ValueError, RecursionError):
        raise BackendError(f"{name} has NaN, Infinity or half a surrogate pair in it, which is no JSON") from None
    return json.loads(text) if foreign else value, text


def _as_builtin(part: object) -> Any:
    return dict(part) if isinstance(part, Mapping) else msgspec.to_builtins(part)


# `json.dumps` makes one for each call, which takes longer than to write a few rooms.
_writer = json.JSONEncoder(allow_nan=False)
_foreign_writer = json.JSONEncoder(allow_nan=False, default=_as_builtin)
_plain_writer = json.JSONEncoder(ensure_ascii=False, default=_as_builtin)
