"""`trio-templar listen`: what it prints, when it comes back, and why it leaves; under virtual time."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, TextMessage

from tests.unit.conftest import CAR, RIDE, parts, quiet, settled
from trio_templar import Close, Refused
from trio_templar.client import Rejected, WebsocketClient
from trio_templar.commands.addresses import Address
from trio_templar.commands.command import CommandError, ExitStatus
from trio_templar.commands.connecting import Ended, _rejection, connect
from trio_templar.commands.listen import _headers, _with_token, position
from trio_templar.commands.printer import Printer
from trio_templar.commands.subscriber import GOODBYE_SECONDS, Subscriber
from trio_templar.core.rooms import Room
from trio_templar.testing import FakeBackend, MemoryGateway, MemoryListener, open_gateway


@dataclass
class Terminal:
    """What a subscriber writes: lines of standard output, and of standard error."""

    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def subscriber(self, running: MemoryGateway, *rooms: Room, **options: Any) -> Subscriber:
        """A subscriber of `running` that is always unlucky with its pauses."""
        printer = Printer(
            self.lines.append,
            self.notes.append,
            as_json=options.get("as_json", False),
            count=options.get("count"),
            shows_positions="since" in options,
        )

        async def connect() -> WebsocketClient:
            try:
                return await running.connect()
            except Rejected as rejected:
                raise _rejection(rejected) from rejected

        reconnect = options.get("reconnect", False)
        since = options.get("since", msgspec.UNSET)
        return Subscriber(connect, printer, rooms, name="ws", reconnect=reconnect, since=since, chance=lambda: 1.0)


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@asynccontextmanager
async def listening(subscriber: Subscriber, seconds: float | None = None) -> AsyncIterator[list[int]]:
    """Run a subscriber beside the test; the exit status is there when it is over."""
    status: list[int] = []

    async def listen() -> None:
        status.append(await subscriber.listen(seconds))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await settled()
        yield status
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("dialect", ["2", "3"])
async def test_of_one_room_the_data_is_printed_as_it_was_sent(
    dialect: str, terminal: Terminal, autojump_clock: MockClock
) -> None:
    async with open_gateway(quiet(dialect=dialect), backend=FakeBackend([CAR])) as running:
        async with listening(terminal.subscriber(running, CAR)):
            assert terminal.notes == ['ws: listening to {"target": "car"}']
            await running.gateway.publish([CAR], {"name": "Käfer"})
            await running.gateway.publish([CAR], None)
            await settled()
            assert terminal.lines == ['{"name":"Käfer"}', "null"]


async def test_of_several_rooms_the_room_comes_first(terminal: Terminal, autojump_clock: MockClock) -> None:
    async with open_gateway(backend=FakeBackend([CAR, RIDE])) as running:
        async with listening(terminal.subscriber(running, CAR, RIDE)):
            await running.gateway.publish([RIDE, CAR], 1)
            await settled()
            assert terminal.lines == ['{"target": "ride"} 1', '{"target": "car"} 1']


async def test_without_rooms_it_listens_to_all_that_are_no_pattern(
    terminal: Terminal, autojump_clock: MockClock
) -> None:
    backend = FakeBackend([CAR, {"target": "user", "user": "*"}, RIDE])
    async with open_gateway(backend=backend) as running:
        async with listening(terminal.subscriber(running)):
            assert running.gateway.statistics().subscriptions == 2
        backend.allowed_rooms = [{"a": "*"}]
        with pytest.raises(CommandError, match=r"which ROOM\? Allowed: {\"a\": \"\*\"}$") as caught:
            await terminal.subscriber(running).listen(None)
        assert caught.value.status == ExitStatus.USAGE


async def test_json_is_an_object_a_line(terminal: Terminal, autojump_clock: MockClock) -> None:
    async with open_gateway(backend=FakeBackend([CAR])) as running:
        async with listening(terminal.subscriber(running, CAR, as_json=True)):
            await running.gateway.publish([CAR], [1.5])
            await settled()
            line = json.loads(terminal.lines[0])
            assert list(line) == ["time", "room", "data"]
            assert (line["room"], line["data"]) == (CAR, [1.5])
            assert line["time"].endswith("Z")


async def test_the_allowed_rooms_can_be_shown(terminal: Terminal, autojump_clock: MockClock) -> None:
    async with open_gateway(backend=FakeBackend([CAR, RIDE])) as running:
        assert await terminal.subscriber(running).show_rooms() == ExitStatus.DONE
        assert terminal.lines == ['{"target": "car"}', '{"target": "ride"}']


async def test_it_leaves_after_so_many_publications(terminal: Terminal, autojump_clock: MockClock) -> None:
    async with open_gateway(backend=FakeBackend([CAR])) as running:
        async with listening(terminal.subscriber(running, CAR, count=2)) as status:
            for number in range(3):
                await running.gateway.publish([CAR], number)
            await settled()
            assert (terminal.lines, status) == (["0", "1"], [ExitStatus.DONE])


@pytest.mark.parametrize(("count", "status"), [(None, ExitStatus.DONE), (2, ExitStatus.FAILED)])
async def test_it_leaves_after_so_long_and_says_what_is_missing(
    count: int | None, status: ExitStatus, terminal: Terminal, autojump_clock: MockClock
) -> None:
    async with open_gateway(backend=FakeBackend([CAR])) as running:
        start = trio.current_time()
        async with listening(terminal.subscriber(running, CAR, count=count), seconds=100) as statuses:
            await running.gateway.publish([CAR], 1)
            await trio.sleep(100)
            await settled()
        assert statuses == [status]
        assert trio.current_time() - start == 100
        assert ("ws: only 1 of 2 publications came within 100 s" in terminal.notes) == (count == 2)


async def test_a_room_that_is_not_allowed_is_named(terminal: Terminal, autojump_clock: MockClock) -> None:
    async with open_gateway(backend=FakeBackend([CAR])) as running:
        with pytest.raises(CommandError, match=r'^ws: room-not-found: {"target": "ride"}$') as caught:
            await terminal.subscriber(running, CAR, RIDE, reconnect=True).listen(None)
        assert caught.value.status == ExitStatus.REFUSED


@pytest.mark.parametrize("dialect", ["2", "3"])
async def test_who_is_not_admitted_does_not_come_back(
    dialect: str, terminal: Terminal, autojump_clock: MockClock
) -> None:
    backend = FakeBackend()
    backend.error = Refused(401)
    async with open_gateway(quiet(dialect=dialect), backend=backend) as running:
        with pytest.raises(CommandError, match="not authorized") as caught:
            await terminal.subscriber(running, CAR, reconnect=True).listen(None)
        assert caught.value.status == ExitStatus.REFUSED
        assert len(backend.requests) == 1


async def test_the_end_of_the_connection_is_said_with_its_code(terminal: Terminal, autojump_clock: MockClock) -> None:
    async with open_gateway(backend=FakeBackend([CAR])) as running:
        error = await error_after(terminal.subscriber(running, CAR), running, Close(1013, "too slow"))
        assert (str(error), error.status) == ("ws: closed with 1013: too slow", ExitStatus.ENDED)


async def error_after(subscriber: Subscriber, running: MemoryGateway, close: Close) -> CommandError:
    """Close everybody while `subscriber` listens, and return what it raises."""
    errors: list[CommandError] = []

    async def listen() -> None:
        try:
            await subscriber.listen(None)
        except CommandError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await settled()
        close_all(running, close)
    return errors[0]


def close_all(running: MemoryGateway, close: Close) -> None:
    for connection in list(parts(running).clients.connections):
        connection.outbox.close(close)


async def test_it_comes_back_after_growing_pauses_and_subscribes_again(
    terminal: Terminal, autojump_clock: MockClock
) -> None:
    backend = FakeBackend([CAR])
    async with open_gateway(backend=backend) as running:
        async with listening(terminal.subscriber(running, CAR, reconnect=True)):
            backend.error = RuntimeError("away")  # 503
            close_all(running, Close(1012, "the gateway is stopping"))
            await trio.sleep(0.5 + 1 + 2)
            backend.error = None
            await trio.sleep(4)
            assert [note.rpartition("; again in ")[2] for note in terminal.notes[1:-1]] == ["1.0 s", "2.0 s", "4.0 s"]
            assert terminal.notes[1].startswith("ws: closed with 1012: the gateway is stopping; ")
            assert "503" in terminal.notes[2]
            await running.gateway.publish([CAR], "here again")
            await settled()
            assert terminal.lines == ['"here again"']
            close_all(running, Close(1012, "again"))
            await settled()
            assert terminal.notes[-1] == "ws: closed with 1012: again; again in 1.0 s"


async def test_who_comes_back_to_a_room_of_which_nothing_is_kept_is_told_to_fetch(
    terminal: Terminal, autojump_clock: MockClock
) -> None:
    policy = {"match": CAR, "history": False}
    async with open_gateway(quiet(room_policy=[policy]), backend=FakeBackend([CAR, RIDE])) as running:
        async with listening(terminal.subscriber(running, CAR, RIDE, reconnect=True)):
            close_all(running, Close(1012, "again"))
            await settled()
            await running.gateway.publish([CAR], "nobody will ever say this again")
            await trio.sleep(2)
    missed = [note for note in terminal.notes if "missed" in note]
    assert missed == ['publications of {"target": "car"} were missed and cannot be recovered: fetch']


@pytest.mark.parametrize("dialect", ["2", "3"])
@pytest.mark.parametrize("given", [(), (CAR, RIDE)], ids=["allowed", "given"])
async def test_who_comes_back_gets_what_it_missed_of_each_room(
    given: tuple[Room, ...], dialect: str, terminal: Terminal, autojump_clock: MockClock
) -> None:
    backend = FakeBackend([CAR, RIDE])
    async with open_gateway(quiet(dialect=dialect), backend=backend) as running:
        async with listening(terminal.subscriber(running, *given, reconnect=True)):
            await running.gateway.publish([CAR], "heard")
            await settled()
            close_all(running, Close(1012, "again"))
            await settled()
            for number in range(3):
                await running.gateway.publish([CAR, RIDE], number)
            backend.allowed_rooms.reverse()  # an API may answer in another order
            await trio.sleep(2)
            await running.gateway.publish([CAR, RIDE], 3)
            await settled()
    assert [line for line in terminal.lines if "car" in line] == [
        '{"target": "car"} "heard"',
        *(f'{{"target": "car"}} {number}' for number in range(4)),
    ]
    assert [line for line in terminal.lines if "ride" in line] == [f'{{"target": "ride"}} {n}' for n in range(4)]
    assert not any("missed" in note for note in terminal.notes)


async def test_one_who_cannot_get_what_it_missed_is_told_to_fetch(
    terminal: Terminal, autojump_clock: MockClock
) -> None:
    async with open_gateway(quiet(history_seconds=10), backend=FakeBackend([CAR])) as running:
        async with listening(terminal.subscriber(running, CAR, reconnect=True)):
            close_all(running, Close(1012, "again"))
            await settled()
            await running.gateway.publish([CAR], "missed")
            running.backend.error = RuntimeError("away for long")
            await trio.sleep(60)
            running.backend.error = None
            await trio.sleep(60)
    assert terminal.lines == []
    words = 'publications of {"target": "car"} were missed and cannot be recovered: fetch'
    assert [note for note in terminal.notes if "missed" in note] == [words]


async def test_positions_are_shown_where_they_are_asked_for(terminal: Terminal, autojump_clock: MockClock) -> None:
    async with open_gateway(backend=FakeBackend([CAR, RIDE])) as running:
        async with listening(terminal.subscriber(running, CAR, since=None)):
            await running.gateway.publish([CAR], 1)
            await running.gateway.publish([CAR], 2)
            await settled()
        start = terminal.notes[0].removeprefix('ws: listening to {"target": "car"} from ')
        first, second = [line.split(" ") for line in terminal.lines]
        assert (first[1], second[1]) == ("1", "2")

        async with listening(terminal.subscriber(running, CAR, RIDE, since=first[0])):
            assert terminal.lines[2:] == [f'{second[0]} {{"target": "car"}} 2']
        async with listening(terminal.subscriber(running, CAR, since=start, as_json=True)):
            lines = [json.loads(line) for line in terminal.lines[3:]]
        assert [list(line) for line in lines] == [["time", "room", "at", "data"]] * 2
        assert [(line["at"], line["data"]) for line in lines] == [(first[0], 1), (second[0], 2)]
        assert not any("missed" in note for note in terminal.notes)


@pytest.mark.parametrize("reply", ['{"code": "success"}', '{"code": "success", "at": "e.2", "recovered": false}'])
async def test_a_position_that_is_of_no_use_is_said_so(
    reply: str, terminal: Terminal, autojump_clock: MockClock
) -> None:
    await error_at(terminal, '{"allowed_rooms": []}', reply, CloseConnection(1012, "over"), since="e.1")
    assert terminal.notes[0] == 'publications of {"target": "car"} were missed and cannot be recovered: fetch'
    await error_at(terminal, '{"allowed_rooms": []}', reply, CloseConnection(1012, "over"), since="e.1", as_json=True)
    (line,) = map(json.loads, terminal.lines)
    del line["time"]
    assert line == {"room": CAR, "lost": None} | ({"at": "e.2"} if "at" in reply else {})


async def test_a_gap_without_a_number_is_said_to_need_a_fetch(terminal: Terminal, autojump_clock: MockClock) -> None:
    gap = '{"type": "gap", "requestId": 1, "lost": null, "at": "e.2"}'
    await error_at(terminal, '{"allowed_rooms": []}', '{"code": "success"}', gap, CloseConnection(1012), since=None)
    assert terminal.notes[1:] == ['publications of {"target": "car"} were missed and cannot be recovered: fetch']


def test_a_room_is_no_position() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="put --since behind the rooms"):
        position('{"target": "car"}')
    assert position("e.1") == "e.1"


async def test_pauses_do_not_grow_without_end(terminal: Terminal, autojump_clock: MockClock) -> None:
    async with open_gateway() as running:
        pauses = terminal.subscriber(running)._pauses()
        assert [next(pauses) for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_close_that_is_meant_for_this_client_is_final(terminal: Terminal, autojump_clock: MockClock) -> None:
    async with open_gateway(backend=FakeBackend([CAR])) as running:
        error = await error_after(terminal.subscriber(running, CAR, reconnect=True), running, Close(4001, "out"))
        assert str(error) == "ws: closed with 4001: out"


async def test_a_quiet_client_is_not_idle_and_hears_of_a_gateway_that_is_gone(
    terminal: Terminal, autojump_clock: MockClock
) -> None:
    async with open_gateway(quiet(idle_seconds=45), backend=FakeBackend([CAR])) as running:
        assert await terminal.subscriber(running, CAR).listen(300) == ExitStatus.DONE


async def test_one_who_slept_hears_of_the_close_behind_a_ping(terminal: Terminal, autojump_clock: MockClock) -> None:
    together = Ping(), CloseConnection(1011, "no sign of life")
    error = await error_at(terminal, '{"allowed_rooms": []}', '{"requestId": 1, "code": "success"}', *together)
    assert (str(error), error.status) == ("ws: closed with 1011: no sign of life", ExitStatus.ENDED)


@pytest.mark.parametrize("end", ["count", "seconds", "refused", "no room", "shown", "cancelled", "broken pipe"])
async def test_it_says_goodbye_at_each_of_its_ends(
    end: str, terminal: Terminal, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_templar")
    async with open_gateway(backend=FakeBackend([] if end == "no room" else [CAR])) as running:
        subscriber = terminal.subscriber(
            running, *([RIDE] if end == "refused" else []), count=1 if end == "count" else None
        )
        if end == "broken pipe":
            subscriber._printer.write = broken_pipe

        async def listen() -> None:
            with suppress(CommandError, BrokenPipeError):
                await (
                    subscriber.show_rooms() if end == "shown" else subscriber.listen(5 if end == "seconds" else None)
                )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await settled()
            await running.gateway.publish([CAR], 1)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        await settled()
    assert [getattr(record, "fields", {})["code"] for record in caplog.records if record.getMessage() == "close"] == [
        1000
    ]


def broken_pipe(_: str) -> None:
    raise BrokenPipeError


async def test_the_answer_to_a_goodbye_is_not_waited_for_long(terminal: Terminal, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    error = await error_at(terminal, '{"allowed_rooms": []}', '{"requestId": 1, "code": "room-not-found"}')
    assert error.status == ExitStatus.REFUSED
    assert trio.current_time() - start == GOODBYE_SECONDS


async def error_at(
    terminal: Terminal,
    *says: str | Event,
    reads: int | None = None,
    since: str | msgspec.UnsetType | None = msgspec.UNSET,
    as_json: bool = False,
) -> CommandError:
    """Listen to a gateway that says so much and then nothing, whatever it is asked; return how that ends.

    With `reads` nothing is on its way: it takes so many messages, and the next one waits to be sent.
    """
    listener = MemoryListener()

    async def connect() -> WebsocketClient:
        pair = memory_stream_pair if reads is None else lockstep_stream_pair
        client = WebsocketClient(listener.connect(pair))
        await client.open()
        return client

    async def serve() -> None:
        stream, server = await listener.accept(), WSConnection(ConnectionType.SERVER)
        server.receive_data(bytes(await stream.receive_some()))
        await stream.send_all(server.send(AcceptConnection()))
        for number, said in enumerate(says):
            await stream.send_all(server.send(TextMessage(said) if isinstance(said, str) else said))
            if number < (reads or 0):
                await stream.receive_some()

    shows = since is not msgspec.UNSET
    printer = Printer(terminal.lines.append, terminal.notes.append, as_json=as_json, count=None, shows_positions=shows)
    errors: list[CommandError] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            await Subscriber(connect, printer, [CAR], name="ws", reconnect=False, since=since).listen(None)
        except CommandError as error:
            errors.append(error)
    return errors[0]


async def test_a_gateway_that_says_nothing_any_more_is_given_up(terminal: Terminal, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    error = await error_at(terminal, '{"allowed_rooms": []}', '{"requestId": 1, "code": "success"}')
    assert (str(error), error.status) == ("ws: silent for 60 s", ExitStatus.ENDED)
    assert trio.current_time() - start == 60 + GOODBYE_SECONDS


@pytest.mark.parametrize(("reads", "seconds"), [(0, 30), (1, 60)], ids=["subscribe", "ping"])
async def test_a_gateway_that_takes_nothing_any_more_is_given_up(
    reads: int, seconds: float, terminal: Terminal, autojump_clock: MockClock
) -> None:
    start = trio.current_time()
    with trio.move_on_after(1000):
        says = ['{"allowed_rooms": []}', '{"requestId": 1, "code": "success"}']
        error = await error_at(terminal, *says[: reads + 1], reads=reads)
        assert (str(error), error.status) == ("ws: it has read nothing for 30 s", ExitStatus.ENDED)
    assert trio.current_time() - start == seconds  # no goodbye behind half a message


async def test_gaps_and_the_end_of_a_subscription_are_said(terminal: Terminal, autojump_clock: MockClock) -> None:
    error = await error_at(
        terminal,
        '{"allowed_rooms": []}',
        '{"requestId": 1, "code": "success"}',
        '{"type": "gap", "requestId": 1, "lost": 3}',
        '{"type": "unsubscribed", "requestId": 1, "reason": "moved"}',
    )
    assert (str(error), error.status) == ("ws: the gateway ended the last subscription", ExitStatus.ENDED)
    assert terminal.notes[1:] == [
        'lost 3 publications of {"target": "car"}: too slow for them',
        'ws: no longer in {"target": "car"}: moved',
    ]


@pytest.mark.parametrize("text", ["hello", "[1]", '{"allowed_rooms": 1}'])
async def test_what_is_no_gateway_is_said_to_be_none(text: str, terminal: Terminal, autojump_clock: MockClock) -> None:
    error = await error_at(terminal, text)
    assert error.status == ExitStatus.FAILED
    assert repr(text) in str(error)


async def test_a_way_that_leads_nowhere_is_ended_and_says_why() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    with pytest.raises(Ended, match=r"no answer within 0\.1 s"):
        await connect(Address(f"ws://127.0.0.1:{port}/ws/"), [], "", 0.1)
    await listener.aclose()
    with pytest.raises(Ended, match=r"Connection refused$"):
        await connect(Address(f"ws://127.0.0.1:{port}/ws/"), [], "", 10)


async def test_a_name_that_can_be_none_is_a_way_that_leads_nowhere() -> None:
    with pytest.raises(Ended, match=r"^cannot reach it: "):
        await connect(Address(f"ws://{'a' * 64}.invalid/ws/"), [], "", 10)


def test_a_token_goes_into_the_query_and_cookies_into_one_header() -> None:
    options: dict[str, Any] = {"token": "a b&c", "token_file": None, "cookie": ["a=1", "b=2"], "header": ["X-A: b:c"]}
    assert _with_token(Address("ws://x/ws/"), options).url == "ws://x/ws/?token=a%20b%26c"
    assert _with_token(Address("ws://x/?a=b"), options).url == "ws://x/?a=b&token=a%20b%26c"
    assert _headers(options) == [("Cookie", "a=1; b=2"), ("X-A", "b:c")]


@pytest.mark.parametrize("text", ["nonsense", ":x", "a b:c", "a:b\nc", "a:é", "Host: x", "Sec-WebSocket-Key: x"])
def test_a_bad_header_is_a_usage_error(text: str) -> None:
    with pytest.raises(CommandError, match="--header") as caught:
        _headers({"cookie": None, "header": [text]})
    assert caught.value.status == ExitStatus.USAGE


@pytest.mark.parametrize("text", ["Authorization Bearer s3cret", "Cookie=a=s3cret", "a b:s3cret"])
def test_a_bad_header_is_shown_without_its_value(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        _headers({"cookie": None, "header": [text]})
    assert "s3cret" not in str(caught.value)
