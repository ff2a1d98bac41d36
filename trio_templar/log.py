"""Log lines as an event and its fields: for people (`text`) or for machines (`json`). Never bodies, cookies, tokens."""

from __future__ import annotations

import functools
import json
import logging
import time
from typing import Final, Literal

import msgspec

from trio_templar.log_writer import WriterHandler

STANDARD_ERROR: Final = 2
# What operators and the API name, a user above all, has no bound of its own. A room of the default size is shown whole.
FIELD_CHARACTERS: Final = 2048


def log(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Log one line: `event`, and the fields that have a value; texts are cut at `FIELD_CHARACTERS`."""
    if logger.isEnabledFor(level):
        kept = {name: _cut(value) for name, value in fields.items() if value not in (None, "")}
        _handle(logger, level, event, fields=kept)


def _cut(value: object) -> object:
    if isinstance(value, str) and len(value) > FIELD_CHARACTERS:
        return f"{value[:FIELD_CHARACTERS]}…"
    return value


class Seldom:
    """Logs a warning at most once in `seconds`; its `count` is how often it happened since the last one."""

    def __init__(self, logger: logging.Logger, event: str, seconds: float) -> None:
        self._logger = logger
        self._event = event
        self._seconds = seconds
        self._count = 0
        self._quiet_until = 0.0

    def log(self, now: float, **fields: object) -> None:
        """Count one more, which happened at `now`, and log it with `fields` if it is time."""
        self._count += 1
        if now >= self._quiet_until:
            log(self._logger, logging.WARNING, self._event, count=self._count, **fields)
            self._count = 0
            self._quiet_until = now + self._seconds


def announce(logger: logging.Logger, event: str, text: str, **fields: object) -> None:
    """Log one line at any level: for people `text` alone, for machines `event` and its fields."""
    _handle(logger, logging.INFO, event, fields=fields, announced=text)


def _handle(logger: logging.Logger, level: int, event: str, **extra: object) -> None:
    """Hand a line to the handlers. `Logger.log` would look up who called it, which is this module each time."""
    logger.handle(logger.makeRecord(logger.name, level, "", 0, event, (), None, extra=extra))


def user_text(user_id: object) -> str | None:
    """Return a user id as text, as the log and the HTTP API have it: itself, or its JSON; None where there is none."""
    if user_id is None or isinstance(user_id, str):
        return user_id
    try:
        return msgspec.json.encode(user_id).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):  # an embedding program may use any object as an id
        return str(user_id)


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,000+0100 INFO open id=… peer=…`; an announcement is its text alone."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        announced: str | None = getattr(record, "announced", None)
        return super().format(record) if announced is None else announced

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # logging's name
        """Return local time with its zone."""
        second, zone = _local(int(record.created))
        return f"{second},{int(record.msecs):03}{zone}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return the line, the fields behind it; values with spaces or line ends are quoted."""
        fields = getattr(record, "fields", {})
        return super().formatMessage(record) + "".join(f" {name}={_plain(value)}" for name, value in fields.items())


@functools.lru_cache(maxsize=1)
def _local(second: int) -> tuple[str, str]:
    """Return a second as local time, and the zone; lines that come in one second share it."""
    moment = time.localtime(second)
    return time.strftime("%Y-%m-%d %H:%M:%S", moment), time.strftime("%z", moment)


def _plain(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    is_plain = text.isprintable() and " " not in text and '"' not in text and "=" not in text
    return text if is_plain else json.dumps(text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, event, and the fields."""

    converter = time.gmtime  # type: ignore[assignment]  # a builtin: it is not bound
    default_msec_format = "%s.%03dZ"
    default_time_format = "%Y-%m-%dT%H:%M:%S"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(format_: Literal["text", "json"], level: str) -> None:
    """Send the log of this process to standard error. For commands alone: a library leaves logging to its program."""
    handler = WriterHandler(STANDARD_ERROR)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """Log from now on what has this `level` or a more severe one."""
    logging.getLogger("trio_templar").setLevel(level.upper())
