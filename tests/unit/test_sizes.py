"""Sizes: what is large is found, whatever has grown and shrunk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_templar.delivery.sizes import Sizes


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), max_size=40))
def test_a_large_one_has_over_half_the_size_of_any(changes: list[tuple[int, int]]) -> None:
    sizes = Sizes[int]()
    known = dict.fromkeys(range(6), 0)
    for thing, size in changes:
        sizes.change(thing, known[thing], size)
        known[thing] = size
        largest = max(known.values())
        assert (sizes.large is None) == (largest == 0)
        assert sizes.large is None or known[sizes.large] > largest / 2


def test_of_those_of_one_class_the_first_is_taken() -> None:
    sizes = Sizes[str]()
    for thing in ("a", "b"):
        sizes.change(thing, 0, 5)
    sizes.change("b", 5, 7)
    assert sizes.large == "a"
