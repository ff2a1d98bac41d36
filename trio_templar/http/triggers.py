"""`POST /trigger/`: what a publisher sends over HTTP, and what it is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
import trio

from trio_templar.core.preferences import Preferences
from trio_templar.core.rooms import trimmed
from trio_templar.core.triggers import Trigger, TriggerReader, is_array
from trio_templar.delivery.bus import Bus
from trio_templar.delivery.entrance import Full
from trio_templar.delivery.idempotency import Claim, IdempotencyCache, KeyReused, claim
from trio_templar.delivery.tally import Report, RoomTally
from trio_templar.errors import Busy, TriggerError
from trio_templar.http.app import Request, Response, Routes, UnsupportedType, route_of, text
from trio_templar.http.body import Body, TooSlow

FORM_TYPES: Final = (b"application/x-www-form-urlencoded", b"multipart/form-data")
NDJSON_TYPE: Final = b"application/x-ndjson"
# How many lines of a stream are published before other tasks get their turn.
TURN_LINES: Final = 50
# A pass over a room takes milliseconds: after this a report says what is known until then.
REPORT_SECONDS: Final = 10.0

# What the publisher is told about one trigger: an object, or JSON of one.
TriggerReport = dict[str, Any] | msgspec.Raw
REPEATED: Final = msgspec.Raw(b'{"repeated":true}')


class TriggerApi:
    """Publishes what is posted. `cache` remembers what came with a key: answers to requests, and reports of triggers.

    A key of a request and an equal one of a trigger are two keys.
    """

    def __init__(self, bus: Bus, reader: TriggerReader, cache: IdempotencyCache[Any]) -> None:
        self._bus = bus
        self._reader = reader
        self._answers: IdempotencyCache[Response] = cache
        self._reports: IdempotencyCache[msgspec.Raw] = cache

    def routes(self) -> Routes:
        """Return its routes for `HttpApi.routes`."""
        return route_of("POST", "/trigger", self.trigger)

    async def trigger(self, request: Request) -> Response:
        """`POST /trigger/` (High-templar 2.5): publish one trigger, an array of them all or nothing, or a stream."""
        wanted = _wanted(request)
        if request.content_type == NDJSON_TYPE:
            return await self._publish_stream(request.body, wanted)
        body = await request.body.whole()
        if wanted.idempotency_key:
            return await self._publish_once(body, wanted)
        return await self._publish_body(body, wanted)

    async def _publish_once(self, body: bytes, wanted: Preferences) -> Response:
        """Publish `body`, unless it was published under its key; return its answer. A failure is not remembered."""
        ours = claim(wanted.idempotency_key, [body], "request")
        (answer,) = await self._answers.known([ours])
        if answer is None:
            with self._answers.under_way([ours]):
                answer = await self._publish_body(body, wanted)
                self._answers.remember(ours, replace(answer, body=trimmed(answer.body)), len(answer.body))
        return answer

    async def _publish_body(self, body: bytes, wanted: Preferences) -> Response:
        triggers = self._reader.read(body)
        if not wanted.counted and not any(trigger.idempotency_key for trigger in triggers):
            await self._bus.append(triggers)
            return Response(200, b"publish success")  # word for word what High-templar 2.5 answers
        reports = await self._publish_new(triggers, wanted)
        if not wanted.report:
            return Response(200, b"publish success", _applied(wanted))
        return _json(reports if is_array(body) else reports[0], wanted)

    async def _publish_new(self, triggers: Sequence[Trigger], wanted: Preferences) -> list[TriggerReport]:
        """Publish those of `triggers` that were not published under their key; return the report of each."""
        by_key = _by_key(triggers)
        known = await self._known_reports(by_key)
        new = _new_indices(triggers, known)
        with self._reports.under_way([by_key[key] for key in by_key if key not in known]):
            reports = dict(zip(new, await self._publish_counted([triggers[i] for i in new], wanted), strict=True))
            for index, report in reports.items():
                if key := triggers[index].idempotency_key:
                    known[key] = self._remember_report(by_key[key], report)
        return [reports.get(index) or known[trigger.idempotency_key] for index, trigger in enumerate(triggers)]

    async def _known_reports(self, by_key: Mapping[str, Claim]) -> dict[str, msgspec.Raw]:
        """Return the reports of the keys that were published already. Raises KeyReused: if one is for something else.

        As `IdempotencyCache.known`, it waits while one of them is under way, and the others are to begin at once.
        """
        found = await self._reports.known(list(by_key.values()))
        return {key: report for key, report in zip(by_key, found, strict=True) if report is not None}

    def _remember_report(self, published: Claim, report: dict[str, Any]) -> msgspec.Raw:
        """Answer `published` with `report`, marked as repeated, from now on; return that."""
        repeated = msgspec.Raw(trimmed(msgspec.json.encode({**report, "repeated": True})))
        self._reports.remember(published, repeated, len(repeated))
        return repeated

    async def _publish_counted(self, triggers: Sequence[Trigger], wanted: Preferences) -> list[dict[str, Any]]:
        report = Report()
        counted = [(trigger, report.tallies(len(trigger.room_keys))) for trigger in triggers]
        await self._bus.append([trigger._replace(tallies=tallies) for trigger, tallies in counted])
        await _complete(report, wanted)
        return [_report_of(trigger, tallies, wanted) for trigger, tallies in counted]

    async def _publish_stream(self, body: Body, wanted: Preferences) -> Response:
        """Publish line by line. Lines before a bad one stay published; the answer says how many that were."""
        report = Report()
        (tally,) = report.tallies(1)
        done = number = 0
        try:
            while lines := await body.lines():
                for line in lines:
                    number += 1
                    body.check(line)
                    if line.strip():
                        await self._publish_line(self._reader.read_line(line), tally if wanted.counted else None)
                        done += 1
                    if number % TURN_LINES == 0:
                        await trio.lowlevel.checkpoint()
        except (TriggerError, Busy, KeyReused) as error:
            raise type(error)(f"line {number}: {error}; published {done}") from error
        except TooSlow as error:  # the line that did not come is the next one
            raise TooSlow(f"line {number + 1}: {error}; published {done}") from error
        if wanted.counted:
            await _complete(report, wanted)
        if wanted.report:
            return _json({"published": done, **tally.counts(waiting=wanted.wait is not None)}, wanted)
        return text(200, f"publish success: {done}", *_applied(wanted))

    async def _publish_line(self, trigger: Trigger, tally: RoomTally | None) -> None:
        if tally is not None:
            trigger = trigger._replace(tallies=[tally] * len(trigger.room_keys))
        if not trigger.idempotency_key:
            await self._append(trigger)
            return
        ours = _claim_of(trigger)
        if await self._reports.known([ours]) == [None]:
            with self._reports.under_way([ours]):
                await self._append(trigger)
                self._reports.remember(ours, REPEATED, len(REPEATED))

    async def _append(self, trigger: Trigger) -> None:
        """Append `trigger`; if there is space, without a checkpoint: a stream has one for many lines."""
        try:
            self._bus.append_nowait([trigger])
        except Full:
            await self._bus.append([trigger])


def _wanted(request: Request) -> Preferences:
    if request.content_type in FORM_TYPES:
        raise UnsupportedType("a form is no trigger; send JSON as Content-Type: application/json, or as none")
    wanted = Preferences.of(request.headers)
    if wanted.idempotency_key and request.content_type == NDJSON_TYPE:
        raise TriggerError("Idempotency-Key: a stream has a key in each of its lines")
    return wanted


def _claim_of(trigger: Trigger) -> Claim:
    return claim(trigger.idempotency_key, [trigger.publication.left, trigger.publication.right, *trigger.room_keys])


def _by_key(triggers: Sequence[Trigger]) -> dict[str, Claim]:
    """Return what the keys of `triggers` stand for. Raises KeyReused: if a key is there for two contents."""
    by_key: dict[str, Claim] = {}
    for index, trigger in enumerate(triggers):
        if key := trigger.idempotency_key:
            ours = _claim_of(trigger)
            if by_key.setdefault(key, ours) != ours:
                raise KeyReused(f"[{index}]: the key {key!r} is there twice, for two different triggers")
    return by_key


def _new_indices(triggers: Sequence[Trigger], known: Collection[str]) -> list[int]:
    """Return the indices of those triggers whose key is not `known`, each key once, and of those without a key."""
    seen = set(known)
    indices: list[int] = []
    for index, trigger in enumerate(triggers):
        key = trigger.idempotency_key
        if not key or key not in seen:
            indices.append(index)
            seen.add(key)
    return indices


async def _complete(report: Report, wanted: Preferences) -> None:
    """Return when `report` says what the publisher wants to know: after the passes, and as long as it wants to wait."""
    with trio.move_on_after(REPORT_SECONDS):
        await report.offered()
    if wanted.wait:
        with trio.move_on_after(wanted.wait):
            await report.settled()


def _report_of(trigger: Trigger, tallies: Sequence[RoomTally], wanted: Preferences) -> dict[str, Any]:
    waiting = wanted.wait is not None
    rooms = zip(trigger.room_keys, tallies, strict=True)
    return {"rooms": [{"room": msgspec.Raw(key), **tally.counts(waiting=waiting)} for key, tally in rooms]}


def _json(value: Any, wanted: Preferences) -> Response:
    return Response(200, msgspec.json.encode(value), _applied(wanted), b"application/json")


def _applied(wanted: Preferences) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header that says which preference was honoured (RFC 7240, 3)."""
    return () if wanted.wait is None else ((b"preference-applied", b"wait=%d" % wanted.wait),)
