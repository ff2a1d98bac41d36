"""`trio-templar completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, Final

from trio_templar.commands.command import Command, ExitStatus, lacks_extra

SHELLS: Final = ("bash", "zsh")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to write for")


def completion_of(make_parser: Callable[[], argparse.ArgumentParser]) -> Command:
    """Return the command for the parser that `make_parser` makes, which has this command too."""

    def run(arguments: Mapping[str, Any], _: Mapping[str, str]) -> int:
        try:
            import shtab
        except ImportError as error:
            raise lacks_extra("completion") from error
        print(shtab.complete(make_parser(), shell=arguments["shell"]))
        return ExitStatus.DONE

    return Command(
        name="completion",
        help="print a completion script for a shell",
        description="Print a script that lets a shell complete commands and options.",
        add_options=add_options,
        run=run,
        examples="""\
  trio-templar completion bash > ~/.local/share/bash-completion/completions/trio-templar
  trio-templar completion zsh > ~/.zfunc/_trio-templar
""",
    )
