"""The registry: who listens to what. Plain and synchronous; nothing here blocks or sends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from trio_templar.frames import Batch


class Receiver(Protocol):
    """What a subscription delivers to: the outbox of its connection."""

    def put(self, subscription: Subscription, batch: Batch) -> None:
        """Send `batch` to the client, or queue it; what no longer fits cuts the client."""


class Subscription:
    """One requestId of one connection in one room. `room` is None once it has ended: nothing is delivered then."""

    __slots__ = ("receiver", "request_id", "room")

    def __init__(self, room: Room, receiver: Receiver, request_id: bytes) -> None:
        self.room: Room | None = room
        self.receiver = receiver
        self.request_id = request_id


class Room:
    """The subscriptions of one room in the order they came. `channel` belongs to fan-out while publications wait.

    `publications` are those it got since somebody entered it first.
    """

    __slots__ = ("channel", "key", "publications", "subscriptions")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.subscriptions: dict[Subscription, None] = {}
        self.channel: Any = None
        self.publications = 0


class Hub:
    """All rooms that have a subscriber, by room key. A room is gone with its last subscription."""

    def __init__(self) -> None:
        self.rooms: dict[bytes, Room] = {}
        self.subscriptions = 0

    def subscribe(self, key: bytes, receiver: Receiver, request_id: bytes) -> Subscription:
        """Enter the room of `key`, which is made if nobody is there. `request_id` is JSON."""
        room = self.rooms.get(key)
        if room is None:
            room = self.rooms[key] = Room(key)
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
        if not room.subscriptions:
            del self.rooms[room.key]
