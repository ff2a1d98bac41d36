"""What a publisher asks for beside a trigger: a report, a wait, and not to publish it twice. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from trio_templar.core.triggers import MAX_KEY_LENGTH
from trio_templar.errors import TriggerError

# A longer wait is cut to this; the answer says what was applied.
MAX_WAIT_SECONDS: Final = 60

_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_WORD: Final = rf'(?:{_NAME}|"[^"\\]*")'
_PREFERENCE: Final = re.compile(rf"\s*({_NAME})(?:\s*=\s*({_WORD})?)?(?:\s*;[^,]*)?\s*")
_WEIGHT: Final = re.compile(rb"q\s*=\s*([01](?:\.[0-9]{0,3})?)")
_KEY: Final = re.compile(rf"[!-~]{{1,{MAX_KEY_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class Preferences:
    """What one publisher asks for.

    `report`: the answer is JSON and says what became of each publication. `wait`: it comes when the kernel has
    them for every client, after so many seconds at most (None: at once). `idempotency_key`: what was seen under it is
    not published again (empty: there is none).
    """

    report: bool = False
    wait: int | None = None
    idempotency_key: str = ""

    @classmethod
    def of(cls, headers: Mapping[bytes, bytes]) -> Preferences:
        """Read `Accept`, `Prefer` (RFC 7240, 4.3) and `Idempotency-Key`.

        Raises TriggerError: if one of the last two is malformed.
        """
        return cls(
            report=_prefers_json(headers.get(b"accept", b"").lower()),
            wait=_wait(headers.get(b"prefer", b"").decode("latin-1")),
            idempotency_key=_idempotency_key(headers.get(b"idempotency-key")),
        )

    @property
    def counted(self) -> bool:
        """Whether the answer says what became of the publications, or comes when that is known."""
        return self.report or self.wait is not None


def _prefers_json(accept: bytes) -> bool:
    """Whether `accept` names JSON, and ranks it over plain words: libraries name it beside `*/*` on every request."""
    ranks: dict[bytes, float] = {}
    for item in accept.split(b","):
        media_type, *parameters = [part.strip() for part in item.split(b";")]
        ranks.setdefault(media_type, _rank(parameters))
    words = max(_rank_of(media_type, ranks) for media_type in (b"text/plain", b"text/html"))
    return ranks.get(b"application/json", 0.0) > words


def _rank(parameters: list[bytes]) -> float:
    """Return the weight among the parameters of a media type, which is from 0 to 1 (RFC 9110, 12.4.2)."""
    return next((float(match[1]) for match in map(_WEIGHT.fullmatch, parameters) if match), 1.0)


def _rank_of(media_type: bytes, ranks: Mapping[bytes, float]) -> float:
    """Return what the most specific range says of `media_type` (RFC 9110, 12.5.1)."""
    ranges = (media_type, media_type.partition(b"/")[0] + b"/*", b"*/*")
    return next((ranks[name] for name in ranges if name in ranks), 0.0)


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


def _idempotency_key(value: bytes | None) -> str:
    if value is None:
        return ""
    key = value.decode("latin-1").strip()
    if len(key) > 1 and key.startswith('"') and key.endswith('"'):  # a string of RFC 8941, as the draft has it
        key = key[1:-1]
    if not _KEY.fullmatch(key):
        raise TriggerError(f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} visible ASCII characters, without spaces")
    return key
