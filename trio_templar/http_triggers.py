"""`POST /trigger/`: what a publisher sends over HTTP, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trio_templar.errors import Busy, TriggerError
from trio_templar.fanout import Fanout
from trio_templar.http_api import Body, Request, Response, Routes, TooSlow, UnsupportedType, route_of, text
from trio_templar.triggers import Trigger, TriggerReader

FORM_TYPES: Final = (b"application/x-www-form-urlencoded", b"multipart/form-data")
NDJSON_TYPE: Final = b"application/x-ndjson"


class TriggerApi:
    """Publishes what is posted."""

    def __init__(self, fanout: Fanout, reader: TriggerReader) -> None:
        self._fanout = fanout
        self._reader = reader

    def routes(self) -> Routes:
        """Return its routes for `HttpApi.routes`."""
        return route_of("POST", "/trigger", self.trigger)

    async def trigger(self, request: Request) -> Response:
        """`POST /trigger/` (High-templar 2.5): publish one trigger, an array of them all or nothing, or a stream."""
        if request.content_type in FORM_TYPES:
            raise UnsupportedType("a form is no trigger; send JSON as Content-Type: application/json, or as none")
        if request.content_type == NDJSON_TYPE:
            return await self._stream(request.body)
        body = await request.body.whole()
        await self._publish(self._reader.read(body))
        return Response(200, b"publish success")

    async def _stream(self, body: Body) -> Response:
        """Publish line by line. What came before a bad line is published; the answer says how many that were."""
        published = number = 0
        try:
            while lines := await body.lines():
                for line in lines:
                    number += 1
                    body.check(line)
                    if line.strip():
                        await self._publish([self._reader.read_one(line)])
                        published += 1
        except (TriggerError, Busy) as error:
            raise type(error)(f"line {number}: {error}; published {published}") from error
        except TooSlow as error:
            raise TooSlow(f"line {number + 1}: {error}; published {published}") from error
        return text(200, f"publish success: {published}")

    async def _publish(self, triggers: Sequence[Trigger]) -> None:
        if not self._fanout.publish_nowait(triggers):  # else without the checkpoint that `publish` is
            await self._fanout.publish(triggers)
