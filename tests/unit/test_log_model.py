"""Nobody is lied to, whatever happens; and a model that finds nothing would find each of these faults."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio

from tests.unit import log_model
from trio_templar.clients.connection import Connection
from trio_templar.core.frames import text_frame
from trio_templar.core.history import History
from trio_templar.core.hub import Subscription
from trio_templar.core.position import Positions
from trio_templar.core.recovery import Recovery
from trio_templar.core.triggers import Trigger
from trio_templar.delivery.backlog import Backlog, Queue
from trio_templar.delivery.fanout import Fanout, RoomChannel
from trio_templar.delivery.follower import Follower

SCHEDULES = 2000
# Within so many schedules each fault is found; most are within ten.
ENOUGH = 1500


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No log of slow clients: there are thousands, and each line takes longer than the step that made it."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("part", range(4))
def test_nobody_is_lied_to(part: int) -> None:
    count = log_model.run(range(part * SCHEDULES // 4, (part + 1) * SCHEDULES // 4))
    # What a schedule that always tells everybody to fetch would not show.
    assert count["recovered"] > count["unknown"] / 2
    wanted = ("replayed", "too large", "holes", "gaps with a number", "full", "busy", *log_model.DISTURBANCES)
    assert [name for name in wanted if count[name] < 20] == [], dict(count)


def test_a_schedule_can_be_played_again() -> None:
    assert log_model.run(range(10)) == log_model.run(range(10))


Patch = pytest.MonkeyPatch


def offered_is_set_after_the_pass(patch: Patch) -> None:
    take, make_pass = RoomChannel.take, Fanout._pass

    def late_take(channel: RoomChannel) -> Any:
        before = channel.offered
        batch = take(channel)
        channel.offered = before
        return batch

    async def late_pass(fanout: Fanout, room: Any, batch: Any, left: int) -> int:
        left = await make_pass(fanout, room, batch, left)
        room.channel.offered = batch.publications[-1].position
        return left

    patch.setattr(RoomChannel, "take", late_take)
    patch.setattr(Fanout, "_pass", late_pass)


def the_floor_is_not_raised(patch: Patch) -> None:
    restart = History.restart

    def lenient(history: History, to: int | None = None) -> None:
        floor = history.floor
        restart(history, to)
        history.floor = history._map_floor = floor

    patch.setattr(History, "restart", lenient)


def a_new_channel_has_offered_nothing(patch: Patch) -> None:
    make = RoomChannel.__init__
    patch.setattr(RoomChannel, "__init__", lambda channel, *_: make(channel, 0))


def what_is_forgotten_is_not_remembered(patch: Patch) -> None:
    patch.setattr(History, "_remember", lambda *_: None)


def what_falls_out_of_the_map_is_not_remembered(patch: Patch) -> None:
    bound = History._bound_forgotten

    def lenient(history: History) -> None:
        floor = history._map_floor
        bound(history)
        history._map_floor = floor

    patch.setattr(History, "_bound_forgotten", lenient)


def after_is_ignored(patch: Patch) -> None:
    patch.setattr(Subscription, "after", property(lambda *_: 0, lambda *_: None))


def a_position_is_told_that_is_below_the_floor(patch: Patch) -> None:
    def begin(recovery: Recovery, subscription: Subscription, since: Any) -> Any:
        answer = known(recovery, subscription, since)
        if answer.at is not None and answer.recovered is not True:
            assert subscription.room is not None
            subscription.after = recovery.offered(subscription.room)
            answer = answer._replace(at=recovery.history.positions.token(subscription.after))
        return answer

    known = Recovery.begin
    patch.setattr(Recovery, "begin", begin)


def again_it_is_told_what_waits(patch: Patch) -> None:
    patch.setattr(Backlog, "first_waiting", lambda *_: None)


def again_it_is_told_what_was_lost(patch: Patch) -> None:
    def first_waiting(backlog: Backlog, subscription: Subscription) -> int | None:
        queue = backlog._queues.get(subscription)
        head = backlog._head(queue) if queue is not None else None
        return None if head is None or head.batch is None else head.batch.position

    patch.setattr(Backlog, "first_waiting", first_waiting)


def the_replay_is_put_later(patch: Patch) -> None:
    async def put_later(put: Callable[[], None]) -> None:
        await trio.lowlevel.checkpoint()
        put()

    def hear(connection: Connection, message: str) -> None:
        if connection.session is None or not connection.outbox.closing.open:
            return
        reply = connection.session.receive(message)
        connection.outbox.reply(text_frame(reply.text.encode()))
        if reply.replay is not None:
            trio.lowlevel.spawn_system_task(put_later, partial(connection.outbox.put, *reply.replay))

    patch.setattr(Connection, "_hear", hear)


def a_hole_is_not_told(patch: Patch) -> None:
    patch.setattr(Follower, "tell_hole", lambda *_: None)


def what_waits_is_sent_behind_a_hole(patch: Patch) -> None:
    patch.setattr("trio_templar.delivery.outbox.Outbox.void", lambda *_: None)


def what_is_read_twice_is_taken_twice(patch: Patch) -> None:
    def read(follower: Follower, entries: list[Trigger]) -> None:
        for entry in entries:
            follower.take([entry])

    patch.setattr(Follower, "read", read)


def a_position_of_another_epoch_is_read(patch: Patch) -> None:
    def read(positions: Positions, token: str) -> int | None:
        position = int(token.split(".")[1], 16)
        return position if position <= positions.last else None

    patch.setattr(Positions, "read", read)


def a_loss_is_not_told(patch: Patch) -> None:
    patch.setattr(Queue, "lose", lambda *_: None)


def memory_is_not_given_back(patch: Patch) -> None:
    patch.setattr(Backlog, "void", lambda backlog, subscription: backlog._queues.pop(subscription, None))


@pytest.mark.parametrize(
    "fault",
    [
        offered_is_set_after_the_pass,
        the_floor_is_not_raised,
        a_new_channel_has_offered_nothing,
        what_is_forgotten_is_not_remembered,
        what_falls_out_of_the_map_is_not_remembered,
        after_is_ignored,
        a_position_is_told_that_is_below_the_floor,
        again_it_is_told_what_waits,
        again_it_is_told_what_was_lost,
        the_replay_is_put_later,
        a_hole_is_not_told,
        what_waits_is_sent_behind_a_hole,
        what_is_read_twice_is_taken_twice,
        a_position_of_another_epoch_is_read,
        a_loss_is_not_told,
        memory_is_not_given_back,
    ],
)
def test_the_model_finds(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)
    with pytest.RaisesGroup(log_model.Lie, flatten_subgroups=True):
        log_model.run(range(ENOUGH))
