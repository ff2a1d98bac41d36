"""The bootstrap: who a client is and which rooms it may enter, asked within bounds.

`backend.HttpBackend` asks the API; an embedding program can give a callable of its own instead.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, Protocol

import trio

from trio_templar.core.answers import BootstrapAnswer, joined, read_rooms, rooms_in, user_id_in
from trio_templar.core.forwarding import ClientRequest
from trio_templar.core.rooms import Room, RoomIndex
from trio_templar.core.settings import Settings
from trio_templar.counters import BOOTSTRAP_BOUNDS, Histogram
from trio_templar.errors import Busy, Refused, TemplarError, Unavailable, cause_of

logger = logging.getLogger("trio_templar.backend")  # operators filter by this name, which is older than the module's

# Measured: to read through so many allowed rooms takes 0.2 ms, to put them into an index 0.6 ms.
FEW_ROOMS: Final = 200


class Bootstrap(Protocol):
    """Says in place of the API which rooms a client may enter: it is called for each client that connects.

    It may raise Refused, Busy and Unavailable. A foreign exception is logged, and the client gets a 503. It is
    cancelled after `bootstrap_seconds`, or when the client leaves.
    """

    def __call__(self, request: ClientRequest, /) -> Awaitable[Mapping[str, Any]]:
        """Return what `GET bootstrap/` would: `{"allowed_rooms": [{…}, …], …}`, with the user id at `user_id_path`."""


class BootstrapLimiter:
    """Bootstrap calls: at most `max_bootstraps` at once, and at most `max_bootstraps_waiting` that wait for a slot.

    The deadline of a call, `bootstrap_seconds`, begins when it has its slot.
    """

    def __init__(self, bootstrap: Bootstrap, settings: Settings) -> None:
        self._bootstrap = bootstrap
        self._slots = trio.CapacityLimiter(settings.max_bootstraps)
        self._max_waiting = settings.max_bootstraps_waiting
        self._seconds = settings.bootstrap_seconds
        self._user_id_path = [step for step in settings.user_id_path.split(".") if step]
        self.answers: Counter[str] = Counter()  # by outcome
        self.seconds = Histogram(BOOTSTRAP_BOUNDS)

    async def ask(self, request: ClientRequest) -> BootstrapAnswer:
        """Return the answer about one client.

        Raises Busy: if too many clients wait already.
        Raises Refused, BackendError or Unavailable: as the backend answers.
        """
        if self._slots.statistics().tasks_waiting >= self._max_waiting:
            raise Busy("too many clients wait for the API (max_bootstraps_waiting)")
        await self._slots.acquire()
        outcome = "left"  # if nothing below changes it, we were cancelled: the client has left
        try:
            answer = await read_answer(await self._call(request), self._user_id_path)
            outcome = "admitted"
            return answer
        except TemplarError as error:
            outcome = _outcome(error)
            raise
        finally:
            self.answers[outcome] += 1

    async def _call(self, request: ClientRequest) -> Mapping[str, Any]:
        """Return what the backend says, with a slot that is free for others when it has spoken."""
        start = trio.current_time()
        try:
            with trio.fail_after(self._seconds):
                return await self._bootstrap(request)
        except trio.TooSlowError as error:
            raise Unavailable(f"the API did not answer within {self._seconds:g} s") from error
        except TemplarError:
            raise
        except Exception as error:  # a bootstrap may be foreign code
            known = cause_of(error)
            if isinstance(known, TemplarError):  # raised in a nursery
                raise known from error
            logger.exception("the bootstrap crashed")
            raise Unavailable("the API failed") from error
        finally:
            self._slots.release()
            self.seconds.observe(trio.current_time() - start)


async def read_answer(answer: object, user_id_path: Sequence[str]) -> BootstrapAnswer:
    """Return what `answer` means. Many rooms are read in slices: between them other tasks get their turn.

    Raises NoRoom: if an allowed room is no object.
    Raises BackendError: if it is no bootstrap answer; the text says why.
    """
    rooms = rooms_in(answer)
    if len(rooms) <= FEW_ROOMS:
        allowed, text = read_rooms(rooms)
        return BootstrapAnswer(allowed, text, user_id_in(answer, user_id_path))
    index, many, texts = RoomIndex(), list[Room](), list[str]()
    for first in range(0, len(rooms), FEW_ROOMS):
        await trio.lowlevel.checkpoint()
        allowed, text = read_rooms(rooms[first : first + FEW_ROOMS], first)
        for room in allowed:
            index.add(room)
        many += allowed
        texts.append(text)
    return BootstrapAnswer(many, joined(texts), user_id_in(answer, user_id_path), index)


def _outcome(error: TemplarError) -> str:
    match error:
        case Refused():
            return "refused"
        case Busy():
            return "busy"
        case Unavailable():
            return "unavailable"
        case _:
            return "nonsense"
