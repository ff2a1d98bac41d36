"""What a command is to the command line, how it fails, and how it is run on Trio."""

from __future__ import annotations

import argparse
import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trio_templar.errors import TemplarError, cause_of

if TYPE_CHECKING:
    import trio


class Status(enum.IntEnum):
    """The exit statuses of all commands; scripts rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    BUSY = 5
    ENDED = 6
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandError(TemplarError):
    """A command cannot do what it was asked; its text is the one line that says why, `status` is its exit status."""

    status: Status

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


# Parsed options by their names, and the environment.
Run = Callable[[Mapping[str, Any], Mapping[str, str]], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: what `--help` says of it, its options, and what it does; `run` returns the exit status.

    Raises CommandError or SettingsError: from `run`, if it cannot be done.
    """

    name: str
    help: str
    description: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Run
    usage: str = ""
    examples: str = ""


def run_on_trio(main: Callable[[], Awaitable[int]], clock: trio.abc.Clock | None = None) -> int:
    """Run `main` on Trio and return what it returns. Raises: its first error alone, out of any group."""
    import trio

    try:
        return trio.run(main, clock=clock)
    except BaseExceptionGroup as group:
        raise cause_of(group) from None
