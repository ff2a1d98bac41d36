"""Standard streams as a process may be given them, and what may be written to a terminal."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
from typing import Final, TextIO

# Control characters, which a terminal obeys; further line ends; and what turns the order of letters round, so that a
# text shows as another. All else stays, no-break spaces and the joiners of emoji too.
OBEYED: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return `text`, which somebody else wrote, as one line that no terminal obeys; in JSON it is the same text."""
    return OBEYED.sub(lambda found: _as_in_json(found[0]), text)


def _as_in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def open_streams() -> None:
    """Connect standard streams that are closed to the null device, and let standard output take every character.

    Otherwise the next socket gets the descriptor of one, and a client gets the log. To Python such a stream is None.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            _lead_nowhere(descriptor)
        if getattr(sys, name) is None:
            # closefd: the descriptor has to stay taken for as long as the process runs.
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_escaped.__name__)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Write what the terminal's encoding lacks as JSON does: in JSON it is the same text, elsewhere it can be read."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _as_in_json(error.object[error.start : error.end]), error.end


codecs.register_error(_escaped.__name__, _escaped)


def give_up(stream: TextIO) -> None:
    """Discard what `stream` still holds: Python would try to write it once more at exit, and fail."""
    _lead_nowhere(stream.fileno())


def _lead_nowhere(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
