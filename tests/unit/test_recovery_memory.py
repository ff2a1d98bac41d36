"""What is kept for clients that come back gives way: it costs no publisher a 503 and no client a 1013."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from tests.unit.conftest import CAR, RIDE, parts, quiet, settled
from trio_templar.core.history import History
from trio_templar.core.rooms import Room
from trio_templar.errors import CROWDED
from trio_templar.testing import FakeBackend, MemoryGateway, WebsocketClient, open_gateway
from trio_templar.wiring import HISTORY_SHARE

NEWS = {"target": "news"}
ROOMS = [CAR, RIDE, NEWS]
MEMORY_BYTES = 1 << 20
CLIENTS = 24
STEPS = 400


class Witness(logging.Handler):
    """Notes how much is kept at each moment that a client is cut because memory is short."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history
        self.kept: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "slow" and record.fields["why"] == CROWDED.reason:  # type: ignore[attr-defined]
            self.kept.append(len(self._history))


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_kept_where_a_publisher_is_refused_or_a_client_closed(
    seed: int, autojump_clock: MockClock
) -> None:
    choose = random.Random(seed)
    settings = quiet(memory_bytes=MEMORY_BYTES, goodbye_seconds=1)
    log = logging.getLogger("trio_templar.connection")
    async with open_gateway(settings, backend=FakeBackend(ROOMS)) as running:
        history = parts(running).delivery.recovery.history
        witness, refused = Witness(history), []
        log.addHandler(witness)
        try:
            clients = [await late_client(running, ROOMS[number % 3 :]) for number in range(CLIENTS)]
            running.gateway.publish_nowait([CAR], "x" * 200)
            running.gateway.publish_nowait(ROOMS, "x" * 60_000)  # each client has a copy that is under way
            for _ in range(STEPS):
                await settled()
                try:
                    running.gateway.publish_nowait([choose.choice(ROOMS)], "x" * choose.choice([50, 200, 5000, 60_000]))
                except trio.WouldBlock:
                    refused.append(len(history))
                assert history.bytes <= MEMORY_BYTES // HISTORY_SHARE
                for client in choose.sample(clients, 6):
                    with trio.move_on_after(0.001), suppress(trio.BrokenResourceError):
                        await client.stream.receive_some(100_000)
        finally:
            log.removeHandler(witness)
        assert running.gateway.statistics().drops["memory"] == len(witness.kept)
    assert set(witness.kept) == {0}
    assert set(refused) == {0}
    assert len(refused) < STEPS


async def late_client(running: MemoryGateway, rooms: Sequence[Room]) -> WebsocketClient:
    """A client in `rooms` that reads nothing by itself."""
    client = await running.connect(make_pair=lockstep_stream_pair)
    await client.receive()
    for request_id, room in enumerate(rooms):
        await client.subscribe(request_id, room)
    return client


async def test_what_gave_way_is_told_to_fetch_and_what_comes_later_is_kept_again(autojump_clock: MockClock) -> None:
    settings = quiet(memory_bytes=MEMORY_BYTES, goodbye_seconds=1)
    async with open_gateway(settings, backend=FakeBackend(ROOMS)) as running:
        start = running.gateway.publish_nowait([CAR], "start").at
        running.gateway.publish_nowait([CAR], "lost")
        late = await late_client(running, [NEWS])
        with suppress(trio.WouldBlock):
            while True:
                running.gateway.publish_nowait([NEWS], "x" * 60_000)
                await settled()
        assert not parts(running).delivery.recovery.history
        await trio.aclose_forcefully(late.stream)
        await settled()
        middle = running.gateway.publish_nowait([CAR], "middle").at
        running.gateway.publish_nowait([CAR], "end")
        for since, recovered, missed in ((start, False, []), (middle, True, ["end"])):
            client = await running.connect()
            await client.receive()
            await client.send({"type": "subscribe", "requestId": 1, "room": CAR, "since": since})
            assert (await client.receive())["recovered"] is recovered
            assert [(await client.receive())["data"] for _ in missed] == missed
