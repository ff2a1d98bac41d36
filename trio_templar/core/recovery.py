"""What a subscription with `since` is answered, and the publications that it missed. Pure, and one step: no await.

All subscriptions of a room were offered what it got up to the position `offered`; what came behind waits in its
channel, and will be. So a subscription that gets what is kept between its own position and `offered`, and is in the
room from then on, gets each publication once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, NamedTuple

from msgspec import UNSET

from trio_templar.core.dialects import Since
from trio_templar.core.frames import Batch, Publication
from trio_templar.core.history import Entry, History
from trio_templar.core.hub import LiveRoom, Subscription
from trio_templar.core.position import Positions

# Why a position was of no use: it cannot be proved what came behind it, or that is too much.
NotRecovered = Literal["unknown", "too large"]
Outcome = Literal["recovered"] | NotRecovered

# What a publication takes on the wire beside its bytes and the requestId: a header, and `, "at": "…"`.
FRAME_BYTES: Final = 50
# Equal replays are one batch; so many bytes of them are kept for the next.
SHARED_BYTES: Final = 1_048_576
# How many entries that are too old are forgotten before other tasks get their turn: about a millisecond.
TRIMMED_ENTRIES: Final = 1000


class Answer(NamedTuple):
    """The answer to a `since`. `at` is the token from which the client gets everything from now on.

    `recovered` says whether it gets all behind its `since` too, and `replay` is what it missed. None: nothing is said.
    """

    at: str | None = None
    recovered: bool | None = None
    replay: Batch | None = None


NOTHING: Final = Answer()
_publication: Final = Publication._make  # takes half as long as to call it


class Recovery:
    """Answers for all sessions of a gateway. `replayed` counts publications, `outcomes` the positions that came."""

    def __init__(self, history: History, now: Callable[[], float]) -> None:
        self.history = history
        self._now = now
        self.outcomes: Counter[Outcome] = Counter({"recovered": 0, "unknown": 0, "too large": 0})
        self.replayed = 0
        self._shared: dict[tuple[bytes, int, int, int], Batch] = {}
        self._shared_bytes = 0

    def offered(self, room: LiveRoom) -> int:
        """Return up to which position those in `room` were offered what it got, or are just being."""
        if room.channel is None:
            return self.history.positions.last
        return int(room.channel.offered)

    def begin(self, subscription: Subscription, since: Since) -> Answer:
        """Return the answer to the `since` of a new `subscription`, which is in its room already."""
        room = subscription.room
        if since is UNSET or room is None:
            return NOTHING
        if not self.history.keeps(room.key):
            return NOTHING if since is None else self._not_recovered("unknown", NOTHING)
        subscription.epoch = self.history.positions.epoch
        offered = self.offered(room)
        # A floor above that is of a hole. What waits from before it is not delivered: this client begins behind it.
        subscription.after = max(offered, self.history.floor)
        here = Answer(self.history.positions.token(subscription.after))
        if since is None:
            return here
        position = self.history.positions.read(since)
        if position is None:
            return self._not_recovered("unknown", here)
        missed = self._missed(subscription, room, position, offered)
        if isinstance(missed, str):
            return self._not_recovered(missed, here)
        subscription.after = position
        self.outcomes["recovered"] += 1
        return Answer(since, True, self._batch(subscription, room.key, missed) if missed else None)

    def again(self, subscription: Subscription, since: Since) -> Answer:
        """Return the answer to a later `since` of a `subscription` that exists: nothing is replayed.

        Its publications carry positions from now on, if they did not. A client that was told one and never a newer
        would come back with that, and get everything again.
        """
        room = subscription.room
        if since is UNSET or room is None:
            return NOTHING
        if not self.history.keeps(room.key):
            return NOTHING if since is None else self._not_recovered("unknown", NOTHING)
        subscription.epoch = self.history.positions.epoch
        # The reply overtakes what waits in the outbox, so it must not count that as sent.
        first = subscription.receiver.first_waiting(subscription)
        if first is not None:
            sent = first - 1
        else:
            sent = self.history.positions.last if room.channel is None else room.channel.offered_to(subscription)
        # Not the floor, where that is higher: another node may still prove what came before it.
        return Answer(self.history.positions.token(max(sent, subscription.after)))

    def position(self, rooms: Iterable[LiveRoom | None]) -> str | None:
        """Return the token up to which all `rooms` were offered what they got; None if some is still on its way.

        Rooms that are not kept (any more) have no say; None if all are such.
        """
        kept = [room for room in rooms if room is not None and self.history.keeps(room.key)]
        if not kept or any(room.channel is not None for room in kept):
            return None
        return self.history.positions.token(self.history.positions.last)

    def tidy(self) -> bool:
        """Let go of what is too old, some of it, and of the batches for equal replays; return whether there is more."""
        self._let_go_of_shared()
        return self.history.trim(self._now(), TRIMMED_ENTRIES)

    def _let_go_of_shared(self) -> None:
        for batch in self._shared.values():
            batch.finish()  # its shares too: of one that waits somewhere they outlive it
        self._shared.clear()
        self._shared_bytes = 0

    def _missed(
        self, subscription: Subscription, room: LiveRoom, position: int, until: int
    ) -> Sequence[Entry] | NotRecovered:
        """Return what `subscription` missed of `room` behind `position`, if it fits with what waits for it."""
        bytes_left, frames_left = subscription.receiver.spare(room.policy)
        entries = self.history.since(room.key, position, self._now(), until=until, most=frames_left)
        if entries is None:
            return "unknown"
        size = sum([len(left) + len(right) for _, _, left, right, _ in entries])
        if len(entries) > frames_left or _frame_bytes(subscription, len(entries), size) > bytes_left:
            return "too large"
        return entries

    def _not_recovered(self, why: NotRecovered, answer: Answer) -> Answer:
        self.outcomes[why] += 1
        return answer._replace(recovered=False)

    def _batch(self, subscription: Subscription, key: bytes, entries: Sequence[Entry]) -> Batch:
        self.replayed += len(entries)
        # For requestIds of one length, or what is made for those of each would stay as long as the batch.
        bounds = (key, entries[0][0], entries[-1][0], len(subscription.request_id))
        batch = self._shared.get(bounds)
        if batch is None:
            batch = Batch([_publication((left, right, None, position)) for position, _, left, right, _ in entries])
            size = _frame_bytes(subscription, batch.count, batch.size)
            if self._shared_bytes + size > SHARED_BYTES:
                self._let_go_of_shared()
            self._shared[bounds] = batch
            self._shared_bytes += size
        return batch


def _frame_bytes(subscription: Subscription, count: int, size: int) -> int:
    """Return at least what `count` publications of `size` bytes take as frames for `subscription`."""
    return size + count * (len(subscription.request_id) + FRAME_BYTES)


def no_recovery() -> Recovery:
    """Return what answers where nothing is kept."""
    return Recovery(History(Positions()), lambda: 0.0)
