"""How a connection ends: what each event does in each state is decided here, and nowhere else.

    open ── close ──> closing ─────┐
      │                  │ cut     ├── all is written ──> closed: the peer's turn to end
      └──── cut ──────> cut ───────┘

    each of these three ── the peer is lost, the time is over, we fail or are cancelled ──> lost: it is reset

The first reason wins. What comes in after it, the library's own close frame included, changes no bytes on the wire.
"""

from __future__ import annotations

from enum import Enum, Flag, auto
from typing import Final

from trio_templar.errors import Close


class State(Enum):
    """How far the end has come."""

    OPEN = auto()
    CLOSING = auto()  # what waits is written, then the close frame
    CUT = auto()  # the same, without the publications that waited
    CLOSED = auto()  # it was told everything
    LOST = auto()  # it is told nothing more


class Event(Enum):
    """What can happen to a connection, as far as its end goes."""

    CLOSE = auto()  # somebody ends it: the client, an operator, a drain, a rule of ours
    CUT = auto()  # it is too slow, or too silent, for what waits
    LOST = auto()  # the peer is gone
    WRITTEN = auto()  # nothing waits any more
    LATE = auto()  # what waits was not taken in time
    CRASHED = auto()  # an error of ours
    CANCELLED = auto()  # the gateway ends without waiting


class Do(Flag):
    """What is to be done at an event, in this order."""

    NOTHING = 0
    DROP = auto()  # drop the publications that wait
    SAY = auto()  # send the close frame, behind what waits
    GIVE_UP = auto()  # give up all that waits


_STEPS: Final = {
    (State.OPEN, Event.CLOSE): (State.CLOSING, Do.SAY),
    (State.OPEN, Event.CUT): (State.CUT, Do.DROP | Do.SAY),
    (State.OPEN, Event.LOST): (State.LOST, Do.GIVE_UP),
    # The task that would write has ended: the close frame goes out if it can at once.
    (State.OPEN, Event.CRASHED): (State.LOST, Do.SAY | Do.GIVE_UP),
    (State.OPEN, Event.CANCELLED): (State.LOST, Do.GIVE_UP),
    (State.CLOSING, Event.CUT): (State.CUT, Do.DROP),
    **{
        (state, event): step
        for state in (State.CLOSING, State.CUT)
        for event, step in {
            Event.LOST: (State.LOST, Do.GIVE_UP),
            Event.WRITTEN: (State.CLOSED, Do.NOTHING),
            Event.LATE: (State.LOST, Do.GIVE_UP),
            Event.CRASHED: (State.LOST, Do.GIVE_UP),
            Event.CANCELLED: (State.LOST, Do.GIVE_UP),
        }.items()
    },
}  # whatever is not here changes nothing


class Closing:
    """The end of one connection. `why` is its first reason; None while it is `open`."""

    __slots__ = ("_state", "open", "why")

    def __init__(self) -> None:
        self._state = State.OPEN
        self.open = True  # each delivery asks, so it is no property
        self.why: Close | None = None

    def on(self, event: Event, why: Close) -> Do | None:
        """Take note of `event`, and return what is to be done now; None if it changes nothing."""
        step = _STEPS.get((self._state, event))
        if step is None:
            return None
        if self.open:
            self.open, self.why = False, why
        self._state, todo = step
        return todo

    @property
    def all_said(self) -> bool:
        """Whether the client was told everything, the close frame last."""
        return self._state is State.CLOSED

    @property
    def over(self) -> bool:
        """Whether nothing more is written."""
        return self._state in (State.CLOSED, State.LOST)
