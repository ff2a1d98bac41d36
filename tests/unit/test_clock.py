"""The clock that peers are judged by."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from trio_templar.clock import Clock


async def test_it_goes_as_trios_does_but_for_what_was_forgiven(autojump_clock: MockClock) -> None:
    clock = Clock()
    await trio.sleep(5)
    assert clock.now() == 5
    clock.forgive(3)
    assert clock.now() == 2
    await trio.sleep(1)
    assert clock.now() == 3
