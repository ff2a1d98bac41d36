"""What the documentation says of the commands, held against them."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
from pathlib import Path

import pytest

from trio_templar.commands.cli import COMMANDS, EPILOG, make_parser
from trio_templar.commands.command import Command, ExitStatus

ROOT = Path(__file__).parents[2]


def flags(command: Command) -> list[str]:
    """The options of a command."""
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return [flag for action in parser._actions for flag in action.option_strings]


def shown(name: str) -> list[str]:
    """The arguments of each `trio-templar` in the shell blocks of a page."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.DOTALL))
    return re.findall(r"trio[_-]templar ([^&|<>\n]+)", blocks)


def test_the_page_has_every_command_and_exit_status() -> None:
    text = (ROOT / "docs/terminal.md").read_text()
    for command in COMMANDS:
        assert command.name == "serve" or f"\n## {command.name}\n" in text, command.name
    for status in ExitStatus:
        assert f"\n| {status.value} |" in text, status


SIGTERM_STATUS = 128 + signal.SIGTERM  # of the shell: the process itself is killed by the signal


def test_help_and_the_page_have_every_exit_status() -> None:
    statuses = {*map(int, ExitStatus), SIGTERM_STATUS}
    assert {int(number) for number in re.findall(r"^  +(\d+)  ", EPILOG, re.MULTILINE)} == statuses
    assert f"\n| {SIGTERM_STATUS} |" in (ROOT / "docs/terminal.md").read_text()


@pytest.mark.parametrize("line", [*shown("README.md"), *shown("docs/terminal.md")])
def test_every_command_that_is_shown_can_be_given(line: str) -> None:
    words = shlex.split(line)
    assert make_parser().parse_args(words).command.name == words[0]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_example_of_the_help_can_be_given(command: Command) -> None:
    for line in re.findall(r"trio-templar ([^|>\n]+)", command.examples):
        assert make_parser().parse_args(shlex.split(line)).command is command
