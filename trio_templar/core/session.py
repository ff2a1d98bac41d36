"""What one admitted client may do, and its subscriptions: a message in, the reply out. How fast it may send. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from trio_templar.core.dialects import Command, Dialect, Ping, Status, Subscribe, Unsubscribe, parse, subscribed
from trio_templar.core.frames import Batch
from trio_templar.core.hub import Hub, Receiver, Subscription
from trio_templar.core.recovery import Answer, Recovery, no_recovery
from trio_templar.core.rooms import Room, RoomIndex, is_allowed, room_key
from trio_templar.errors import ClientError


@dataclass(frozen=True, slots=True)
class Rules:
    """What all sessions of a gateway share. `status` makes the reply to a status message; None refuses it."""

    dialect: Dialect
    hub: Hub
    max_subscriptions: int
    max_room_bytes: int
    max_request_id_bytes: int
    status: Callable[[], str] | None = None
    recovery: Recovery = field(default_factory=no_recovery)


class Replay(NamedTuple):
    """What a subscription missed."""

    subscription: Subscription
    batch: Batch


class Reply(msgspec.Struct, frozen=True):
    """The one reply to a message, and what is put right behind it, before anything else is."""

    text: str
    replay: Replay | None = None


class Failure(NamedTuple):
    """Why a message was answered with an error, and the key of the room it is about; empty: it is about none."""

    code: str
    room: bytes


class Bucket:
    """A token bucket: a client may send `burst` messages at once, and `rate` a second in the long run."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Return whether one more message may come at `now` (seconds), and count it."""
        # The gateway's clock goes back when it forgives time; that must not cost tokens.
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Session:
    """One admitted client. Only its own connection calls it."""

    __slots__ = (
        "_allowed_rooms",
        "_connection_id",
        "_index",
        "_receiver",
        "_rules",
        "_subscriptions",
        "broken_bound",
        "failure",
    )

    def __init__(
        self,
        rules: Rules,
        allowed_rooms: Sequence[Room],
        receiver: Receiver,
        connection_id: str,
        index: RoomIndex | None = None,
    ) -> None:
        self._rules = rules
        self._index = index
        self._allowed_rooms = allowed_rooms
        self._receiver = receiver
        self._connection_id = connection_id
        self._subscriptions: dict[bytes, Subscription] = {}
        self.broken_bound = ""
        self.failure: Failure | None = None

    def receive(self, message: str | bytes) -> Reply:
        """Do what `message` says and return the one reply to it. Every message has a reply; none raises.

        The reason of an error is in `failure` until the next message. `broken_bound` names the setting of the first
        bound that a message broke.
        """
        self.failure = None
        try:
            return self._obey(parse(message, self._rules.max_request_id_bytes))
        except ClientError as error:
            self.broken_bound = self.broken_bound or error.over
            self.failure = Failure(error.code, error.room)
            return Reply(self._rules.dialect.error(error, self._connection_id))

    def end(self) -> None:
        """End all subscriptions."""
        for subscription in self._subscriptions.values():
            self._rules.hub.unsubscribe(subscription)
        self._subscriptions.clear()

    def room_keys(self) -> list[bytes]:
        """Return the room key of each subscription, in the order they were made."""
        return [subscription.room.key for subscription in self._subscriptions.values() if subscription.room]

    def position(self) -> str | None:
        """Return the token up to which all subscriptions with positions were sent everything, or have it in the outbox.

        None if there is none such, or if something is still on its way to one of their rooms.
        """
        rooms = [each.room for each in self._subscriptions.values() if each.epoch]
        return self._rules.recovery.position(rooms) if rooms else None

    def leave(self, key: bytes) -> list[str]:
        """End the subscriptions to the room of `key`; return their requestIds, as JSON."""
        left = [each for each in self._subscriptions.values() if each.room and each.room.key == key]
        for subscription in left:
            self._rules.hub.unsubscribe(subscription)
            del self._subscriptions[subscription.request_id]
        return [subscription.request_id.decode() for subscription in left]

    def _obey(self, command: Command) -> Reply:
        match command:
            case Ping():
                return Reply("pong")
            case Subscribe():
                return self._subscribe(command)
            case Unsubscribe(request_id):
                self._unsubscribe(request_id)
                return Reply(self._rules.dialect.success(request_id))
            case Status(request_id):
                if self._rules.status is None:
                    raise ClientError("message-type-not-allowed", request_id)
                return Reply(self._rules.status())

    def _subscribe(self, command: Subscribe) -> Reply:
        request_id, room, since = command.request_id, command.room, command.since
        key = self._key(request_id, room)
        # A few allowed rooms have no index: reading through them is as fast, and takes no memory.
        if not (self._index.allows(room) if self._index else is_allowed(room, self._allowed_rooms)):
            raise ClientError("room-not-found", request_id, room=key)
        known = self._subscriptions.get(request_id.encode())
        if known is not None:
            if known.room is None or known.room.key != key:
                raise ClientError("request-id-in-use", request_id, room=key)
            return self._success(request_id, self._rules.recovery.again(known, since))
        if len(self._subscriptions) >= self._rules.max_subscriptions:
            raise ClientError("too-many-subscriptions", request_id, over="max_subscriptions", room=key)
        # The requestId of the subscription is the key here too, so that its bytes are kept once.
        subscription = self._rules.hub.subscribe(key, self._receiver, request_id.encode())
        self._subscriptions[subscription.request_id] = subscription
        answer = self._rules.recovery.begin(subscription, since)
        return self._success(request_id, answer, Replay(subscription, answer.replay) if answer.replay else None)

    def _success(self, request_id: str, answer: Answer, replay: Replay | None = None) -> Reply:
        if answer.at is None and answer.recovered is None:
            return Reply(self._rules.dialect.success(request_id))
        return Reply(subscribed(request_id, answer.at, answer.recovered), replay)

    def _key(self, request_id: str, room: Room) -> bytes:
        try:
            key = room_key(room)
        except ValueError:
            raise ClientError("invalid-room", request_id) from None
        if len(key) > self._rules.max_room_bytes:
            raise ClientError("invalid-room", request_id, over="max_room_bytes")
        return key

    def _unsubscribe(self, request_id: str) -> None:
        subscription = self._subscriptions.pop(request_id.encode(), None)
        if subscription is None:
            raise ClientError("not-subscribed", request_id)
        self._rules.hub.unsubscribe(subscription)
