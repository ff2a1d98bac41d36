"""Recovery through real processes: what a client missed comes back in order and once, or it is told to fetch."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import trio
from websockets.sync.client import ClientConnection

from tests.e2e.api import Api
from tests.e2e.clients import CAR, closing, connect, head, raw_subscriber, receive, request, subscribe, trigger
from tests.e2e.processes import NEVER_LATE, SLOWNESS, GatewayProcess, Process, eventually, gateway
from tests.e2e.returning import PAD, Client, Publisher, Storm
from tests.e2e.test_restart import Holder

HOT, DROPS, CONFLATES, QUIET, ELSEWHERE = ({"target": "car", "car": number} for number in range(5))
# Two rooms that may lose something. In the first as much may wait as comes in two seconds.
POLICIES = [
    {"match": DROPS, "policy": "drop_oldest", "outbox_bytes": 300_000},
    {"match": CONFLATES, "policy": "conflate"},
]
CLIENTS = 40
RETURNS = 1000
RATE = 100
DRAIN = f"--drain-seconds={2 * SLOWNESS}"


def subscribed(process: GatewayProcess, room: Any, since: str | None) -> dict[str, Any]:
    """Return what a client that comes with `since` is answered."""
    with returning(process.websocket_url, room, since) as (_, reply):
        return reply


@pytest.fixture
def seed() -> int:
    """A new one each time; a test that fails shows its fixtures."""
    return random.randrange(1 << 32)


def test_a_thousand_cuts_lose_nothing_and_bring_nothing_twice(api: Api, seed: int) -> None:
    """At default settings, 100 publications/s of 200 bytes, clients away for up to a second.

    The quiet room got its one publication before all this, and that is forgotten: it was pushed out of the history. For
    a client that comes back there it makes no difference how long ago that was: of a room that is quiet nothing but
    the position of the last publication that was forgotten is known, after ten seconds as after ten minutes.
    """
    with gateway(f"--api-url={api.url}", *[f"--room-policy={json.dumps(policy)}" for policy in POLICIES]) as process:
        storm = Storm(process.address, head(process), seed)
        for number in range(CLIENTS):
            # One in eight reads nothing at times, for as long as policies need to leave something out.
            if number % 8:
                Client(storm, [QUIET, HOT], most=60_000)
            else:
                Client(storm, [QUIET, HOT, DROPS, CONFLATES], most=600_000, hold_for=500)
        trio.run(weather, storm, process)
    assert storm.total("cuts") >= RETURNS
    assert storm.total("torn") > RETURNS / 10
    for room in (QUIET, HOT):
        assert storm.sum_of(room, "returns") >= RETURNS
        assert storm.sum_of(room, "recovered") >= 0.999 * storm.sum_of(room, "returns")
    for heard in storm.heard(QUIET):
        assert heard.numbers == [0, 1]
    for heard in storm.heard(HOT):  # in order and once, or it was told to fetch: `Heard` has seen to that
        assert heard.numbers == storm.published or heard.recovered < heard.returns
    for room in (DROPS, CONFLATES):
        assert storm.sum_of(room, "recovered") > 0
        assert all(heard.lost > 0 and heard.numbers[-1] == storm.published[-1] for heard in storm.heard(room))


async def weather(storm: Storm, process: GatewayProcess) -> None:
    """Publish while clients are cut off, until enough have come back; then to the last number, which all get."""
    stream = await trio.open_tcp_stream(*http_address(process))
    with trio.fail_after(90 * SLOWNESS):
        async with stream, trio.open_nursery() as nursery:
            publisher = Publisher(stream, storm.published)
            nursery.start_soon(publisher.read)
            for client in storm.clients:
                await nursery.start(client.proxy.serve)
                nursery.start_soon(client.run)
            for client in storm.clients:
                await client.joined.wait()
            await forget_quiet(publisher, process)
            start = trio.current_time()
            while not all(client.stays.is_set() for client in storm.clients):
                await publish_next(publisher)
                await trio.sleep_until(start + publisher.posted / RATE)
                if not storm.calm and all(storm.sum_of(room, "returns") >= RETURNS for room in (QUIET, HOT)):
                    storm.calm_at = publisher.posted
            await publisher.post(([QUIET], [1, PAD + "last"]))
            await publish_next(publisher, "last")
            await publisher.answered()
            for client in storm.clients:
                await client.done.wait()
            nursery.cancel_scope.cancel()


async def publish_next(publisher: Publisher, end: str = "") -> None:
    """Publish the next number, to the rooms that may lose something with more bytes."""
    number = publisher.posted
    await publisher.post(([HOT], [number, PAD + end]), ([DROPS, CONFLATES], [number, PAD * 8 + end]), number=number)


async def forget_quiet(publisher: Publisher, process: GatewayProcess) -> None:
    """Publish once to the quiet room, then elsewhere until that is forgotten."""
    before = (await trio.to_thread.run_sync(subscribed, process, QUIET, None))["at"]
    await publisher.post(([QUIET], [0, PAD]))
    await publisher.answered()
    while (await trio.to_thread.run_sync(subscribed, process, QUIET, before))["recovered"]:
        await publisher.post(*[([ELSEWHERE], "x" * 500_000)] * 10)
        await publisher.answered()


def http_address(process: GatewayProcess) -> tuple[str, int]:
    """The listener for publishers."""
    host, _, port = process.http_url.removeprefix("http://").rpartition(":")
    return host, int(port)


# A quiet room


def test_a_quiet_room_recovers_long_after_its_last_publication_was_forgotten(
    process_of_a_second: GatewayProcess,
) -> None:
    """The history reaches back one second, and a client of a room that is quiet is away for many.

    This stands for ten minutes at default settings: what is forgotten is forgotten, and nothing is known of the room
    but the position of the last of it. No clock is asked again.
    """
    process = process_of_a_second
    before = subscribed(process, QUIET, None)["at"]
    with returning(process.websocket_url, QUIET, None) as (client, _):
        trigger(process, "said", QUIET)
        at = json.loads(receive(client))["at"]
    for _ in range(4):  # each time what is published elsewhere is forgotten too
        start = subscribed(process, ELSEWHERE, None)["at"]
        trigger(process, "x", ELSEWHERE)
        eventually(lambda start=start: not subscribed(process, ELSEWHERE, start)["recovered"])  # type: ignore[misc]
        assert subscribed(process, QUIET, before)["recovered"] is False
        assert subscribed(process, QUIET, at) == {"requestId": 1, "code": "success", "at": at, "recovered": True}
    with returning(process.websocket_url, QUIET, at) as (client, reply):
        assert reply["recovered"] is True
        trigger(process, "after", QUIET)
        assert json.loads(receive(client))["data"] == "after"


@pytest.fixture
def process_of_a_second(api: Api) -> Iterator[GatewayProcess]:
    with gateway(f"--api-url={api.url}", "--history-seconds=1") as process:
        yield process


# A gateway that ends


def test_a_drain_tells_positions_before_1012_and_its_successor_that_they_prove_nothing(api: Api) -> None:
    with holding(api) as holder, ExitStack() as stack:
        running = stack.enter_context(run_ready(holder))
        clients = [stack.enter_context(returning(holder.websocket_url, HOT, None))[0] for _ in range(5)]
        stranger = stack.enter_context(plain(holder.websocket_url, HOT))
        publish(holder, HOT, "said")
        ats = [json.loads(receive(client))["at"] for client in clients]
        running.signal(signal.SIGTERM)
        positions = [json.loads(receive(client)) for client in clients]
        assert positions == [{"type": "position", "at": at} for at in ats]
        assert [closing(client) for client in clients] == [(1012, "the gateway is stopping")] * 5
        assert json.loads(receive(stranger)) == {"requestId": 1, "type": "publish", "data": "said"}
        assert closing(stranger) == (1012, "the gateway is stopping")
        assert running.wait() == 0
        stack.enter_context(run_ready(holder))
        for at in ats:
            told_to_fetch_once(holder, at)


def test_a_killed_gateway_tells_nothing_and_its_successor_that_positions_prove_nothing(api: Api) -> None:
    with holding(api) as holder, ExitStack() as stack:
        running = stack.enter_context(run_ready(holder))
        client, _ = stack.enter_context(returning(holder.websocket_url, HOT, None))
        publish(holder, HOT, "said")
        at = json.loads(receive(client))["at"]
        running.signal(signal.SIGKILL)
        assert closing(client) == (1006, "")
        assert running.wait() == -signal.SIGKILL
        stack.enter_context(run_ready(holder))
        told_to_fetch_once(holder, at)


def told_to_fetch_once(holder: Holder, at: str) -> None:
    """Come with a position of the gateway before: told so once, then everything comes, live and after a cut."""
    with returning(holder.websocket_url, HOT, at) as (client, reply):
        assert reply == {"requestId": 1, "code": "success", "at": reply["at"], "recovered": False}
        assert reply["at"].partition(".")[0] != at.partition(".")[0]
        publish(holder, HOT, "live")
        live = json.loads(receive(client))
        assert live == {"requestId": 1, "at": live["at"], "type": "publish", "data": "live"}
    publish(holder, HOT, "missed")
    with returning(holder.websocket_url, HOT, reply["at"]) as (client, again):
        assert again["recovered"] is True
        assert [json.loads(receive(client))["data"] for _ in range(2)] == ["live", "missed"]
    with returning(holder.websocket_url, HOT, live["at"]) as (client, again):
        assert again["recovered"] is True
        assert json.loads(receive(client))["data"] == "missed"


def test_without_history_it_answers_as_one_that_knows_of_none(api: Api) -> None:
    with gateway(f"--api-url={api.url}", "--history-seconds=0", DRAIN) as process, ExitStack() as stack:
        at = "0123456789ab.1a3185c5000"
        answers = []
        for since in ({}, {"since": None}, {"since": at}):
            client = stack.enter_context(connect(process.websocket_url))
            receive(client)
            client.send(json.dumps({"type": "subscribe", "requestId": 1, "room": HOT, **since}))
            answers.append(receive(client))
            trigger(process, "said", HOT)
            assert receive(client) == b'{"requestId": 1, "type": "publish", "data": "said"}'
        success = b'{"requestId": 1, "code": "success"}'
        assert answers == [success, success, success[:-1] + b', "recovered": false}']
        process.signal(signal.SIGTERM)
        assert closing(client) == (1012, "the gateway is stopping")


# Memory


def test_what_is_kept_gives_way_before_a_publisher_is_refused(api: Api) -> None:
    """With a mebibyte. As long as anything is kept nobody is refused, and who is refused finds that nothing is kept."""
    bounds = ["--memory-bytes=1048576", f"--trigger-wait-seconds={0.2 * SLOWNESS}"]
    with gateway(f"--api-url={api.url}", *bounds, *NEVER_LATE) as process, ExitStack() as stack:
        client, _ = stack.enter_context(returning(process.websocket_url, CAR, None))

        def publish_next() -> int:
            status = request(process.trigger_url, json.dumps({"rooms": [CAR], "data": "x" * 30_000}).encode())[0]
            assert status == 503 or len(json.loads(receive(client))["data"]) == 30_000
            return status

        assert {publish_next() for _ in range(50)} == {200}  # ten times what may be kept
        assert 0 < kept(process) < 50
        with ExitStack() as late:
            for _ in range(10):
                late.enter_context(raw_subscriber(process, receive_buffer=4096))
            while publish_next() == 200:
                pass
            assert kept(process) == 0
            assert process.log.matching(" slow | close ") == []
        eventually(lambda: publish_next() == 200 and kept(process))
        assert process.log.matching(" slow | close .*code=1013") == []


def kept(process: GatewayProcess) -> int:
    """How many publications are kept."""
    status, body, _ = request(f"{process.http_url}/status")
    assert status == 200
    found: int = json.loads(body)["history"]["publications"]
    return found


@contextmanager
def holding(api: Api) -> Iterator[Holder]:
    """Hold the sockets of a gateway while it is replaced."""
    holder = Holder(f"--api-url={api.url}", DRAIN)
    try:
        yield holder
    finally:
        holder.close()


@contextmanager
def run_ready(holder: Holder) -> Iterator[Process]:
    with holder.run() as process:
        process.log.wait("^trio-templar: ready on ")
        yield process


def publish(holder: Holder, room: Any, data: Any) -> None:
    body = json.dumps({"rooms": [room], "data": data}).encode()
    assert request(holder.trigger_url, body)[:2] == (200, b"publish success")


@contextmanager
def returning(url: str, room: Any, since: str | None) -> Iterator[tuple[ClientConnection, dict[str, Any]]]:
    """A client that came to `room` with `since`, and what it was answered."""
    with connect(url) as client:
        receive(client)
        client.send(json.dumps({"type": "subscribe", "requestId": 1, "room": room, "since": since}))
        yield client, json.loads(receive(client))


@contextmanager
def plain(url: str, room: Any) -> Iterator[ClientConnection]:
    """A client that knows of no positions."""
    with connect(url) as client:
        receive(client)
        assert json.loads(subscribe(client, 1, room)) == {"requestId": 1, "code": "success"}
        yield client
