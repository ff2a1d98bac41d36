"""The registry: who listens to what. Plain and synchronous; nothing here blocks or sends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from trio_templar.core.policies import DISCONNECT_ALL, Policies, Policy
from trio_templar.core.rooms import trimmed

if TYPE_CHECKING:
    from trio_templar.core.frames import Batch


class Receiver(Protocol):
    """What a subscription delivers to: the outbox of its connection."""

    def put(self, subscription: Subscription, batch: Batch) -> None:
        """Send `batch` to the client, or add it to the backlog; what does not fit there the room's policy decides."""

    def reply(self, frame: bytes) -> None:
        """Send one whole frame that is no publication, before publications that wait."""

    def void(self, subscription: Subscription) -> None:
        """Give up what waits for `subscription`, which has ended."""

    def crash(self) -> None:
        """End the client, because a `put` raised. Raises nothing."""

    def spare(self, policy: Policy) -> tuple[int, int]:
        """Return how many bytes and frames may be put at once, for a room of this policy, until half of it is full."""

    def first_waiting(self, subscription: Subscription) -> int | None:
        """Return the position of the first publication that `subscription` is yet to be sent, or told that it lost."""


class Subscription:
    """One requestId of one connection in one room. `room` is None once it has ended; nothing is delivered then.

    `epoch` is that of the positions which its publications carry; empty: the client asked for none. Nothing up to the
    position `after` is delivered.
    """

    __slots__ = ("after", "epoch", "receiver", "request_id", "room")

    def __init__(self, room: LiveRoom, receiver: Receiver, request_id: bytes) -> None:
        self.room: LiveRoom | None = room
        self.receiver = receiver
        self.request_id = request_id
        self.epoch = b""
        self.after = 0


class LiveRoom:
    """A room with subscriptions, in the order they came.

    `channel` belongs to fan-out, which has one there while publications wait. `publications` counts those that the room
    got since its first subscription.
    """

    __slots__ = ("channel", "key", "policy", "publications", "subscriptions")

    def __init__(self, key: bytes, policy: Policy) -> None:
        self.key = key
        self.policy = policy
        self.subscriptions: dict[Subscription, None] = {}  # a set that keeps its order
        self.channel: Any = None
        self.publications = 0


class Hub:
    """All rooms that have a subscription, by room key. A room is gone with its last subscription."""

    def __init__(self, policies: Policies = DISCONNECT_ALL) -> None:
        self._policies = policies
        self.rooms: dict[bytes, LiveRoom] = {}
        self.subscriptions = 0

    def subscribe(self, key: bytes, receiver: Receiver, request_id: bytes) -> Subscription:
        """Add a subscription to the room of `key`, which is made by its first one. `request_id` is JSON."""
        room = self.rooms.get(key)
        if room is None:
            key = trimmed(key)
            room = self.rooms[key] = LiveRoom(key, self._policies.of(key))
        subscription = Subscription(room, receiver, request_id)
        room.subscriptions[subscription] = None
        self.subscriptions += 1
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End `subscription` at once; ending it again changes nothing."""
        room = subscription.room
        if room is None:
            return
        subscription.room = None
        del room.subscriptions[subscription]
        self.subscriptions -= 1
        subscription.receiver.void(subscription)
        if not room.subscriptions:
            del self.rooms[room.key]

    def apply(self, policies: Policies) -> None:
        """Let `policies` decide from now on, also for the rooms that exist."""
        self._policies = policies
        for room in self.rooms.values():
            room.policy = policies.of(room.key)
