"""The log's way out: a thread writes it, so that no reader of it, however slow, can hold up the event loop."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from typing import Final

logger = logging.getLogger("trio_templar.log")

# What may wait for a slow reader of the log; lines beyond that are dropped, and counted.
MAX_WAITING_BYTES: Final = 1_048_576
# How long lines gather before they are written: a thread that wakes for each takes the interpreter from the event loop.
GATHER_SECONDS: Final = 0.01
# How long the end of the process waits for the lines that are left.
FLUSH_SECONDS: Final = 1.0


class WriterHandler(logging.Handler):
    """Writes lines to a descriptor from a thread of its own; `emit` never blocks.

    A line that does not fit, or cannot be written, is dropped. Once lines can be written again, one says how many were.
    """

    def __init__(self, descriptor: int, max_bytes: int = MAX_WAITING_BYTES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # of the lines that wait or are being written
        self._dropped = 0
        self._failed = False  # the last write
        self._changed = threading.Condition()
        threading.Thread(target=self._write_loop, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have the line of `record` written."""
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001  # as logging asks of its handlers: no line may raise where it is logged
            self.handleError(record)
            return
        with self._changed:
            if self._bytes + len(line) > self._max_bytes:
                self._dropped += 1
                return
            self._waiting.append(line)
            self._bytes += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written, for `FLUSH_SECONDS` at most: the log may have no reader any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes, FLUSH_SECONDS)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _write_loop(self) -> None:
        while True:
            with self._changed:
                # What could not be written is no reason to try again; the next line is.
                self._changed.wait_for(lambda: self._waiting or (self._dropped and not self._failed))
            time.sleep(GATHER_SECONDS)
            with self._changed:
                lines = [*self._waiting]
                self._waiting.clear()
                dropped, self._dropped = self._dropped, 0
            if dropped:  # they came after the lines that waited
                lines.append(self._note(dropped))
            self._failed = not self._write(b"".join(lines))
            with self._changed:
                self._bytes = sum(map(len, self._waiting))
                self._dropped += len(lines) - bool(dropped) + dropped if self._failed else 0
                self._changed.notify_all()

    def _note(self, count: int) -> bytes:
        record = logger.makeRecord(
            logger.name, logging.WARNING, "", 0, "log lines dropped", (), None, extra={"fields": {"count": count}}
        )
        return self._line(record)

    def _write(self, data: bytes) -> bool:
        """Write `data`; return whether that could be done."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # a process that shares the descriptor made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError:  # the disk is full, or the pipe has no reader
                return False
        return True
