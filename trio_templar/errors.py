"""What can go wrong, named for who can mend it, and how a connection ends.

TemplarError
├── ClientError      a client's message; answered, the connection stays
├── TriggerError     a publisher's trigger; nothing of it was published
│   └── TooLarge     it is over a bound
├── RequestError     what an operator asked for; nothing was done
│   ├── NotFound     it names what is not there
│   └── Forgotten    it asks what came behind a position, and that is not known any more
├── Busy             no space for it now; try again after `retry_after` seconds
├── Refused          the backend does not want this client
├── BackendError     the backend did not do its part
│   └── Unavailable  it is down, slow or failing; another try may help
└── SettingsError    a setting; its text names it
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


class TemplarError(Exception):
    """The root of everything this package raises on purpose.

    `status` is the HTTP status that answers it, and `headers` go with that answer. 500 is an error that no HTTP caller
    can cause: where one arrives all the same, the fault is ours.
    """

    status: int = 500
    headers: Sequence[tuple[str, str]] = ()


class ClientError(TemplarError):
    """A message of a client that cannot be carried out; `code` and `request_id` go into the reply.

    `request_id` is the requestId as JSON text, or None where there is none to echo.
    `over` names the setting whose bound the message broke, or is empty; `room` is the key of the room it is about.
    """

    def __init__(self, code: str, request_id: str | None = None, *, over: str = "", room: bytes = b"") -> None:
        super().__init__(code)
        self.code = code
        self.request_id = request_id
        self.over = over
        self.room = room


class TriggerError(TemplarError):
    """A malformed trigger; the text says what is wrong and where."""

    status = 400


class TooLarge(TriggerError):
    """A trigger exceeds a bound; the text names the bound."""

    status = 413


class RequestError(TemplarError):
    """A malformed request to the HTTP API or to `Gateway`; the text says what is wrong and where."""

    status = 400


class NotFound(RequestError):
    """A request names something that does not exist; the text says what."""

    status = 404


class Forgotten(RequestError):
    """It cannot be proved what was published behind a position: fetch what is so now, then go on from `at`."""

    status = 410

    def __init__(self, at: str) -> None:
        super().__init__(f"what came behind this position is not kept any more; fetch, and go on from {at}")
        self.at = at


class Busy(TemplarError):
    """There is no space now, and nothing was done. Try again after `retry_after` seconds."""

    status = 503

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.headers = (("Retry-After", str(retry_after)),)


class Refused(TemplarError):
    """The backend refuses this client; `status` is the HTTP status that it answered.

    `hint` is for the log: it says what an operator can do if the client is not the cause.
    """

    def __init__(self, status: int = 403, hint: str = "") -> None:
        super().__init__(f"the API refused the client with status {status}")
        self.status = status
        self.hint = hint


class BackendError(TemplarError):
    """The backend's answer is no bootstrap answer; the text says why."""

    status = 502


class Unavailable(BackendError):
    """The backend is down, slow or failing; the text says which. Try again after `retry_after` seconds."""

    status = 503

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.headers = (("Retry-After", str(retry_after)),)


class SettingsError(TemplarError):
    """A setting is missing, unknown or out of range; the text names it."""


# What h11 and httpcore say of broken HTTP, up to where they quote it: a quoted line may be a cookie or a token. Their
# errors have no codes, so the texts are matched; one that is not here is "malformed".
_HTTP_FAULTS: Final = (
    "Found multiple Host: headers",
    "Illegal header name",
    "Illegal header value",
    "Illegal method characters",
    "Illegal target characters",
    "Missing mandatory Host: header",
    "Only Transfer-Encoding: chunked is supported",
    "Receive buffer too long",
    "Server disconnected without sending a response",
    "bad Content-Length",
    "conflicting Content-Length headers",
    "continuation line at start of headers",
    "illegal chunk header",
    "illegal header line",
    "illegal request line",
    "illegal status line",
    "malformed chunk footer",
    "multiple Transfer-Encoding headers",
    "no request line received",
    "peer closed connection without sending complete message body",
    "peer unexpectedly closed connection",
)


def http_fault(error: Exception) -> str:
    """Return what is wrong with the HTTP of a peer, without a byte of what it sent; `error` is of h11 or httpx."""
    text = str(error)
    return next((fault for fault in _HTTP_FAULTS if text.startswith(fault)), "malformed")


def cause_of(error: BaseException) -> BaseException:
    """Return the error that a group is about; `error` itself if it is none.

    An error of ours comes first: others in the group, as a broken stream, are mostly its consequence.
    """
    known = error.split(TemplarError)[0] if isinstance(error, BaseExceptionGroup) else None
    error = known or error
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@dataclass(frozen=True, slots=True)
class Close:
    """Why a connection ends: a close code (RFC 6455, 7.4) and a reason of at most 123 bytes.

    Close frame, log line and hooks all read this one value.
    """

    code: int
    reason: str


# 1005 and 1006 stand for a missing close frame and are never sent (RFC 6455, 7.4.1).
UNSENDABLE: Final = frozenset({1005, 1006, 1015})

GONE: Final = Close(1006, "the client left without a close frame")
DROPPED: Final = Close(1006, "the gateway was cancelled")
NOT_AUTHORIZED: Final = Close(1000, "not authorized")
IDLE: Final = Close(1000, "no message for too long")
MESSAGE_TOO_BIG: Final = Close(1009, "message too big")
CRASHED: Final = Close(1011, "internal error")
SILENT: Final = Close(1011, "no answer to a ping")
STOPPING: Final = Close(1012, "the gateway is stopping")
TOO_MANY_MESSAGES: Final = Close(1008, "too many messages")
SLOW_BYTES: Final = Close(1013, "too slow: too many bytes wait")
SLOW_FRAMES: Final = Close(1013, "too slow: too many frames wait")
SLOW_ROOM: Final = Close(1013, "too slow: too many bytes of one room wait")
STUCK: Final = Close(1013, "too slow: no progress")
LAGGING: Final = Close(1013, "too slow: over half of its bytes for too long")
STALE: Final = Close(1013, "too slow: what waits is too old")
CROWDED: Final = Close(1013, "too slow while memory is short")

# Why a slow client was closed, in the word that metrics and the HTTP API count by.
SLOW_CAUSES: Final = {
    SLOW_BYTES: "bytes",
    SLOW_FRAMES: "frames",
    SLOW_ROOM: "room",
    STUCK: "progress",
    LAGGING: "lag",
    STALE: "age",
    CROWDED: "memory",
}


def let_go(error: BaseException) -> None:
    """Clear the frames that `error`, its causes and its parts passed through, once it is dealt with.

    A frame that refers to an error which passed through it is a reference cycle, and h11 and Trio leave such frames.
    What they hold of a client, up to a whole request, would stay until the garbage collector runs, which is rare.
    """
    known: dict[int, BaseException] = {}
    errors: list[BaseException | None] = [error]
    while errors:
        each = errors.pop()
        if each is not None and id(each) not in known:
            known[id(each)] = each
            traceback.clear_frames(each.__traceback__)
            errors += [each.__cause__, each.__context__]
            errors += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
