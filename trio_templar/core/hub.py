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
        """Send `batch` to the client, or queue it; what no longer fits is dealt with as the room's policy says."""

    def void(self, subscription: Subscription) -> None:
        """Give up what waits for `subscription`, which has ended."""


class Subscription:
    """One requestId of one connection in one room. `room` is None once it has ended: nothing is delivered then."""

    __slots__ = ("receiver", "request_id", "room")

    def __init__(self, room: LiveRoom, receiver: Receiver, request_id: bytes) -> None:
        self.room: LiveRoom | None = room
        self.receiver = receiver
        self.request_id = request_id


class LiveRoom:
    """The subscriptions of one room in the order they came. `channel` belongs to fan-out while publications wait.

    `publications` are those it got since somebody entered it first.
    """

    __slots__ = ("channel", "key", "policy", "publications", "subscriptions")

    def __init__(self, key: bytes, policy: Policy) -> None:
        self.key = key
        self.policy = policy
        self.subscriptions: dict[Subscription, None] = {}
        self.channel: Any = None
        self.publications = 0


class Hub:
    """All rooms that have a subscriber, by room key. A room is gone with its last subscription."""

    def __init__(self, policies: Policies = DISCONNECT_ALL) -> None:
        self._policies = policies
        self.rooms: dict[bytes, LiveRoom] = {}
        self.subscriptions = 0

    def subscribe(self, key: bytes, receiver: Receiver, request_id: bytes) -> Subscription:
        """Enter the room of `key`, which is made if nobody is there. `request_id` is JSON."""
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
        """Let `policies` decide from now on, for rooms that are there too."""
        self._policies = policies
        for room in self.rooms.values():
            room.policy = policies.of(room.key)
