"""The admission of clients: from the first byte of one to what the backend says about it. The 101 comes after that."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Final

import trio

from trio_templar.clients.bootstrap import BootstrapLimiter
from trio_templar.clients.handshake import (
    HandshakeError,
    PeerLeft,
    Upgrade,
    busy,
    check_origin,
    choose_subprotocol,
    read_upgrade,
    receive,
    shake_hands,
)
from trio_templar.core.answers import BootstrapAnswer, NoRoom
from trio_templar.core.forwarding import ClientRequest
from trio_templar.core.settings import Settings
from trio_templar.errors import BackendError, Busy, Refused, TemplarError, Unavailable, let_go
from trio_templar.log import log
from trio_templar.net.sockets import hang_up, peer_of, reset_on_close, transport_of

logger = logging.getLogger("trio_templar.reception")  # operators filter by this name, which is older than the module's

# How many clients beyond `max_connections` are told so, with a 503. More than that are dropped without an answer.
TOLD_CLIENTS: Final = 1000
# How often the log says that clients are dropped, at most.
OVERRUN_SECONDS: Final = 10.0
# How the API's refusal of a client is counted, whichever status it had.
NOT_AUTHORIZED: Final = "not authorized"


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client that gets its 101. Without an `answer` it is then told that it is refused, and closed (dialect 3).

    `early` is what came behind its request head; `address` is its peer with the port.
    """

    request: ClientRequest
    key: bytes
    early: bytes
    address: str
    answer: BootstrapAnswer | None
    subprotocol: str


class Admission:
    """Admits the clients of a gateway, or refuses them over HTTP.

    `clients` is how many are connected, admitted or not; `refused` counts refusals by cause. `settings` can be replaced
    at any time.
    """

    def __init__(self, settings: Settings, limiter: BootstrapLimiter, *, refuses_by_message: bool) -> None:
        self.settings = settings
        self._limiter = limiter
        self._refuses_by_message = refuses_by_message
        self._arriving: set[trio.CancelScope] = set()
        self._closed = False
        self.clients = 0
        self.refused: Counter[str] = Counter()
        self._overrun_said = -OVERRUN_SECONDS

    def overrun(self) -> bool:
        """Return whether there are so many clients that one more is dropped without an answer. It is counted."""
        if self.clients <= self.settings.max_connections + TOLD_CLIENTS:
            return False
        self.refused["overrun"] += 1
        now = trio.current_time()
        if now >= self._overrun_said + OVERRUN_SECONDS:
            self._overrun_said = now
            log(logger, logging.WARNING, "overrun", clients=self.clients, dropped=self.refused["overrun"])
        return True

    def close(self) -> None:
        """Admit no client any more: those on their way get a 503 at once, later ones once they have sent a request."""
        self._closed = True
        for scope in self._arriving:
            scope.cancel()

    async def admit(self, stream: trio.abc.Stream) -> Admitted | None:
        """Return the client at the other end of `stream` if it gets a 101, once the backend has answered.

        Returns None once a client that gets none has been answered over HTTP, or has left.
        """
        host, address = peer_of(stream)
        try:
            upgrade = await self._read_upgrade(stream, host)
            inbox = bytearray(upgrade.early)
            answer = await self._ask(upgrade.request, stream, inbox)
        except PeerLeft as left:
            self.refused["left"] += 1
            log(logger, logging.INFO, "left before it was let in", peer=address, why=str(left))
            let_go(left)
            return None
        except HandshakeError as error:
            self._note(error, address)
            await self._answer(stream, error)
            return None
        subprotocol = choose_subprotocol(upgrade.request, self.settings.subprotocol)
        return Admitted(upgrade.request, upgrade.key, bytes(inbox), address, answer, subprotocol)

    def _note(self, refusal: HandshakeError, address: str) -> None:
        self.refused[refusal.cause] += 1
        failure = refusal.status >= 500 and not self._closed
        level = logging.WARNING if failure or refusal.hint else logging.INFO
        log(logger, level, "refused", status=refusal.status, why=refusal.text, hint=refusal.hint, peer=address)
        let_go(refusal)

    async def _read_upgrade(self, stream: trio.abc.Stream, host: str) -> Upgrade:
        settings = self.settings
        secured = False
        with trio.move_on_after(settings.handshake_seconds) as scope:
            self._arriving.add(scope)
            try:
                await shake_hands(stream)
                secured = True
                upgrade = await read_upgrade(stream, settings.path, host, settings.max_handshake_bytes)
            finally:
                self._arriving.discard(scope)
        if not secured:  # without TLS it cannot be answered
            raise PeerLeft("no TLS handshake in time (handshake_seconds)")
        if self._closed:  # first: `close` cancels the scope, too
            raise busy("the gateway is stopping", cause="stopping")
        if scope.cancelled_caught:
            raise HandshakeError(408, "no whole request head in time (handshake_seconds)")
        if self.clients > settings.max_connections:
            raise busy("too many connections (max_connections)", cause="full")
        check_origin(upgrade.request, settings.allowed_origin, over_tls=transport_of(stream) is not stream)
        return upgrade

    async def _ask(self, request: ClientRequest, stream: trio.abc.Stream, inbox: bytearray) -> BootstrapAnswer | None:
        """Return the backend's answer; None for a client that it refuses, if the dialect has a message for that.

        Raises HandshakeError: with the HTTP answer for any other outcome.
        """
        try:
            return await self._ask_while_connected(request, stream, inbox)
        except (Busy, Refused, BackendError) as error:
            refusal = refusal_of(error)
            # An allowed room that is no object is a refusal in High-templar 3, too.
            if not (self._refuses_by_message and isinstance(error, Refused | NoRoom)):
                raise refusal from error
        refusal.cause = NOT_AUTHORIZED
        self._note(refusal, peer_of(stream)[1])
        return None

    async def _ask_while_connected(
        self, request: ClientRequest, stream: trio.abc.Stream, inbox: bytearray
    ) -> BootstrapAnswer:
        """Ask the backend, and stop asking when the client leaves. What it sends meanwhile goes to `inbox`, bounded."""
        answer: BootstrapAnswer | TemplarError = PeerLeft()
        async with trio.open_nursery() as nursery:
            self._arriving.add(nursery.cancel_scope)
            nursery.start_soon(self._keep_early, stream, inbox, nursery.cancel_scope)
            try:
                answer = await self._limiter.ask(request)
            except TemplarError as error:  # not through the nursery, which would make a group of it
                answer = error
            finally:
                self._arriving.discard(nursery.cancel_scope)
            nursery.cancel_scope.cancel()
        if self._closed:
            raise busy("the gateway is stopping", cause="stopping")
        try:
            if isinstance(answer, TemplarError):
                raise answer
            return answer
        finally:
            del answer  # an error has this frame in its traceback

    async def _keep_early(self, stream: trio.abc.Stream, inbox: bytearray, asking: trio.CancelScope) -> None:
        """Read what the client sends into `inbox`; cancel `asking` if it leaves.

        With a full `inbox` nothing more is read, so that its leaving is noticed only when the answer is there.
        """
        try:
            while len(inbox) < self.settings.max_message_bytes:
                inbox += await receive(stream)
        except PeerLeft:
            asking.cancel()

    async def _answer(self, stream: trio.abc.Stream, error: HandshakeError) -> None:
        seconds = self.settings.goodbye_seconds
        with trio.move_on_after(seconds) as sending:
            try:
                await stream.send_all(error.response())
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
        if sending.cancelled_caught:
            reset_on_close(stream)
        else:
            await hang_up(stream, seconds)  # it has its own deadline, at which it resets: none may be around it


def refusal_of(error: Busy | Refused | BackendError) -> HandshakeError:
    """Return the HTTP answer to a client about which the backend raised `error`."""
    match error:
        case Busy():
            return busy(str(error), error.retry_after, cause="API busy")
        case Unavailable():
            return busy("the API is not available", error.retry_after, hint=str(error), cause="API down")
        case Refused():
            status = error.status if error.status in (401, 403) else 403
            # A 401 has to have a challenge (RFC 9110, 11.6.1). Which one the API meant is not known here.
            challenge = [("WWW-Authenticate", "Bearer")] if status == 401 else []
            return HandshakeError(status, f"not authorized: {error}", *challenge, hint=error.hint, cause=NOT_AUTHORIZED)
        case _:
            return HandshakeError(502, "the API's answer is of no use", hint=str(error))
