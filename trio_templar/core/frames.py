"""Websocket frames as a server sends them (RFC 6455, 5.2): final, not masked, not compressed. Publications and batches.

A publish frame is `header + left + requestId + right`. The two sides are made once per publication, the requestId
once per subscription, and the header depends on lengths alone. So the frames of a whole batch for one subscription are
a single `requestId.join(pieces)`, where the pieces are shared by all requestIds of one length. For ten small frames
that is 17 times faster than building each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple, Protocol

import msgspec

from trio_templar.errors import UNSENDABLE, Close

TEXT: Final = 0x81
CLOSE: Final = 0x88
# What a publication takes in memory beside its bytes: 430 where it is alone in a batch, 140 in a batch of ten.
PUBLICATION_BYTES: Final = 300
PING: Final = b"\x89\x00"
_short, _wide, _widest = Struct("!BB").pack, Struct("!BBH").pack, Struct("!BBQ").pack
_canonical = msgspec.json.Encoder(order="deterministic")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def header(first: int, size: int) -> bytes:
    """Return the header of a frame whose first byte is `first` and whose payload has `size` bytes."""
    if size < 126:
        return _short(first, size)
    if size < 1 << 16:
        return _wide(first, 126, size)
    return _widest(first, 127, size)


def text_frame(payload: bytes) -> bytes:
    """Return one text frame; `payload` is UTF-8."""
    return header(TEXT, len(payload)) + payload


def close_frame(close: Close) -> bytes:
    """Return the close frame of `close`, its reason cut to what a control frame holds.

    A code that stands for a missing frame gives an empty one.
    """
    if close.code in UNSENDABLE:
        return header(CLOSE, 0)
    # A control frame has at most 125 bytes of payload (RFC 6455, 5.5). A character that the cut splits is left out.
    reason = close.reason.encode()[:123].decode(errors="ignore").encode()
    payload = close.code.to_bytes(2) + reason
    return header(CLOSE, len(payload)) + payload


def read_close(frame: bytes) -> Close | None:
    """Return what a close frame says, or None for any other frame. `frame` is whole, and not masked."""
    if frame[:1] != b"\x88":
        return None
    payload = frame[2:]  # a control frame is short: its header has two bytes
    if not payload:
        return Close(1005, "")
    return Close(int.from_bytes(payload[:2]), payload[2:].decode(errors="replace"))


def gap_frame(request_id: bytes, lost: int) -> bytes:
    """Return the message that a subscription, of `request_id` (JSON), lost `lost` publications."""
    return text_frame(b'{"type": "gap", "requestId": %b, "lost": %d}' % (request_id, lost))


def hole_frame(request_id: bytes, at: str) -> bytes:
    """Return the message that a subscription may have lost any number of publications before the position `at`."""
    return text_frame(b'{"type": "gap", "requestId": %b, "lost": null, "at": "%b"}' % (request_id, at.encode()))


def frame_ends(data: bytes) -> Iterator[int]:
    """Yield the index behind each frame in `data`; the frames are whole, and not masked."""
    end = 0
    while end < len(data):
        size = data[end + 1]
        end += 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size = int.from_bytes(data[end : end + wide])
            end += wide
        end += size
        yield end


class Tally(Protocol):
    """Counts what becomes of a publication in one room, for a publisher that asked."""

    def expect(self) -> None:
        """Note that the publication is on its way to the room."""

    def offer(self, subscriptions: int) -> None:
        """Note that it was offered to so many more subscriptions."""

    def passed(self) -> None:
        """Note that it was offered to all subscriptions of the room."""

    def queue(self) -> None:
        """Note that it went into the backlog of a client."""

    def hand_over(self) -> None:
        """Note that it left a backlog for the kernel."""

    def conflate(self) -> None:
        """Note that a newer one took its place in a backlog."""

    def drop(self) -> None:
        """Note that it was dropped from a backlog."""

    def refuse(self) -> None:
        """Note that a client that is being closed did not get it."""


class Publication(NamedTuple):
    """One `data` on its way to one room: the payload of its frame on either side of the requestId; its position."""

    left: bytes
    right: bytes
    tally: Tally | None = None
    position: int = 0

    @property
    def size(self) -> int:
        """The bytes of its frame without header and requestId."""
        return len(self.left) + len(self.right)


class Batch:
    """The publications that one pass over a room hands to each subscription; at least one.

    `tallies` are those of its publications. `position` is that of the first, 0 where there is none.
    """

    __slots__ = (
        *("_epoch", "_frames", "_key", "_parts", "_pieces", "_request_id", "_shares", "position"),
        *("count", "publications", "size", "tallies"),
    )

    def __init__(self, publications: Sequence[Publication]) -> None:
        self.publications = publications
        self.count = len(publications)
        self.size = sum([len(left) + len(right) for left, right, _, _ in publications])
        self.tallies = [tally for _, _, tally, _ in publications if tally is not None]
        self.position = publications[0].position
        self._pieces: dict[int | tuple[int, bytes], list[bytes]] = {}
        self._request_id = self._epoch = b""
        self._frames = b""
        self._key: tuple[Sequence[str], bytes | None] = ((), None)
        self._parts: Sequence[Batch] = ()
        self._shares: Sequence[Batch] = ()

    @property
    def parts(self) -> Sequence[Batch]:
        """The publications as batches of one each. They are made once: each slow client of the room wants them."""
        if self.count == 1:
            return (self,)
        if not self._parts:
            self._parts = [Batch([publication]) for publication in self.publications]
        return self._parts

    def shares(self, max_bytes: int) -> Sequence[Batch]:
        """The publications as batches of at most `max_bytes`, or of one. They are made once, for one `max_bytes`."""
        if not self._shares:
            groups: list[list[Publication]] = []
            left = 0
            for publication in self.publications:
                if not groups or publication.size > left:
                    groups.append([])
                    left = max_bytes
                groups[-1].append(publication)
                left -= publication.size
            self._shares = [Batch(group) for group in groups]
        return self._shares

    def behind(self, position: int) -> Batch | None:
        """Return those of the publications that are behind `position`, or have none; None if there is none such."""
        kept = [each for each in self.publications if each.position > position or not each.position]
        if len(kept) == self.count:
            return self
        return Batch(kept) if kept else None

    def render(self, request_id: bytes, epoch: bytes = b"") -> bytes:
        """Return the frames of all publications for the subscription with this requestId (JSON, not empty).

        With an `epoch` each carries its position.

        The last ones are kept until `finish`: clients of one program often use the same requestId for a room. So are
        the pieces.
        """
        if request_id != self._request_id or epoch is not self._epoch:
            size = len(request_id)
            key = (size, epoch) if epoch else size  # most have none, and to hash a pair takes longer
            pieces = self._pieces.get(key)
            if pieces is None:
                pieces = self._pieces[key] = _pieces(self.publications, size, epoch)
            self._frames = request_id.join(pieces)
            self._request_id = request_id
            self._epoch = epoch
        return self._frames

    def render_once(self, request_id: bytes, epoch: bytes = b"") -> bytes:
        """Return what `render` does, and keep nothing; it costs 0.4 µs for each publication more.

        After `finish` pieces would stay as long as the batch waits for anybody, and double what it takes.
        """
        return request_id.join(_pieces(self.publications, len(request_id), epoch))

    def expect(self) -> None:
        """Tell the tallies that a pass will come."""
        for tally in self.tallies:
            tally.expect()

    def refuse(self) -> None:
        """Tell the tallies that one client does not get it."""
        for tally in self.tallies:
            tally.refuse()

    def finish(self) -> None:
        """Tell the tallies that the pass is over, and drop the frames, pieces and parts that were kept for it."""
        for tally in self.tallies:
            tally.passed()
        if self._parts or self._shares:
            for part in (*self._parts, *self._shares):
                part.forget()  # one that waits outlives the pass
        self.forget()

    def forget(self) -> None:
        """Drop what `render`, `parts` and `shares` keep."""
        self._pieces = {}
        self._request_id = self._frames = b""
        self._parts = self._shares = ()

    def conflation_key(self, path: Sequence[str]) -> bytes | None:
        """Return the JSON of the value that `path` leads to in the `data` of the first publication.

        None if it leads nowhere, or is empty. The value is looked for once, unless `path` changes.
        """
        if self._key[0] != path:
            self._key = path, _value_at(self.publications[0], path)
        return self._key[1]


def _value_at(publication: Publication, path: Sequence[str]) -> bytes | None:
    if not path:
        return None
    try:
        value: bytes | msgspec.Raw = publication.left + b"null" + publication.right
        for step in ("data", *path):  # what is not on the way may be what msgspec cannot hold, as 1e999
            value = _members.decode(value)[step]
        return _canonical.encode(msgspec.json.decode(value))
    except (KeyError, RecursionError, msgspec.MsgspecError):
        return None


def _pieces(publications: Sequence[Publication], id_size: int, epoch: bytes) -> list[bytes]:
    """Return the pieces that any requestId of `id_size` bytes joins to the frames of `publications`.

    With an `epoch`, positions stand right behind the requestId, as `Positions.token` writes them. A piece reaches from
    one requestId to the next: the right side of a frame, then header and left side of the next.
    """
    pieces = []
    open_piece = b""
    for left, right, _, position in publications:
        if epoch and position:
            right = b', "at": "%b.%x"%b' % (epoch, position, right)  # as it is for this epoch
        pieces.append(open_piece + header(TEXT, len(left) + id_size + len(right)) + left)
        open_piece = right
    pieces.append(open_piece)
    return pieces
