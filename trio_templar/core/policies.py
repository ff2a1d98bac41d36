"""What gives way when a client is slow: its connection, or publications in some rooms. Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from trio_templar.core.rooms import covers
from trio_templar.errors import SettingsError

Kind = Literal["disconnect", "drop_oldest", "conflate"]

MAX_OUTBOX_BYTES: Final = 2**40
# For how many rooms is remembered how long they are kept.
CACHED_ROOMS: Final = 1024


class RoomPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of the setting `room_policy`, as it is written.

    `match` is a room in which `*` stands for any value; without it, the entry is for all rooms that no other matches.
    `outbox_bytes` bounds the backlog of one subscription to such a room (without it: the outbox is the bound). `key` is
    a path in `data`, as `object.id`: the latest publication of each value there is kept. `history` says whether what is
    published there is kept for those who come back, `history_seconds` for how long; without it, as long as anything is.
    """

    match: dict[str, Any] | None = None
    policy: Kind = "disconnect"
    outbox_bytes: Annotated[int, Meta(ge=64, le=MAX_OUTBOX_BYTES)] | None = None
    key: Annotated[str, Meta(min_length=1)] | None = None
    history: bool = True
    history_seconds: Annotated[float, Meta(gt=0)] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for one room.

    `disconnect`: a client over its bounds is closed. `drop_oldest`: it loses the oldest publications of its backlog.
    `conflate`: a publication takes the place of older ones in the backlog; if there is a path `conflate_by`, only of
    those with the same value there. What is published is kept for `history_seconds`; 0: not at all; infinite: for as
    long as the setting says.
    """

    kind: Kind
    outbox_bytes: int
    conflate_by: Sequence[str] = ()
    history_seconds: float = math.inf


class Policies:
    """The policies of a gateway, in order: the first that matches a room decides.

    Raises SettingsError: if an entry can never match, has a bound over `outbox_bytes` or `history_seconds`, or a field
    it has no use for.
    """

    def __init__(self, entries: Sequence[RoomPolicy], outbox_bytes: int, history_seconds: float = math.inf) -> None:
        self._default = Policy("disconnect", outbox_bytes)
        self._entries: list[tuple[dict[str, Any] | None, Policy]] = []
        for index, entry in enumerate(entries):
            where = f"room_policy[{index}]"
            self._add(entry, where, outbox_bytes)
            _check_history(entry, where, history_seconds)
        # A publisher asks for rooms that nobody is in, too, of which no policy is kept anywhere. The cache must not
        # point back here: only the garbage collector takes such a circle away.
        of = functools.partial(_policy_of, self._entries, self._default)
        self.history_seconds = functools.lru_cache(CACHED_ROOMS)(lambda key: of(key).history_seconds)

    def of(self, key: bytes) -> Policy:
        """Return the policy of the room with this key."""
        return _policy_of(self._entries, self._default, key)

    @property
    def limits_history(self) -> bool:
        """Whether some room is kept for less than `history_seconds`."""
        return any(policy.history_seconds < math.inf for _, policy in self._entries)

    def keep_longer(self, before: Policies) -> bool:
        """Whether some room may be kept for longer than `before`."""
        if not before.limits_history:
            return False
        old = [(match, policy.history_seconds) for match, policy in before._entries]  # one of us
        new = [(match, policy.history_seconds) for match, policy in self._entries]
        if [match for match, _ in old] != [match for match, _ in new]:
            return True
        return any(now > then for (_, now), (_, then) in zip(new, old, strict=True))

    def _add(self, entry: RoomPolicy, where: str, outbox_bytes: int) -> None:
        for index, (earlier, _) in enumerate(self._entries):
            if earlier is None or (entry.match is not None and covers(earlier, entry.match)):
                raise SettingsError(f"{where}.match: it matches nothing that room_policy[{index}] leaves")
        if entry.outbox_bytes is not None and entry.outbox_bytes > outbox_bytes:
            raise SettingsError(f"{where}.outbox_bytes: {entry.outbox_bytes} is over outbox_bytes, {outbox_bytes}")
        if entry.key is not None and entry.policy != "conflate":
            raise SettingsError(f"{where}.key: only the policy conflate has one, this is {entry.policy}")
        path = tuple((entry.key or "").split(".")) if entry.key else ()
        if "" in path:
            raise SettingsError(f"{where}.key: {entry.key!r} is no path like object.id")
        history = (entry.history_seconds or math.inf) if entry.history else 0
        self._entries.append((entry.match, Policy(entry.policy, entry.outbox_bytes or outbox_bytes, path, history)))


def _policy_of(entries: Sequence[tuple[dict[str, Any] | None, Policy]], default: Policy, key: bytes) -> Policy:
    if entries:
        try:
            room = msgspec.json.decode(key)
        except RecursionError:  # nested almost 1000 deep: it was encoded where the stack was shallower
            return default
        for match, policy in entries:
            if match is None or covers(match, room):
                return policy
    return default


def _check_history(entry: RoomPolicy, where: str, history_seconds: float) -> None:
    if entry.history_seconds is None:
        return
    if not entry.history:
        raise SettingsError(f"{where}.history_seconds: history = false keeps nothing, so leave it out")
    if 0 < history_seconds < entry.history_seconds:  # with 0 nothing is kept, whatever a policy says
        raise SettingsError(
            f"{where}.history_seconds: {entry.history_seconds:g} is over history_seconds, {history_seconds:g}"
        )


DISCONNECT_ALL: Final = Policies((), MAX_OUTBOX_BYTES)
