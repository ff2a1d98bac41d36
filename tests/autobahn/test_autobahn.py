"""The original Autobahn cases against our handshake, connection and outbox, with a session that echoes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import kosoku
import pytest
import trio

from trio_templar import ClientRequest, Settings
from trio_templar.clients import connection
from trio_templar.clients.admission import Admission
from trio_templar.clients.bootstrap import BootstrapLimiter
from trio_templar.clients.connection import Context
from trio_templar.clock import Clock
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.frames import header, text_frame
from trio_templar.core.hub import Hub
from trio_templar.core.session import Rules
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.budget import Budget
from trio_templar.net.listeners import open_listeners, url_of
from trio_templar.net.sockets import accept_loop

BINARY = 0x82
# Compression, which we do not offer.
EXCLUDED = ["12.*", "13.*"]
# Two messages of the largest case; some cases send 16 MiB.
LARGEST_BYTES = 34_000_000


class EchoConnection(connection.Connection):
    """A connection as it is, but for what is said: nothing at first, then whatever the client says."""

    __slots__ = ()

    def _welcome(self) -> None:
        handshake, end, _ = self._opening.partition(b"\r\n\r\n")
        self.outbox.reply(handshake + end)

    def _hear(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.outbox.reply(text_frame(message.encode()))
        else:
            self.outbox.reply(header(BINARY, len(message)) + message)


async def let_everybody_in(_: ClientRequest) -> Mapping[str, Any]:
    await trio.lowlevel.checkpoint()
    return {"allowed_rooms": []}


@pytest.mark.parametrize(
    ("cases", "count"),
    [(["1.*", "2.*", "3.*", "4.*", "5.*", "7.*", "10.*"], 102), (["6.*"], 145), (["9.*"], 54)],
    ids=["framing", "UTF-8", "limits"],
)
async def test_all_cases_without_compression_pass(
    cases: list[str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "Connection", EchoConnection)
    settings = Settings(max_message_bytes=LARGEST_BYTES, outbox_bytes=LARGEST_BYTES)
    clock = Clock()
    admission = Admission(settings, BootstrapLimiter(let_everybody_in, settings), refuses_by_message=False)
    context = Context(
        rules=Rules(DIALECTS["2"], Hub(), max_subscriptions=1, max_room_bytes=100, max_request_id_bytes=100),
        backlogs=Backlogs(settings.outbox_bytes, settings.outbox_frames, Budget(2**30), clock.now),
        connections=set(),
        hooks=None,
        clock=clock,
        max_message_bytes=settings.max_message_bytes,
        messages_per_second=10**6,
        messages_burst=10**6,
        goodbye_seconds=settings.goodbye_seconds,
    )
    [listener] = await open_listeners("127.0.0.1:0")
    url = url_of(listener, "ws", settings.path)

    def run() -> list[Any]:
        return asyncio.run(kosoku.run_fuzzingclient(url, cases, EXCLUDED, concurrency=4))

    async with trio.open_nursery() as clients, trio.open_nursery() as accepting:
        accepting.start_soon(accept_loop, listener, partial(connection.serve_client, admission, context), clients)
        results = await trio.to_thread.run_sync(run)
        accepting.cancel_scope.cancel()

    assert len(results) == count
    assert [result.case_id for result in results if not result.passed] == []
    assert context.connections == set()
    assert (context.backlogs.bytes, context.backlogs.outboxes) == (0, set())
