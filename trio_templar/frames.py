"""Websocket frames as a server sends them (RFC 6455, 5.2): final, not masked, not compressed.

A publish frame is `header + left + requestId + right`. The two sides are made once per publication, the requestId
once per subscription, and the header depends on lengths alone. So a whole batch of frames for one subscription is a
single `requestId.join(pieces)`, where the pieces are shared by all requestIds of one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from trio_templar.errors import UNSENDABLE, Close

TEXT: Final = 0x81
CLOSE: Final = 0x88
PING: Final = b"\x89\x00"
_OPCODE: Final = 0x0F


def header(first: int, size: int) -> bytes:
    """Return the header of a frame whose first byte is `first` and whose payload has `size` bytes."""
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2)
    return bytes((first, 127)) + size.to_bytes(8)


def text_frame(payload: bytes) -> bytes:
    """Return one text frame; `payload` is UTF-8."""
    return header(TEXT, len(payload)) + payload


def close_frame(close: Close) -> bytes:
    """Return the close frame of `close`, its reason cut to what a control frame holds.

    The codes that stand for a missing frame give an empty one.
    """
    if close.code in UNSENDABLE:
        return header(CLOSE, 0)
    reason = close.reason.encode()[:123].decode(errors="ignore").encode()
    payload = close.code.to_bytes(2) + reason
    return header(CLOSE, len(payload)) + payload


def closes(frame: bytes) -> Close | None:
    """Return what a close frame says, or None for any other frame. `frame` is whole and short."""
    if frame[:1] != b"\x88":
        return None
    payload = frame[2:]
    if not payload:
        return Close(1005, "")
    return Close(int.from_bytes(payload[:2]), payload[2:].decode(errors="replace"))


class Publication(NamedTuple):
    """One `data` on its way: what stands in its frame on either side of the requestId."""

    left: bytes
    right: bytes

    @property
    def size(self) -> int:
        """Bytes of a frame without header and requestId."""
        return len(self.left) + len(self.right)


class Batch:
    """Publications that one pass over a room hands to each subscriber; at least one.

    `render` keeps what it made last, so that equal frames are built once.
    """

    __slots__ = ("_frames", "_pieces", "_request_id", "count", "publications", "size")

    def __init__(self, publications: Sequence[Publication]) -> None:
        self.publications = publications
        self.count = len(publications)
        self.size = sum([len(left) + len(right) for left, right in publications])
        self._pieces: dict[int, list[bytes]] = {}
        self._request_id = b""
        self._frames = b""

    def render(self, request_id: bytes) -> bytes:
        """Return the frames of all publications for the subscription with this requestId (JSON, not empty)."""
        if request_id != self._request_id:
            pieces = self._pieces.get(len(request_id))
            if pieces is None:
                pieces = self._pieces[len(request_id)] = _cut(self.publications, len(request_id))
            self._frames = request_id.join(pieces)
            self._request_id = request_id
        return self._frames


def _cut(publications: Sequence[Publication], id_size: int) -> list[bytes]:
    """Return the pieces between which a requestId of `id_size` bytes makes the frames."""
    pieces = []
    open_piece = b""
    for left, right in publications:
        pieces.append(open_piece + header(TEXT, len(left) + id_size + len(right)) + left)
        open_piece = right
    pieces.append(open_piece)
    return pieces
