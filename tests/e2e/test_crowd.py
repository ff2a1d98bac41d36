"""A thousand clients, and what the slow ones of them cost the others and the gateway's memory."""

from __future__ import annotations

import re

from tests.e2e.api import Api
from tests.e2e.clients import receive, subscriber, trigger
from tests.e2e.processes import GatewayProcess, gateway
from tests.e2e.readers import (
    Loop,
    Member,
    Publisher,
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


def names(process: GatewayProcess, pattern: str) -> dict[int, str]:
    """Return the connection id for each peer's port of the log lines in which `pattern` is found; each has one line."""
    lines = process.log.matching(pattern)
    found = [re.search(r" id=(\S+) .*peer=127\.0\.0\.1:(\d+)( |$)", line) for line in lines]
    ids = {int(match[2]): match[1] for match in found if match}
    assert len(ids) == len(lines), lines
    return ids


def ports_of(*members: Member) -> set[int]:
    return {member.port for member in members}


def test_a_tenth_that_is_slow_costs_only_itself_and_is_named(api: Api) -> None:
    script = Script(300, 4096)
    loop = Loop()
    stuck = [Member(loop, script, f"stuck {number}") for number in range(100)]
    tricklers = [Trickler(loop, script, f"trickler {number}") for number in range(20)]
    resetters = [Resetter(loop, script, f"resetter {number}") for number in range(20)]
    readers = [Reader(loop, script, f"reader {number}") for number in range(860)]
    budget = 128 * MIB  # when this machine is late with reading, a pass of 64 kB waits for each client
    settings = [f"--memory-bytes={budget}", "--slow-seconds=3", "--goodbye-seconds=0.5", "--ping-seconds=300"]
    with descriptors(DESCRIPTORS), gateway(f"--api-url={api.url}", *settings) as process:
        with joined(loop, process, [*stuck, *readers[:430], *tricklers, *resetters, *readers[430:]]):
            idle = memory(process)
            forget_peak(process)
            publisher = Publisher(process, script)
            publisher.start()
            loop.run_until(lambda: all(reader.over for reader in readers), "all read by those who read")
            assert [reader.fault for reader in readers if reader.fault] == []
            loop.run_until(lambda: len(process.log.matching(" close ")) == 140, "without the slow")
            loop.run_until(lambda: publisher.done, "published")
            assert publisher.published == len(script)
            everyone = names(process, " INFO open ")
            named = names(process, " WARNING slow ")
            assert set(named) == ports_of(*stuck, *tricklers)
            assert named.items() <= everyone.items()
            assert set(names(process, " close .* code=1013 ")) == set(named)
            assert set(names(process, " close .* code=1006 ")) == ports_of(*resetters)
            peak = memory(process, "VmHWM")
            assert peak < idle + budget + OVERHEAD_BYTES, (idle, peak)


def test_a_thousand_that_stop_reading_cannot_take_more_than_the_budget(api: Api) -> None:
    script = Script(1500, 4096)
    loop = Loop()
    stuck = [Member(loop, script, f"stuck {number}") for number in range(1000)]
    budget = 32 * MIB
    settings = [f"--memory-bytes={budget}", "--slow-seconds=4", "--trigger-wait-seconds=0.5", "--goodbye-seconds=0.5"]
    with descriptors(DESCRIPTORS), gateway(f"--api-url={api.url}", *settings) as process:
        with joined(loop, process, stuck), subscriber(process.websocket_url, max_queue=None) as healthy:
            idle = memory(process)
            forget_peak(process)
            publisher = Publisher(process, script)
            publisher.start()
            loop.run_until(lambda: publisher.refused, "refused")
            publisher.stop()
            loop.run_until(lambda: publisher.done, "finished")
            for number in range(publisher.published):
                assert receive(healthy) == script.message("a", number)
            assert process.log.matching("WARNING slow .*too slow while memory is short")
            loop.run_until(lambda: len(process.log.matching(" close ")) == 1000, "cut")
            assert set(names(process, "WARNING slow ")) == ports_of(*stuck)
            peak = memory(process, "VmHWM")
            assert peak < idle + budget + OVERHEAD_BYTES, (idle, peak)
            trigger(process, "after")
            assert receive(healthy) == b'{"requestId": "a", "type": "publish", "data": "after"}'
