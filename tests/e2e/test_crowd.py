"""A thousand clients, and what the slow ones of them cost the others and the gateway's memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.e2e.api import Api
from tests.e2e.clients import receive, subscriber, trigger
from tests.e2e.processes import NEVER_LATE, GatewayProcess, gateway
from tests.e2e.readers import (
    Loop,
    Member,
    Reader,
    Resetter,
    Script,
    Trickler,
    descriptors,
    forget_peak,
    joined,
    memory,
)

MIB = 2**20
# What a gateway may take beside idle memory and budget (docs/slow-clients.md): 16 KB for each client that waits.
OVERHEAD_BYTES = 1000 * 16_384
DESCRIPTORS = 2048
BUDGET = 32 * MIB
# So many publications of a script are less than what a socket takes at once, and than a pass hands out.
PIECE = 15


def names(process: GatewayProcess, pattern: str) -> dict[int, str]:
    """Return the connection id for each peer's port of the log lines in which `pattern` is found; each has one line."""
    lines = process.log.matching(pattern)
    found = [re.search(r" id=(\S+) .*peer=127\.0\.0\.1:(\d+)( |$)", line) for line in lines]
    ids = {int(match[2]): match[1] for match in found if match}
    assert len(ids) == len(lines), lines
    return ids


def ports_of(*members: Member) -> set[int]:
    return {member.port for member in members}


def have_read(readers: list[Reader], count: int) -> bool:
    """Whether all have got so many, or something is wrong."""
    return all(reader.fault or reader.got >= count for reader in readers)


def test_a_tenth_that_is_slow_costs_only_itself_and_is_named(api: Api) -> None:
    script = Script(300, 4096)
    loop = Loop()
    stuck = [Member(loop, script, f"stuck {number}") for number in range(100)]
    tricklers = [Trickler(loop, script, f"trickler {number}") for number in range(20)]
    resetters = [Resetter(loop, script, f"resetter {number}") for number in range(20)]
    readers = [Reader(loop, script, f"reader {number}") for number in range(860)]
    budget = 64 * MIB
    # Who does not read is cut by bytes. Nobody else can be, however late this machine is: the next piece is published
    # when those who read have this one.
    bounds = [f"--memory-bytes={budget}", "--outbox-bytes=262144", "--goodbye-seconds=0.5", *NEVER_LATE]
    with descriptors(DESCRIPTORS), gateway(f"--api-url={api.url}", *bounds) as process:
        with joined(loop, process, [*stuck, *readers[:430], *tricklers, *resetters, *readers[430:]]):
            idle = memory(process)
            forget_peak(process)
            for first in range(0, len(script), PIECE):
                piece = range(first, first + PIECE)
                assert script.publish(process, piece) == 200
                have_it = partial(have_read, readers, piece.stop)
                loop.run_until(have_it, "read by those who read")
                assert [reader.fault for reader in readers if reader.fault] == []
            loop.run_until(lambda: len(process.log.matching(" close ")) == 140, "without the slow")
            everyone = names(process, " INFO open ")
            named = names(process, " WARNING slow ")
            assert set(named) == ports_of(*stuck, *tricklers)
            assert named.items() <= everyone.items()
            assert set(names(process, " close .* code=1013 ")) == set(named)
            assert set(names(process, " close .* code=1006 ")) == ports_of(*resetters)
            peak = memory(process, "VmHWM")
            assert peak < idle + budget + OVERHEAD_BYTES, (idle, peak)


@contextmanager
def a_thousand_that_stop_reading(api: Api) -> Iterator[tuple[GatewayProcess, Callable[[int], int], list[Member]]]:
    """A gateway whom only memory makes cut anybody, with a thousand that do not read, and one healthy client.

    Yields with it what publishes pieces of a size until one is refused, and returns how many were not: the healthy
    client must get them, each before the next is published. At the end its memory was bounded, and is free again.
    """
    script = Script(1500, 4096)
    loop = Loop()
    stuck = [Member(loop, script, f"stuck {number}") for number in range(1000)]
    bounds = [f"--memory-bytes={BUDGET}", "--trigger-wait-seconds=0.5", "--goodbye-seconds=0.5", *NEVER_LATE]
    with descriptors(DESCRIPTORS), gateway(f"--api-url={api.url}", *bounds) as process:
        with subscriber(process.websocket_url, max_queue=None) as healthy:
            with joined(loop, process, stuck):
                idle = memory(process)
                forget_peak(process)

                def publish_until_refused(size: int) -> int:
                    for first in range(0, len(script), size):
                        piece = range(first, first + size)
                        status = script.publish(process, piece)
                        if status == 503:
                            return first
                        assert status == 200
                        for number in piece:
                            assert receive(healthy) == script.message("a", number)
                    pytest.fail("all of it was accepted")

                yield process, publish_until_refused, stuck
            process.wait_idle(connections=1)
            peak = memory(process, "VmHWM")
            assert peak < idle + BUDGET + OVERHEAD_BYTES, (idle, peak)
            trigger(process, "after")
            assert receive(healthy) == b'{"requestId": "a", "type": "publish", "data": "after"}'


def test_publishers_are_refused_before_the_budget_is_reached_and_nobody_is_cut(api: Api) -> None:
    with a_thousand_that_stop_reading(api) as (process, publish_until_refused, _):
        assert publish_until_refused(1) > 1
        assert process.log.matching(" close ") == []
    assert process.log.matching(" slow ") == []


def test_a_thousand_that_stop_reading_cannot_take_more_than_the_budget(api: Api) -> None:
    """What waits for a thousand of one piece is more than the budget, and was accepted while less than half waited."""
    with a_thousand_that_stop_reading(api) as (process, publish_until_refused, stuck):
        publish_until_refused(PIECE)
    cut = process.log.matching(" WARNING slow ")
    assert cut
    assert process.log.matching(' WARNING slow .*why="too slow while memory is short"') == cut
    assert set(names(process, " WARNING slow ")) < ports_of(*stuck)
