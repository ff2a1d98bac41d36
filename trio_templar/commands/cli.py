"""`trio-templar`: from argv and environment (only we read them) to a command, and from its end to an exit status."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from trio_templar import __version__
from trio_templar.commands import check, listen, publish, serve, top, tree
from trio_templar.commands.command import Command, CommandError, ExitStatus
from trio_templar.commands.completion import completion_of
from trio_templar.commands.streams import give_up, open_streams, printable
from trio_templar.core.options import hint
from trio_templar.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

EPILOG: Final = """\
exit status:
  0  done
  1  it did not work: the line on standard error says why
  2  a wrong option, setting, file or JSON
  3  nothing answers at the address
  4  refused: a token, a cookie or a room
  5  busy: try again
  6  the connection ended

after a signal:
  130  Ctrl-C
  141  the reader of the output has gone
  143  SIGTERM; after the first one, serve drains and ends with 0
"""

# Errors of a write that has no room. Whatever else writes to a disk names its file, so these are of standard output.
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with its status; what is wrong is one line on standard error."""
    open_streams()
    try:
        status = _run(argv)
    except SettingsError as error:
        status = _complain(ExitStatus.USAGE, error)
    except CommandError as error:
        status = _complain(error.status, error)
    except KeyboardInterrupt:
        status = ExitStatus.INTERRUPTED
    except BrokenPipeError:
        give_up(sys.stdout)  # the reader of our output has gone
        status = ExitStatus.BROKEN_PIPE
    sys.exit(int(status))


def _run(argv: Sequence[str] | None) -> int:
    """Run the command; what it prints is written at the end. Raises CommandError: if there is no room for it."""
    try:
        try:
            parser = make_parser()
            if not (sys.argv[1:] if argv is None else argv):
                parser.exit(ExitStatus.USAGE, parser.format_help())
            arguments = parser.parse_args(argv)
            command: Command = arguments.command
            return command.run(vars(arguments), os.environ)
        finally:
            # Here, because Python's own flush at exit can only print a traceback and exit with 120.
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in FULL:
            raise
        give_up(sys.stdout)
        raise CommandError(ExitStatus.FAILED, f"standard output: {error.strerror}") from error


def _complain(status: ExitStatus, error: Exception) -> ExitStatus:
    try:
        print(f"trio-templar: {printable(str(error))}", file=sys.stderr, flush=True)
    except OSError:  # nobody can be told
        give_up(sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """argparse with one line for an error, not its usage too."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Return the arguments; of unknown ones only the names are shown, as their values may be secrets."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            names = [each.partition("=")[0] for each in unknown]
            self.error(f"unrecognized arguments: {' '.join(names)}{hint(names[0], parsed.flags)}")
        return parsed

    @property
    def flags(self) -> list[str]:
        """Its options."""
        return list(self._option_string_actions)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help. Raises OSError: if it cannot be written, which argparse's own would keep to itself."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        # argparse hands over nothing but its text.
        wrong = re.match("argument COMMAND: invalid choice: '([^']*)'", message)
        meant = hint(wrong[1], [command.name for command in COMMANDS]) if wrong else ""
        self.exit(ExitStatus.USAGE, f"trio-templar: {message}{meant}\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(
        prog="trio-templar",
        description="Real-time websockets for APIs that only speak HTTP.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")
    for command in COMMANDS:
        added = commands.add_parser(
            command.name,
            help=command.help,
            usage=command.usage or None,
            description=textwrap.fill(command.description, 100),
            epilog=command.examples and f"examples:\n{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # a script's abbreviation would break with the next option that starts like it
        )
        command.add_options(added)
        added.set_defaults(command=command, flags=added.flags)
    return parser


COMMANDS: Final[tuple[Command, ...]] = (
    serve.COMMAND,
    check.COMMAND,
    top.COMMAND,
    tree.COMMAND,
    publish.COMMAND,
    listen.COMMAND,
    completion_of(make_parser),
)
