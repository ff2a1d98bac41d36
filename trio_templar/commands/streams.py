"""Standard streams as a process may be given them: shut, or such that cannot be written to."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def open_streams() -> None:
    """Lead standard streams that are shut to the null device.

    Otherwise the next socket gets the number of one, and clients get the log. To Python such a stream is None.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            _lead_nowhere(descriptor)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False))


def give_up(stream: TextIO) -> None:
    """Let what `stream` still holds go nowhere, or Python fails at its end, when it tries once more."""
    _lead_nowhere(stream.fileno())


def _lead_nowhere(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
