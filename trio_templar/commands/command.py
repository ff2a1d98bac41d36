"""What commands have in common: what one is, how it fails, how it runs on Trio, and the options of several."""

from __future__ import annotations

import argparse
import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trio_templar.errors import TemplarError, cause_of
from trio_templar.files import read_first_line

if TYPE_CHECKING:
    import trio

DEFAULT_TIMEOUT_SECONDS: Final = 10.0


class ExitStatus(enum.IntEnum):
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

    status: ExitStatus

    def __init__(self, status: ExitStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class UsageError(CommandError):
    """What a command was given is wrong: an option, a room, a file."""

    def __init__(self, message: str) -> None:
        super().__init__(ExitStatus.USAGE, message)


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


def lacks_extra(command: str) -> CommandError:
    """Return the error of a command whose extra, which has its name, is not installed."""
    ways = f"pip install 'trio-templar[{command}]', or in a checkout: pip install '.[{command}]'"
    return CommandError(ExitStatus.FAILED, f"{command} needs {ways}")


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command has that connects to a gateway."""
    parser.add_argument("--ca", metavar="FILE", help="file of certificates to trust for https or wss")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for an answer [{DEFAULT_TIMEOUT_SECONDS:g}]",
    )


def given_token(arguments: Mapping[str, Any]) -> str | None:
    """Return the token of `--token-file`, or else of `--token`; None without both.

    Raises SettingsError: if the file cannot be read, or its first line is empty.
    """
    if arguments["token_file"] is None:
        token: str | None = arguments["token"]
        return token
    return read_first_line(arguments["token_file"], "--token-file")


def seconds(text: str) -> float:
    """Return a number of seconds. Raises argparse.ArgumentTypeError: if it is none, or not over 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 31_536_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds over 0")
    return value


def count(text: str) -> int:
    """Return a whole number. Raises argparse.ArgumentTypeError: if it is none, or not over 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number over 0")
    return int(text)
