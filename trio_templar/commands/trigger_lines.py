"""Triggers as JSON, one or from lines: checked here, so that a bad line is named by its place in the input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from trio_templar.core.dialects import DIALECTS
from trio_templar.core.rooms import Room
from trio_templar.core.triggers import TriggerReader, to_json
from trio_templar.errors import TriggerError

PATH: Final = "/trigger/"

# How large a publication may be is for the gateway to say: its settings may not be ours.
_reader = TriggerReader(DIALECTS["2"], 2**40, 2**40)


def trigger_body(rooms: Sequence[Room], data: bytes) -> bytes:
    """Return the JSON of a trigger. Raises TriggerError: if `data` is not JSON."""
    return b'{"rooms":%b,"data":%b}' % (msgspec.json.encode(rooms), to_json(msgspec.Raw(data)))


class Lines:
    """Bytes in, triggers out, one a line; with `rooms` a line is data for them. `error` says what was bad."""

    def __init__(self, rooms: Sequence[Room], max_bytes: int) -> None:
        self._rooms = rooms
        self._max_bytes = max_bytes
        self._rest = b""
        self._number = 0
        self.error = ""

    def feed(self, data: bytes) -> bytes:
        """Return the triggers of the lines that are whole now; no `data` is the end of the last one."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if not data:
            whole.append(self._rest)
        if len(self._rest) > self._max_bytes:
            whole.append(self._rest)
        return b"".join(self._triggers(whole))

    def _triggers(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        for line in lines:
            self._number += 1
            if not line.strip():
                continue
            try:
                yield self._checked(line) + b"\n"
            except TriggerError as error:
                self.error = f"line {self._number}: {error}"
                return

    def _checked(self, line: bytes) -> bytes:
        if len(line) > self._max_bytes:
            raise TriggerError(f"over {self._max_bytes} bytes (max_trigger_bytes)")
        if self._rooms:
            return trigger_body(self._rooms, line)
        _reader.read_line(line)
        return line
