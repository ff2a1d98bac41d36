"""Reading the small files that an operator names: settings, tokens, certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trio_templar.errors import SettingsError

# Far more than settings, a token or a certificate with its chain take. The path may name a device that has no end.
MAX_BYTES: Final = 1_048_576
# How much of a path an error shows; a path that exists is rarely longer.
SHOWN_PATH: Final = 200


def read_small(path: str | Path, said_as: str) -> bytes:
    """Return the content of the file. Blocks.

    Raises SettingsError: if it cannot be read, or is over `MAX_BYTES`; the text starts with `said_as`.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise SettingsError(
            f"{said_as}: {str(path)[:SHOWN_PATH]}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{said_as}: {str(path)[:SHOWN_PATH]}: it is over {MAX_BYTES} bytes")
    return content


def read_text(path: str | Path, said_as: str) -> str:
    """Return the text of the file, without a byte order mark. It is UTF-8, whatever the locale says. Blocks.

    Raises SettingsError: as `read_small` does, and if it is not UTF-8.
    """
    try:
        return read_small(path, said_as).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{said_as}: {str(path)[:SHOWN_PATH]}: not UTF-8: {error.reason} at byte {error.start}"
        ) from error


def read_first_line(path: str | Path, said_as: str) -> str:
    """Return the first line of the file without blanks around it. Blocks.

    Raises SettingsError: as `read_text` does, and if that line is empty.
    """
    line = read_text(path, said_as).partition("\n")[0].strip()
    if not line:
        raise SettingsError(f"{said_as}: {str(path)[:SHOWN_PATH]} has an empty first line")
    return line
