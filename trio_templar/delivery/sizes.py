"""Things by their size, so that a large one is found without a look at all of them."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Sizes(Generic[T]):
    """Things that have a size, in classes of which each reaches to twice the size of the one before."""

    __slots__ = ("_classes",)

    def __init__(self) -> None:
        self._classes: dict[int, dict[T, None]] = {}

    def change(self, thing: T, before: int, after: int) -> None:
        """Take note that the size of `thing` has changed; with size 0 it is not in here."""
        old, new = before.bit_length(), after.bit_length()
        if old == new:
            return
        if old:
            del self._classes[old][thing]
            if not self._classes[old]:
                del self._classes[old]
        if new:
            self._classes.setdefault(new, {})[thing] = None

    @property
    def large(self) -> T | None:
        """The one that has been in the class of the largest for longest: it has over half the size of any other."""
        if not self._classes:
            return None
        return next(iter(self._classes[max(self._classes)]))
