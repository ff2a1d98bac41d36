"""How a program with a gateway inside is tested: memory streams and virtual time, no socket and no waiting."""

import pytest
import trio
import trio.testing
from embed import CLOCK, bootstrap, main, tick

from trio_templar import Settings
from trio_templar.testing import Closed, Rejected, open_gateway


@pytest.fixture
def settings() -> Settings:
    """Bind nothing: clients come through memory."""
    return Settings(bind=(), trigger_bind="")


async def test_the_clock_ticks_every_second(settings: Settings, autojump_clock: trio.testing.MockClock) -> None:
    async with open_gateway(settings, bootstrap=bootstrap) as running, trio.open_nursery() as nursery:
        client = await running.connect(target="/ws/?token=tick")
        assert await client.receive() == {"allowed_rooms": [CLOCK]}
        assert await client.subscribe("c", CLOCK) == {"requestId": "c", "code": "success"}

        nursery.start_soon(tick, running.gateway)
        start = trio.current_time()
        for _ in range(3):
            assert (await client.receive())["requestId"] == "c"
        assert trio.current_time() - start == 2
        assert running.gateway.statistics().deliveries == 3

        running.gateway.stop()
        with pytest.raises(Closed, match="1012"):
            await client.receive_text()


async def test_who_has_no_token_is_refused(settings: Settings) -> None:
    async with open_gateway(settings, bootstrap=bootstrap) as running:
        with pytest.raises(Rejected, match="401"):
            await running.connect()


async def test_the_program_runs_until_it_is_cancelled(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    with trio.move_on_after(3) as scope:
        await main(Settings(bind=("127.0.0.1:0",), trigger_bind=""))
    assert scope.cancelled_caught
    assert capsys.readouterr().out.startswith("listening on ws://127.0.0.1:")
