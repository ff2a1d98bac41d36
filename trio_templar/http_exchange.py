"""One request and its answer: what is between an ASGI app, h11 and the stream of a caller."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import unquote

import h11
import trio

from trio_templar.http_head import Head, date, plain_response
from trio_templar.sockets import reset_on_close
from trio_templar.wire import wire_for

logger = logging.getLogger("trio_templar.http_server")

READ_BYTES: Final = 65_536
# How long a caller may take to take an answer.
ANSWER_SECONDS: Final = 30.0

App = Callable[..., Awaitable[None]]
Message = MutableMapping[str, Any]


class Exchange:
    """One request and its answer, between an ASGI app and h11."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        peer: str,
        head: Head,
        connection: h11.Connection,
        is_last: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._head = head
        self._connection = connection
        self._is_last = is_last
        self._answer: list[h11.Event] = []
        self._answered = False
        self._malformed = False

    @property
    def left(self) -> bytes | None:
        """What came behind the request; None if the connection ends with it."""
        if self._connection.our_state is not h11.DONE or self._connection.their_state is not h11.DONE:
            return None
        return self._connection.trailing_data[0]

    async def run(self, app: App) -> None:
        """Let `app` answer the request. A crash is a 500."""
        path, _, query = self._head.target.partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": self._head.version.decode(),
            "method": self._head.method.decode(),
            "scheme": "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._head.headers,
            "client": (self._peer, 0),
        }
        try:
            await app(scope, self.receive, self.send)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception:
            logger.exception("an HTTP connection crashed")
            if not self._answered:
                await send_answer(self._stream, plain_response(500, "internal error"))
        else:
            if self._malformed and not self._answered:
                await send_answer(self._stream, plain_response(400, "a malformed body"))

    async def receive(self) -> Message:
        """Return the next ASGI message: some of the body, or that the caller has left, or sends no HTTP."""
        if self._connection.they_are_waiting_for_100_continue:
            await send_answer(
                self._stream, self._connection.send(h11.InformationalResponse(status_code=100, headers=[]))
            )
        try:
            data, more = self._next_data()
            while more and not data:
                self._connection.receive_data(bytes(await self._stream.receive_some(READ_BYTES)))
                data, more = self._next_data()
        except h11.RemoteProtocolError:
            # A body that ends too early may be that of a caller that still listens: either way it is no request.
            self._malformed = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        else:
            return {"type": "http.request", "body": bytes(data), "more_body": more}
        return {"type": "http.disconnect"}

    def _next_data(self) -> tuple[bytearray, bool]:
        """Return all that is there of the body, and whether more is to come."""
        data = bytearray()
        while isinstance(event := self._connection.next_event(), h11.Data):
            data += event.data
        return data, event is h11.NEED_DATA

    async def send(self, message: Message) -> None:
        """Take an ASGI message of the response; it goes out whole, in one write."""
        if message["type"] == "http.response.start":
            headers = [(b"date", date()), *message["headers"]]
            if self._is_last() or not self._is_read():
                headers.append((b"connection", b"close"))
            self._answer = [h11.Response(status_code=message["status"], headers=headers)]
            return
        if self._head.method != b"HEAD":
            self._answer.append(h11.Data(data=message["body"]))
        self._answered = True
        await send_answer(
            self._stream, b"".join(self._connection.send(event) or b"" for event in (*self._answer, h11.EndOfMessage()))
        )

    def _is_read(self) -> bool:
        """Whether the request was read to its end, so that the next one can be found."""
        if self._connection.their_state is h11.SEND_BODY and not self._head.has_body:
            self._connection.next_event()  # the end of a message without a body
        return self._connection.their_state is not h11.SEND_BODY


async def send_answer(stream: trio.abc.Stream, data: bytes) -> None:
    """Send `data`. Raises BrokenResourceError: if it is not taken in time. Most answers go out in one call."""
    sent = wire_for(stream).write_nowait(data)
    if sent == len(data):
        return
    with trio.move_on_after(ANSWER_SECONDS):
        await stream.send_all(data[sent:])
        return
    reset_on_close(stream)
    raise trio.BrokenResourceError
