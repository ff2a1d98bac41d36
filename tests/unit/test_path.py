"""The path of a message: what a newcomer reads to know how data gets from a trigger to a socket."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from trio_templar.clients.connection import Connection
from trio_templar.delivery.bus import LocalBus
from trio_templar.delivery.fanout import Fanout
from trio_templar.delivery.follower import Follower
from trio_templar.delivery.outbox import Outbox
from trio_templar.http.triggers import TriggerApi

# In reading order; each of the seven steps calls, or wakes, the next one.
PATH: list[tuple[Callable[..., Any], ...]] = [
    (TriggerApi.trigger, TriggerApi._publish_body),
    (LocalBus.append, LocalBus.append_nowait),
    (Follower.take,),
    (Fanout.hand_on, Fanout._enqueue),
    (Fanout._fanout_loop, Fanout._pass, Fanout._deliver),
    (Outbox.put, Outbox._write, Outbox._begin_backlog),
    (Connection._write_loop,),
]


def test_each_step_leads_to_the_next() -> None:
    leads = ["append(", ".take(", "hand_on(", "_fanout_loop", "receiver.put(", "start_writing("]
    for step, lead in zip(PATH, leads, strict=False):
        assert any(lead in inspect.getsource(function) for function in step), lead
