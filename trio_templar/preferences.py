"""What a publisher asks of the answer: a report, to wait for it, and not to publish twice. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from trio_templar.errors import TriggerError
from trio_templar.triggers import MAX_KEY_LENGTH

# A longer wait is cut to this; the answer says what was applied.
MAX_WAIT_SECONDS: Final = 60

_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_WORD: Final = rf'(?:{_NAME}|"[^"\\]*")'
_PREFERENCE: Final = re.compile(rf"\s*({_NAME})(?:\s*=\s*({_WORD})?)?(?:\s*;[^,]*)?\s*")
_KEY: Final = re.compile(rf"[!-~]{{1,{MAX_KEY_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class Preferences:
    """What one publisher asks for.

    `report`: the answer is JSON and says what became of each publication. `wait`: it comes when every client's kernel
    has them, after so many seconds at most (None: at once). `key`: what was seen under it is not published again.
    """

    report: bool = False
    wait: int | None = None
    key: str = ""

    @classmethod
    def of(cls, headers: Mapping[bytes, bytes]) -> Preferences:
        """Read `Accept`, `Prefer` (RFC 7240, 4.3) and `Idempotency-Key`.

        Raises TriggerError: if one of the last two is malformed.
        """
        return cls(
            report=_accepts_json(headers.get(b"accept", b"")),
            wait=_wait(headers.get(b"prefer", b"").decode("latin-1")),
            key=_key(headers[b"idempotency-key"].decode("latin-1")) if b"idempotency-key" in headers else "",
        )

    @property
    def counted(self) -> bool:
        """Whether anything has to be counted for the answer."""
        return self.report or self.wait is not None


def _accepts_json(accept: bytes) -> bool:
    for item in accept.lower().split(b","):
        media_type, *parameters = [part.strip() for part in item.split(b";")]
        if media_type == b"application/json":
            return not any(re.fullmatch(rb"q=0(\.0*)?", parameter) for parameter in parameters)
    return False


def _wait(prefer: str) -> int | None:
    wait = None
    for item in prefer.split(",") if prefer.strip() else ():
        match = _PREFERENCE.fullmatch(item)
        if match is None:
            raise TriggerError(f"Prefer: {item.strip()!r} is no preference like wait=5")
        name, value = match[1].lower(), (match[2] or "").strip('"')
        if name == "wait" and wait is None:  # the first counts (RFC 7240, 2)
            if not (value.isascii() and value.isdecimal() and len(value) < 10):
                raise TriggerError(f"Prefer: wait={value} is no whole number of seconds")
            wait = min(int(value), MAX_WAIT_SECONDS)
    return wait


def _key(value: str) -> str:
    key = value.strip()
    if len(key) > 1 and key.startswith('"') and key.endswith('"'):  # a structured field, as the draft has it
        key = key[1:-1]
    if not _KEY.fullmatch(key):
        raise TriggerError(f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} visible ASCII characters, without spaces")
    return key
