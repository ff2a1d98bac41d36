"""What a node does with what the log hands on: it keeps it, and puts it on its way to the subscribers it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import trio

from trio_templar.core.frames import Publication, hole_frame
from trio_templar.core.history import History
from trio_templar.core.hub import Hub
from trio_templar.core.triggers import Trigger
from trio_templar.delivery.entrance import Plan
from trio_templar.delivery.fanout import Fanout

# To call the classes takes twice as long.
_trigger, _publication = Trigger._make, Publication._make


class Follower:
    """The reading end of the log, in one node."""

    def __init__(self, history: History, hub: Hub, fanout: Fanout) -> None:
        self.history = history
        self._hub = hub
        self._fanout = fanout

    def take(self, triggers: Sequence[Trigger], plan: Plan | None = None) -> None:
        """Keep `triggers`, whose positions are behind all before, and hand them on; `plan` if it is made already."""
        now = trio.current_time()
        if self.history.on:
            for room_keys, publication, _, _ in triggers:
                self.history.add(publication.position, room_keys, publication, now)
        self._fanout.hand_on(plan or self._fanout.plan(triggers), now)

    def read(self, entries: Sequence[Trigger]) -> None:
        """Take those of `entries`, which have positions, that are new: a log that is read again repeats some."""
        positions = self.history.positions
        new = [entry for entry in entries if entry.publication.position > positions.last]
        if new:
            self.take(new)
            positions.last = new[-1].publication.position  # where nothing is kept, too

    def restart(self, epoch: bytes, position: int) -> None:
        """Read on behind `position` of `epoch`: up to there something may be missing, and subscriptions are told.

        So it is after a hole in the log, and after a loss of unknown size, which begins an epoch. In both, `position`
        is not below any that was read before.
        """
        self.history.positions.epoch = epoch
        self.history.restart(position)
        self.tell_hole()

    def tell_hole(self) -> None:
        """Tell each subscription with positions that something may be missing before the floor of the history.

        What waits for it is from before the hole and is given up, because the client will fetch. One that has seen
        what is behind the floor misses nothing.
        """
        positions, floor = self.history.positions, self.history.floor
        for room in list(self._hub.rooms.values()):
            for subscription in list(room.subscriptions):
                if subscription.epoch and subscription.after < floor:
                    subscription.epoch, subscription.after = positions.epoch, floor
                    subscription.receiver.void(subscription)
                    subscription.receiver.reply(hole_frame(subscription.request_id, positions.token(floor)))


def placed(triggers: Sequence[Trigger], position: int) -> list[Trigger]:
    """Return `triggers` with a position each, from `position` on.

    One that names a room several times becomes several: a client that has one of its frames can ask for the next.
    """
    found: list[Trigger] = []
    for trigger in triggers:
        left, right, _, _ = trigger.publication
        once = len(trigger.room_keys) < 2 or len(set(trigger.room_keys)) == len(trigger.room_keys)
        for keys, _, tallies, _ in (trigger,) if once else _rounds(trigger):
            found.append(_trigger((keys, _publication((left, right, None, position)), tallies, "")))
            position += 1
    return found


def _rounds(trigger: Trigger) -> Iterator[Trigger]:
    """Yield `trigger` for its rooms, each once, then for those that it names a second time, and so on."""
    keys, tallies = trigger.room_keys, trigger.tallies
    rounds: list[list[int]] = []
    seen = Counter[bytes]()
    for index, key in enumerate(keys):
        if seen[key] == len(rounds):
            rounds.append([])
        rounds[seen[key]].append(index)
        seen[key] += 1
    for indices in rounds:
        some = [keys[index] for index in indices]
        yield trigger._replace(room_keys=some, tallies=tallies and [tallies[index] for index in indices])
