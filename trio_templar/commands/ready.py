"""The ready file: there while clients can come, with the addresses, for scripts and tests that wait for that."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trio_templar.errors import SettingsError


@contextmanager
def ready_file(path: str, addresses: Mapping[str, Any]) -> Iterator[None]:
    """Have `addresses`, and our `pid`, as one JSON object in the file at `path`; empty: in none. Blocks.

    It appears whole, and goes at the end unless another process has written it since.
    Raises SettingsError: if it cannot be written.
    """
    if not path:
        yield
        return
    text = json.dumps({**addresses, "pid": os.getpid()}) + "\n"
    _write(path, text)
    try:
        yield
    finally:
        with suppress(OSError, UnicodeError):
            if Path(path).read_text(encoding="utf-8") == text:
                Path(path).unlink()


def _write(path: str, text: str) -> None:
    part = Path(f"{path}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise SettingsError(f"ready_file: {path}: {error.strerror or error}") from error
