"""One admitted client, from its 101 to its last byte."""

from __future__ import annotations

import functools
import logging
import sys
import uuid
from dataclasses import dataclass, field
from typing import Final

import trio
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection

from trio_templar.clients.admission import Admission, Admitted
from trio_templar.clients.handshake import switching_protocols
from trio_templar.clients.hooks import HookCaller, HookCalls
from trio_templar.clock import Clock
from trio_templar.core.answers import BootstrapAnswer
from trio_templar.core.dialects import Dialect, position, unsubscribed
from trio_templar.core.frames import close_frame, read_close, text_frame
from trio_templar.core.session import Bucket, Failure, Rules, Session
from trio_templar.counters import ConnectionCounts
from trio_templar.delivery.backlog import Backlogs
from trio_templar.delivery.closing import Event
from trio_templar.delivery.outbox import Outbox, Overdue
from trio_templar.errors import CRASHED, DROPPED, GONE, NOT_AUTHORIZED, TOO_MANY_MESSAGES, Close, let_go
from trio_templar.log import log, user_text
from trio_templar.net.protocol import Protocol
from trio_templar.net.sockets import hang_up, reset_on_close, transport_of
from trio_templar.net.wire import wire_for

logger = logging.getLogger("trio_templar.connection")

# How many of a slow client's rooms its log line has.
SHOWN_ROOMS: Final = 5
# How many refused messages of a client are logged, and how much of the room: a page may try again for ever.
LOGGED_FAILURES: Final = 3
LOGGED_ROOM_CHARACTERS: Final = 200
# Messages trio-websocket may read ahead; while its queue is full it answers no ping.
QUEUED_MESSAGES: Final = 4
# What is kept of a User-Agent, and how many of them are shared by all who send the same.
AGENT_BYTES: Final = 256
SHARED_AGENTS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What all connections of a gateway share. `connections` holds those that got their 101 and are not over."""

    rules: Rules
    backlogs: Backlogs
    connections: set[Connection]
    hooks: HookCaller | None
    clock: Clock
    max_message_bytes: int
    messages_per_second: float
    messages_burst: int
    goodbye_seconds: float
    counts: ConnectionCounts = field(default_factory=ConnectionCounts)


class Connection(trio.abc.Stream):
    """One client. For trio-websocket it is the stream: what the library writes passes through the outbox too.

    Only its owner closes the socket. `since` is of `trio.current_time`, the other times are of the gateway's clock.
    """

    __slots__ = (
        "_bucket",
        "_context",
        "_failures",
        "_goodbye_seconds",
        "_hook_calls",
        "_nursery",
        "_opening",
        "_pings",
        "_wire",
        "agent",
        "id",
        "last_heard",
        "last_message",
        "outbox",
        "peer",
        "pinged",
        "session",
        "since",
        "task",
        "user_id",
    )

    def __init__(self, context: Context, stream: trio.abc.Stream, admitted: Admitted) -> None:
        self._context = context
        self._wire = wire_for(stream)
        self._nursery: trio.Nursery | None = None
        self._hook_calls: HookCalls | None = None
        self._goodbye_seconds = context.goodbye_seconds
        self._failures = 0
        self.id = str(uuid.uuid4())
        self.peer = admitted.address
        self.agent = _shared((admitted.request.header(b"user-agent") or b"")[:AGENT_BYTES])
        self.outbox = Outbox(self._wire, self, context.backlogs)
        self.session: Session | None = None
        self.user_id: object = None
        self.task: trio.lowlevel.Task | None = None
        self.pinged = False
        self.since = trio.current_time()
        self.last_heard = self.last_message = context.clock.now()
        self._bucket = Bucket(context.messages_per_second, context.messages_burst, self.last_message)
        self._pings: Bucket | None = None  # browsers send none
        self._opening = opening_for(admitted, context.rules.dialect)
        if admitted.answer is not None:
            self._admit(admitted, admitted.answer)

    def _admit(self, admitted: Admitted, answer: BootstrapAnswer) -> None:
        self.user_id = answer.user_id
        self.session = Session(self._context.rules, answer.allowed_rooms, self.outbox, self.id, answer.index)
        if self._context.hooks is not None:
            self._hook_calls = self._context.hooks.calls_for(self.id, self.user_id, admitted.request)

    async def serve(self, websocket: WebSocketConnection) -> None:
        """Serve the client until it has gone or its outbox was closed; the caller closes the stream."""
        self._context.connections.add(self)
        self._context.counts.opened += 1
        self.task = trio.lowlevel.current_task()
        try:
            async with trio.open_nursery() as self._nursery:
                self._welcome()
                self._nursery.start_soon(websocket._reader_task)  # noqa: SLF001  # see `websocket_on`
                await self._read_loop(websocket)
            await self._say_goodbye()
        finally:
            self._nursery = self.task = None
            self._context.connections.discard(self)
            self._end()

    def _welcome(self) -> None:
        self.outbox.reply(self._opening)
        self._opening = b""  # the text of many rooms is long
        if self.session is None:
            self.outbox.close(NOT_AUTHORIZED)
            return
        log(logger, logging.INFO, "open", id=self.id, user=user_text(self.user_id), peer=self.peer)
        if self._hook_calls is not None:
            self._hook_calls.connected()

    async def _read_loop(self, websocket: WebSocketConnection) -> None:
        try:
            while True:
                message = await websocket.get_message()
                self.last_message = self._context.clock.now()
                self._hear(message)
        except ConnectionClosed as closed:
            self.outbox.close(_close_of(closed.reason))

    def _hear(self, message: str | bytes) -> None:
        if self.session is None or not self.outbox.closing.open:
            return
        if not self._bucket.take(self.last_message):
            self.outbox.close(TOO_MANY_MESSAGES)
            return
        if self._hook_calls is not None and message == "ping":
            self._hook_calls.pinged()
        known = self.session.broken_bound
        reply = self.session.receive(message)
        self.outbox.reply(text_frame(reply.text.encode()))
        if reply.replay is not None:  # with no await in between, in which something newer would come first
            self.outbox.put(*reply.replay)
        if self.session.broken_bound != known:
            log(logger, logging.WARNING, "over a bound", id=self.id, bound=self.session.broken_bound)
        if self.session.failure is not None:
            self._note(self.session.failure)

    def _note(self, failure: Failure) -> None:
        """Count a message that was answered with an error; the first few of each client are logged."""
        self._context.counts.errors[failure.code] += 1
        self._failures += 1
        if self._failures <= LOGGED_FAILURES:
            room = failure.room.decode()
            if len(room) > LOGGED_ROOM_CHARACTERS:
                room = room[: LOGGED_ROOM_CHARACTERS - 1] + "…"
            log(
                logger,
                logging.INFO,
                "message refused",
                id=self.id,
                user=user_text(self.user_id),
                why=failure.code,
                room=room,
            )

    def may_ping(self) -> bool:
        """Return whether one more ping or pong of the protocol may come; they have the bounds of messages."""
        if self._pings is None:
            self._pings = Bucket(self._context.messages_per_second, self._context.messages_burst, self.last_heard)
        return self._pings.take(self.last_heard)

    async def _write_loop(self) -> None:
        """Write what the socket could not take at once, until nothing waits.

        What is written is taken once there is space for it, with no task switch in between: until then it can give way.
        """
        try:
            while not self.outbox.idle:
                await self._wire.writable()
                if self.outbox.write_more() and self._wire.shows_life:
                    self.last_heard = self._context.clock.now()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.outbox.close(GONE)

    async def _say_goodbye(self) -> None:
        if self.session is not None:
            self.session.end()  # not only when the peer has hung up
        self.outbox.give_up()  # its time is over, unless all is said
        if self.outbox.closing.all_said:
            await hang_up(self._wire.stream, self._context.goodbye_seconds)

    def _end(self) -> None:
        # Where nothing closed the outbox, we failed, or the gateway was cancelled, or both.
        crashed = _is_crash(sys.exception())
        close = self.outbox.end(*((Event.CRASHED, CRASHED) if crashed else (Event.CANCELLED, DROPPED)))
        if not self.outbox.closing.all_said:
            reset_on_close(self._wire.stream)  # or the kernel keeps for it what it does not read
        if self.session is not None:
            self.session.end()
        if self._hook_calls is not None:
            self._hook_calls.disconnected(close)
        self._context.counts.close(close.code, self.outbox.sent_bytes, self.outbox.peak_bytes)
        self._log_end(close)

    def send_away(self, close: Close, seconds: float) -> None:
        """Close with `close`; the client has so long for what waits, or `goodbye_seconds` if that is more."""
        self._goodbye_seconds = max(self._goodbye_seconds, seconds)
        at = self.session.position() if self.session is not None else None
        self.outbox.close(close, None if at is None else text_frame(position(at).encode()) + close_frame(close))

    def _log_end(self, close: Close) -> None:
        if self.session is None:  # the admission has logged that it was refused, and why
            return
        log(
            logger,
            logging.WARNING if close in (CRASHED, TOO_MANY_MESSAGES) else logging.INFO,
            "close",
            id=self.id,
            user=user_text(self.user_id),
            peer=self.peer,
            code=close.code,
            seconds=trio.current_time() - self.since,
            frames=self.outbox.publications,
            bytes=self.outbox.sent_bytes,
            why=close.reason,
        )

    def unsubscribe(self, key: bytes, reason: str) -> int:
        """End what the client has subscribed to in the room of `key`, and tell it; return how many that were."""
        ended = self.session.leave(key) if self.session else []
        for request_id in ended:
            self.outbox.reply(text_frame(unsubscribed(request_id, reason).encode()))
        return len(ended)

    # What the outbox needs: outbox.Owner

    def start_writing(self) -> None:
        """Start the write loop."""
        if self._nursery is not None:
            self._nursery.start_soon(self._write_loop)

    def on_closing(self) -> None:
        """End the conversation: now if all is written, else when it is, or its time to take it is over."""
        if self._nursery is None:
            return
        scope = self._nursery.cancel_scope
        if self.outbox.closing.over:
            scope.cancel()
        else:
            scope.deadline = min(scope.deadline, trio.current_time() + self._goodbye_seconds)

    def too_slow(self, overdue: Overdue) -> None:
        """Name the client, with what an operator needs to judge it."""
        rooms = self.session.room_keys() if self.session is not None else []
        log(
            logger,
            logging.WARNING,
            "slow",
            id=self.id,
            user=user_text(self.user_id),
            peer=self.peer,
            agent=self.agent,
            why=overdue.why.reason,
            waiting_bytes=overdue.bytes,
            waiting_frames=overdue.frames,
            peak_bytes=self.outbox.peak_bytes,
            oldest_seconds=overdue.oldest_seconds,
            policy="+".join(sorted(overdue.policies)),
            rooms=" ".join(key.decode() for key in list(dict.fromkeys(rooms))[:SHOWN_ROOMS]),
            subscriptions=len(rooms),
        )

    # What trio-websocket needs: trio.abc.Stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what the client sends."""
        data = await self._wire.read()
        self.last_heard = self._context.clock.now()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Put one frame of the library into the outbox; its close frame is a close like any other."""
        await trio.lowlevel.checkpoint()
        frame = bytes(data)
        close = read_close(frame)
        if close is None:
            self.outbox.reply(frame)
        else:
            self.outbox.close(close, frame)

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: the outbox takes what it is given."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Do nothing: the library is done, the connection may not be."""
        await trio.lowlevel.checkpoint()


def _is_crash(error: BaseException | None) -> bool:
    """Whether a fault of ours is in `error`; it may be in a group with `Cancelled`, which is no `Exception`."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(Exception) is not None
    return isinstance(error, Exception)


@functools.lru_cache(SHARED_AGENTS)
def _shared(agent: bytes) -> str:
    """Return a User-Agent as text, equal ones as the same object: ten thousand clients are a few browsers."""
    return agent.decode("latin-1")


def opening_for(admitted: Admitted, dialect: Dialect) -> bytes:
    """Return what goes out first, in one write: the 101, and the welcome or the refusal."""
    answer = admitted.answer
    said = dialect.welcome(answer.rooms_text) if answer is not None else dialect.refusal() or ""
    return switching_protocols(admitted.key, admitted.subprotocol) + text_frame(said.encode())


def _close_of(reason: CloseReason | None) -> Close:
    """Return what trio-websocket knows of the end as a close."""
    if reason is None or reason.code == GONE.code:
        return GONE
    return Close(reason.code, reason.reason or "")


def websocket_on(connection: Connection, protocol: Protocol, max_message_bytes: int) -> WebSocketConnection:
    """Return trio-websocket's end of a connection that is open already.

    The library's own way in would have the handshake again, from bytes made up for it, and keep what it made of them
    (3 KB) for as long as the connection lasts. The price is that we start its reader ourselves.
    """
    return WebSocketConnection(
        connection,
        protocol,  # type: ignore[arg-type]  # what a WSConnection passes everything on to
        message_queue_size=QUEUED_MESSAGES,
        max_message_size=max_message_bytes,
    )


async def serve_client(admission: Admission, context: Context, stream: trio.abc.Stream) -> None:
    """Own one client from accepted stream to closed socket. Nothing a client does escapes."""
    transport = transport_of(stream)
    admission.clients += 1
    try:
        if admission.overrun():
            return
        admitted = await admission.admit(stream)
        if admitted is not None:
            connection = Connection(context, stream, admitted)
            protocol = Protocol(admitted.early, context.max_message_bytes, connection.may_ping, connection.outbox.close)
            del admitted  # nothing of the handshake is kept
            try:
                await connection.serve(websocket_on(connection, protocol, context.max_message_bytes))
            finally:
                protocol.end()
    except* Exception as crash:
        logger.exception("a connection crashed")
        let_go(crash)
    finally:
        admission.clients -= 1
        await trio.aclose_forcefully(transport)
