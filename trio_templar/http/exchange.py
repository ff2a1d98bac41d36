"""One request and its response, in the place of h11's connection: what hypercorn sees of HTTP."""

from __future__ import annotations

from typing import Any, Final

import h11

from trio_templar.net.http_head import Head, HeadError, HeadParser

MAX_HEAD_BYTES: Final = 16_384
# So many pieces of a body are joined at most: h11 takes 8 µs for each, and others wait meanwhile.
MAX_PIECES: Final = 200


class Exchange:
    """One request and its response; it has those attributes of `h11.Connection` that hypercorn uses.

    Its head is checked as `HeadParser` does. Its body is asked for (100) only when the app wants it: hypercorn asks as
    soon as the head is there, but a caller that is refused anyway is not to be asked (RFC 9110, 10.1.1).
    """

    def __init__(self) -> None:
        self._parser = HeadParser(MAX_HEAD_BYTES)
        self._h11 = self._parser.connection
        self._arrived = b""  # what is not parsed yet of the head
        self._is_whole = False
        self._behind: Any = None  # what was found behind the last piece of the body
        self.method = self.fault = ""
        self.they_are_waiting_for_100_continue = False  # so hypercorn never asks; `waits_for_us` is for us

    @property
    def has_half_a_head(self) -> bool:
        """Whether a head has begun, and could still become a good one."""
        return self._parser.begun and not self._is_whole and not self.fault

    @property
    def waits_for_us(self) -> bool:
        """Whether the caller sends its body only when it is asked for it."""
        return self._h11.they_are_waiting_for_100_continue

    @property
    def our_state(self) -> Any:
        """As h11 has it."""
        return self._h11.our_state

    @property
    def their_state(self) -> Any:
        """As h11 has it."""
        return self._h11.their_state

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """What came behind the request, and whether that is all."""
        return self._h11.trailing_data

    def receive_data(self, data: bytes) -> None:
        """Take what the caller sent, nothing at its end."""
        if self._is_whole:
            self._h11.receive_data(data)
        else:
            self._arrived += data

    def next_event(self) -> Any:
        """Return what came next. Raises h11.RemoteProtocolError: if it is no HTTP; `fault` says what is wrong."""
        try:
            if self._is_whole:
                return self._next_of_body()
            data, self._arrived = self._arrived, b""
            head = self._parser.feed(data)
        except HeadError as error:
            self.fault = str(error)
            raise h11.RemoteProtocolError(self.fault, error_status_hint=error.status) from error
        except h11.RemoteProtocolError as error:
            self.fault = "a malformed body"
            # A frame of h11 holds the error that holds the frame, as in `HeadParser.feed`.
            raise error.with_traceback(None) from None
        if head is None:
            return h11.NEED_DATA
        self._is_whole = True
        self.method = head.method.decode()
        return self._request(head)

    def _next_of_body(self) -> Any:
        """Return what came next behind the head; pieces of the body that are there as one, however small they are."""
        event, self._behind = self._behind or self._h11.next_event(), None
        if not isinstance(event, h11.Data):
            return event
        pieces = [event.data]
        try:
            while isinstance(behind := self._h11.next_event(), h11.Data) and len(pieces) < MAX_PIECES:
                pieces.append(behind.data)
            self._behind = behind
        except h11.RemoteProtocolError as error:  # it is there again when h11 is asked again
            error.__traceback__ = None  # as in `HeadParser.feed`
        return h11.Data(b"".join(pieces)) if len(pieces) > 1 else event

    def _request(self, head: Head) -> h11.Request:
        """Return `head` without `Upgrade`: hypercorn would do the upgrade itself, to HTTP/2 or a websocket."""
        request = self._parser.request
        assert request is not None
        if head.target == request.target and head.header(b"upgrade") is None:
            return request
        headers = [(name, value) for name, value in head.headers if name != b"upgrade"]
        return h11.Request(method=head.method, target=head.target, headers=headers, http_version=head.version)

    def send(self, event: Any) -> bytes | None:
        """Return the bytes of `event`."""
        data: bytes | None = self._h11.send(event)
        return data
