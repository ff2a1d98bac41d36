"""What a listener hears, as lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from trio_templar.commands.streams import printable
from trio_templar.core.rooms import Room

BLANKS: Final = str.maketrans("\t\n\r", "   ")


class Printer:
    """What comes, as lines: `write` gets those of standard output, `note` what is for people beside it."""

    def __init__(
        self,
        write: Callable[[str], object],
        note: Callable[[str], object],
        *,
        as_json: bool,
        count: int | None,
        shows_positions: bool = False,
    ) -> None:
        self.write = write
        self.note = note
        self._as_json = as_json
        self._wanted = self._left = count
        self.shows_positions = shows_positions
        self.shows_rooms = False

    @property
    def done(self) -> bool:
        """Whether as many publications came as were wanted."""
        return self._left == 0

    @property
    def shortfall(self) -> str:
        """How many publications came of those that were wanted; empty if all did, or no number was given."""
        if not self._wanted or not self._left:
            return ""
        return f"only {self._wanted - self._left} of {self._wanted} publications"

    def published(self, room: Room, data: bytes, at: str | None = None) -> None:
        """Print a publication, which brings its subscription to the position `at`."""
        # Line ends and tabs between its parts would make several lines of it. Inside strings JSON has none.
        text = printable(data.decode().translate(BLANKS))
        if self._as_json:
            self._object(room, f'"data": {text}', at)
        else:
            place = f"{printable(at)} " if at and self.shows_positions else ""
            self.write(place + (f"{shown(room)} {text}" if self.shows_rooms else text))
        if self._left:
            self._left -= 1

    def lost(self, room: Room, number: int) -> None:
        """Print that publications of `room` did not come."""
        if self._as_json:
            self._object(room, f'"lost": {number}')
        else:
            self.note(f"lost {number} publications of {shown(room)}: too slow for them")

    def missed(self, room: Room, at: str | None) -> None:
        """Print that any number of publications of `room` may be missing before the position `at`."""
        if self._as_json:
            self._object(room, '"lost": null', at)
        else:
            self.note(f"publications of {shown(room)} were missed and cannot be recovered: fetch")

    def _object(self, room: Room, rest: str, at: str | None = None) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        place = f'"at": {printable(json.dumps(at))}, ' if at and self.shows_positions else ""
        self.write(f'{{"time": "{time}", "room": {shown(room)}, {place}{rest}}}')


def shown(room: Room) -> str:
    """Return a room as JSON, for people too."""
    return printable(json.dumps(room, ensure_ascii=False))
