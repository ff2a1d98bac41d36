"""What was published already: a publisher may send a request again after a timeout, and nothing is published twice."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

import trio

from trio_templar.errors import TemplarError

A = TypeVar("A")

# What an entry takes beside its key and its answer.
ENTRY_BYTES: Final = 460  # measured


class KeyReused(TemplarError):
    """A key came again with something else."""

    status = 422


class Claim(NamedTuple):
    """A key, and a digest of what it stands for. The same key of another kind is another key."""

    key: str
    digest: bytes
    kind: str = ""

    @property
    def name(self) -> tuple[str, str]:
        """What tells it from others."""
        return self.kind, self.key


def claim(key: str, content: Iterable[bytes], kind: str = "") -> Claim:
    """Return the claim of `key` on `content`, which is told apart by its pieces."""
    digest = hashlib.sha256()
    for piece in content:
        digest.update(b"%d:" % len(piece))
        digest.update(piece)
    return Claim(key, digest.digest(), kind)


@dataclass(slots=True)
class _Answer(Generic[A]):
    digest: bytes
    answer: A | None = None
    size: int = 0
    expires: float = 0.0


class IdempotencyCache(Generic[A]):
    """Answers by key, for so many seconds; the oldest go first when there are more than so many entries or bytes.

    What is under way is remembered too, until it is known how it ends.
    """

    def __init__(self, *, seconds: float, max_entries: int, max_bytes: int, now: Callable[[], float]) -> None:
        self._seconds = seconds
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._now = now
        self._under_way: dict[tuple[str, str], _Answer[A]] = {}
        self._done: OrderedDict[tuple[str, str], _Answer[A]] = OrderedDict()
        self._changed = trio.lowlevel.ParkingLot()
        self.bytes = 0

    def __len__(self) -> int:
        """How many answers are remembered."""
        return len(self._done)

    async def known(self, claims: Sequence[Claim]) -> list[A | None]:
        """Return the answers to `claims`, None for a new one; waits while one of them is under way elsewhere.

        Whoever wants to act on a None begins `under_way` without any wait in between.
        Raises KeyReused: if a key stands for something else.
        """
        await trio.lowlevel.checkpoint()
        while any(self._is_under_way(claim) for claim in claims):
            await self._changed.park()
        return [self._find(claim) for claim in claims]

    @contextmanager
    def under_way(self, claims: Sequence[Claim]) -> Iterator[None]:
        """Let others with one of these keys wait until the end of this block; `remember` is to be called in it."""
        for claim in claims:
            self._under_way[claim.name] = _Answer(claim.digest)
        try:
            yield
        finally:
            for claim in claims:
                del self._under_way[claim.name]
            self._changed.unpark_all()

    def remember(self, claim: Claim, answer: A, size: int) -> None:
        """Answer `claim` with `answer`, which takes `size` bytes, from now on."""
        known = self._done.pop(claim.name, None)
        size += len(claim.key.encode()) + ENTRY_BYTES
        self._done[claim.name] = _Answer(claim.digest, answer, size, self._now() + self._seconds)
        self.bytes += size - (known.size if known else 0)
        self._forget()

    def _is_under_way(self, claim: Claim) -> bool:
        entry = self._under_way.get(claim.name)
        if entry is not None and entry.digest != claim.digest:
            raise _reused(claim)
        return entry is not None

    def _find(self, claim: Claim) -> A | None:
        self._forget()
        entry = self._done.get(claim.name)
        if entry is None:
            return None
        if entry.digest != claim.digest:
            raise _reused(claim)
        return entry.answer

    def _forget(self) -> None:
        now = self._now()
        while self._done:
            entry = next(iter(self._done.values()))
            if len(self._done) <= self._max_entries and self.bytes <= self._max_bytes and entry.expires > now:
                return
            self._done.popitem(last=False)
            self.bytes -= entry.size


def _reused(claim: Claim) -> KeyReused:
    return KeyReused(f"the key {claim.key!r} came before with something else")
