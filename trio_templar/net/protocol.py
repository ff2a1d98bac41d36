"""The websocket protocol of one client within bounds: the library hears of a message when it is whole."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

import wsproto.connection
from wsproto.events import BytesMessage, Event, Ping, Pong, TextMessage

from trio_templar.errors import MESSAGE_TOO_BIG, TOO_MANY_MESSAGES, Close

# A message may come in as many fragments as it has bytes, and so many more that are empty.
EMPTY_FRAGMENTS: Final = 100


class Protocol(wsproto.connection.Connection):
    """What wsproto reads of a client, but a message that is over its bounds, or a flood of pings, ends it with `close`.

    trio-websocket keeps each fragment of a message as an object, also empty ones, and the answer to each ping waits.
    So fragments are joined here, as bytes, and pings and pongs are counted: `may_ping` says whether one more may come.
    """

    def __init__(
        self, early: bytes, max_message_bytes: int, may_ping: Callable[[], bool], close: Callable[[Close], object]
    ) -> None:
        super().__init__(wsproto.connection.ConnectionType.SERVER, trailing_data=early)
        self._max_bytes = max_message_bytes
        self._may_ping = may_ping
        self._close = close
        self._begun = bytearray()
        self._fragments = 0
        self._over = False

    def events(self) -> Generator[Event, None, None]:
        """Yield what the client said; of a client over its bounds nothing is kept."""
        for event in super().events():
            match event:
                case TextMessage() | BytesMessage():
                    if (whole := self._join(event)) is not None:
                        yield whole
                case Ping() | Pong():
                    if self._over or not self._may_ping():
                        self._end(TOO_MANY_MESSAGES)
                    else:
                        yield event
                case _:
                    yield event

    def end(self) -> None:
        """Read nothing more: wsproto's parser is a generator that holds what holds it, until it is closed."""
        self._proto._parse_more.close()  # noqa: SLF001

    def _join(self, piece: TextMessage | BytesMessage) -> Event | None:
        """Return the message that `piece` completes, or None."""
        self._fragments += 1
        bound = self._max_bytes
        if self._over or len(self._begun) + _size(piece.data) > bound or self._fragments > bound + EMPTY_FRAGMENTS:
            self._end(MESSAGE_TOO_BIG)
            return None
        if piece.message_finished and self._fragments == 1:
            self._fragments = 0
            return piece
        self._begun += piece.data.encode() if isinstance(piece, TextMessage) else piece.data
        if not piece.message_finished:
            return None
        data, self._begun, self._fragments = bytes(self._begun), bytearray(), 0
        return TextMessage(data.decode()) if isinstance(piece, TextMessage) else BytesMessage(data)

    def _end(self, close: Close) -> None:
        self._over = True
        self._begun = bytearray()
        self._close(close)


def _size(data: str | bytes | bytearray) -> int:
    return len(data.encode()) if isinstance(data, str) and not data.isascii() else len(data)
