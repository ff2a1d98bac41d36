"""What `history` keeps of one room, page by page, for those who ask the gateway and are no client of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from trio_templar.core.dialects import Dialect
from trio_templar.core.history import Entry, History
from trio_templar.core.position import is_token
from trio_templar.errors import Forgotten, NotFound, RequestError

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
# An answer ends with the publication with which it has so many bytes: one caller holds up nobody, and fills no memory.
ANSWER_BYTES: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class KeptPublication:
    """One publication: `at`, its position, and `data`, the JSON that was published, byte for byte."""

    at: str
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class RoomHistory:
    """Publications of one room, oldest first. `at` is the position to ask on from.

    `more` says whether some were left out: older ones, or with `since` newer ones, which are behind `at`.
    """

    publications: Sequence[KeptPublication]
    at: str
    more: bool


class RoomHistories:
    """The pages of all rooms, made of what `history` keeps in the frames of `dialect`."""

    def __init__(self, history: History, dialect: Dialect, now: Callable[[], float]) -> None:
        self._history = history
        self._dialect = dialect
        self._now = now

    def of(self, key: bytes, since: str | None = None, limit: int = DEFAULT_LIMIT) -> RoomHistory:
        """Return what was published in the room of `key` behind the position `since`; without it, the newest.

        At most `limit` publications, and fewer if they are long, but at least one if there is one.

        Raises RequestError: if `since` can be no position, or `limit` is not 1 to 1000.
        Raises NotFound: if nothing of this room is kept.
        Raises Forgotten: if it cannot be proved what came behind `since`.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise RequestError(f"limit: expected 1 to {MAX_LIMIT}")
        if since is not None and not is_token(since):
            raise RequestError("since: not a position, which is the `at` of an answer or a frame")
        if not self._history.keeps(key):
            why = "its room_policy has history = false" if self._history.on else "history_seconds or history_bytes is 0"
            raise NotFound(f"nothing of this room is kept: {why}")
        here = self._history.positions.last
        if since is None:
            found = self._history.newest(key, self._now(), most=limit)
            shown = _page(reversed(found), limit)[::-1]
        else:
            found = self._behind(since, key, limit)
            shown = _page(found, limit)
        more = len(shown) < len(found)
        end = shown[-1][0] if more and since is not None else here
        return RoomHistory([self._publication(entry) for entry in shown], self._token(end), more)

    def _behind(self, since: str, key: bytes, limit: int) -> Sequence[Entry]:
        here = self._history.positions.last
        position = self._history.positions.read(since)
        if position is None:
            raise Forgotten(self._token(here))
        found = self._history.since(key, position, self._now(), until=here, most=limit)
        if found is None:
            raise Forgotten(self._token(here))
        return found

    def _publication(self, entry: Entry) -> KeptPublication:
        position, _, left, right, _ = entry
        return KeptPublication(self._token(position), msgspec.Raw(self._dialect.data(left, right)))

    def _token(self, position: int) -> str:
        return self._history.positions.token(position)


def _page(entries: Iterable[Entry], limit: int) -> list[Entry]:
    """Return the first `limit` of `entries`, or those up to the one with which they have ANSWER_BYTES."""
    page: list[Entry] = []
    size = 0
    for entry in islice(entries, limit):
        page.append(entry)
        size += len(entry[2]) + len(entry[3])
        if size >= ANSWER_BYTES:
            break
    return page
