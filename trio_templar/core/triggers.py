"""What a publisher sends: JSON in, checked triggers out. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from trio_templar.core.dialects import Dialect
from trio_templar.core.frames import Publication, Tally
from trio_templar.core.rooms import Room, room_key
from trio_templar.errors import TooLarge, TriggerError

MAX_KEY_LENGTH: Final = 255
# What msgspec calls the kinds of JSON, and what a publisher calls them.
_KINDS: Final = {
    "`array`": "a list",
    "`object`": "an object",
    "`str`": "a text",
    "`str | null`": "a text",
    "`int`": "a number",
    "`float`": "a number",
    "`bool`": "true or false",
    "`null`": "null",
}
_EMPTY: Final = 'the body is empty; expected JSON such as {"rooms": [{"target": "car"}], "data": 1}'


class Trigger(NamedTuple):
    """One publish call, checked: the keys of its rooms, duplicates too, and the publication for each of them.

    `tallies`, one for each of the `room_keys`, count what becomes of them. `idempotency_key` is empty where there is
    none.
    """

    room_keys: Sequence[bytes]
    publication: Publication
    tallies: Sequence[Tally] | None = None
    idempotency_key: str = ""


class _Body(msgspec.Struct):
    """The JSON of one trigger. `data` is checked, not decoded; unknown keys are ignored (High-templar 2.5)."""

    rooms: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Item(_Body):
    """The JSON of one of many triggers, which may have an idempotency key."""

    key: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_LENGTH)] | None = None


_one = msgspec.json.Decoder(_Body)
_item = msgspec.json.Decoder(_Item)
_many = msgspec.json.Decoder(list[_Item])
_raw = msgspec.json.Decoder(msgspec.Raw)


def is_array(body: bytes) -> bool:
    """Whether `body` is an array of triggers, not one."""
    return body.lstrip().startswith(b"[")


def to_json(data: Any) -> bytes:
    """Return `data` as JSON; a `msgspec.Raw`, which is JSON, as it is.

    Raises TriggerError: if `data` cannot be JSON, or the `msgspec.Raw` is none.
    """
    if isinstance(data, msgspec.Raw):
        return bytes(_decode(_raw, bytes(data)))
    try:
        return msgspec.json.encode(data)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise TriggerError(f"data: {error}") from error


class TriggerReader:
    """Makes triggers for one gateway's dialect and bounds."""

    def __init__(self, dialect: Dialect, max_publication_bytes: int, max_room_bytes: int = 2048) -> None:
        self._dialect = dialect
        self._max_bytes = max_publication_bytes
        self.max_room_bytes = max_room_bytes

    def read(self, body: bytes) -> list[Trigger]:
        """Return the triggers of `body`: `{"rooms": […], "data": …}` or an array of such.

        Raises TriggerError: if one of them is malformed; the text says what, and where.
        Raises TooLarge: if some `data` or room is.
        """
        if not body or body.isspace():
            raise TriggerError(_EMPTY)
        if not is_array(body):
            return [self._checked(_decode(_one, body), "")]
        items = _decode(_many, body)
        return [self._checked_item(item, f"[{index}]: ") for index, item in enumerate(items)]

    def read_line(self, line: bytes) -> Trigger:
        """Return the one trigger of a line of a stream. Raises TriggerError or TooLarge: as `read` does."""
        return self._checked_item(_decode(_item, line), "")

    def make(self, rooms: Iterable[Room], data: bytes) -> Trigger:
        """Return a trigger of `rooms` with `data`, which is JSON. Raises TriggerError or TooLarge: as `read` does."""
        if len(data) > self._max_bytes:
            raise TooLarge(f"data has {len(data)} bytes, over {self._max_bytes} (half of outbox_bytes)")
        try:
            keys = [room_key(room) for room in rooms]
        except ValueError as error:
            raise TriggerError(f"rooms: {error}") from error
        for index, key in enumerate(keys):
            if len(key) > self.max_room_bytes:  # no client can have subscribed to it
                raise TooLarge(f"rooms[{index}] has {len(key)} bytes, over {self.max_room_bytes} (max_room_bytes)")
        return Trigger(keys, self._dialect.publication(data))

    def _checked_item(self, item: _Item, where: str) -> Trigger:
        trigger = self._checked(item, where)
        return trigger if item.key is None else trigger._replace(idempotency_key=item.key)

    def _checked(self, item: _Body, where: str) -> Trigger:
        try:
            if item.rooms is msgspec.UNSET:
                raise TriggerError("rooms not specified")
            if item.data is msgspec.UNSET:
                raise TriggerError("data not specified")
            # A Raw is a view of the body, and would keep all of its megabytes alive for this `data`.
            return self.make(item.rooms, bytes(item.data))
        except TriggerError as error:
            raise type(error)(f"{where}{error}") from error


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        # msgspec does not check the UTF-8 of a Raw, and it is sent as it is; a browser closes on one that is not UTF-8
        # (RFC 6455, 8.1). Most bodies are ASCII; to see that takes a tenth of the time of decoding, and no memory.
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise TriggerError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise TriggerError("nested too deeply") from error
    except msgspec.ValidationError as error:
        raise TriggerError(_unexpected(str(error))) from error
    except msgspec.DecodeError as error:
        raise TriggerError(f"not JSON: {_plainer(str(error))}") from error


def _unexpected(text: str) -> str:
    """Return what msgspec says in the words of a publisher, behind its place: `[0]: rooms: expected a list, got …`."""
    said, _, place = text.partition(" - at `$")
    index, _, name = place.rstrip("`").partition(".")
    said = re.sub("`[^`]*`", lambda kind: _KINDS.get(kind[0], kind[0]), said.replace("Expected", "expected"))
    said = re.sub("of length .*", f"of 1 to {MAX_KEY_LENGTH} characters", said)
    return ": ".join(filter(None, (index, name, said)))


def _plainer(text: str) -> str:
    # msgspec has one text for a body that ends too early and for half a surrogate pair.
    return text.replace("Input data was truncated", "it ends too early, or holds half a surrogate pair")
