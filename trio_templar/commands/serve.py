"""`trio-templar serve`: run the gateway until a signal ends it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from trio_templar.commands.command import Command, run_on_trio
from trio_templar.commands.settings_sources import CONFIG, empty_tokens, misspelt, read_settings
from trio_templar.core.options import PREFIX, Option
from trio_templar.core.settings import groups
from trio_templar.errors import SettingsError
from trio_templar.machine import raise_descriptor_limit

# A program may serve listeners of its own; a command has none.
NO_ADDRESS: Final = "bind: it is empty, so no client could come; give HOST:PORT or unix:PATH"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add one option for each setting."""
    parser.add_argument("--config", metavar="FILE", help=f"TOML file with settings; also {CONFIG}")
    for title, listed in groups().items():
        group = parser.add_argument_group(title)
        for option in listed:
            _add(group, option)


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    text = f"{option.description} [{option.default_text}]".replace("%", "%%")
    if option.plain is bool:
        group.add_argument(option.flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif option.many:
        group.add_argument(option.flag, action="append", metavar=option.metavar, help=f"{text}; repeatable")
    else:
        group.add_argument(option.flag, metavar=option.metavar, help=text)


def run(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Run the gateway."""
    settings = read_settings(arguments, environment)
    if not settings.bind:
        raise SettingsError(NO_ADDRESS)
    from trio_templar.clock import RunningClock  # --help need not wait for these
    from trio_templar.commands.running import until_signal, warn
    from trio_templar.log import configure

    configure(settings.log_format, settings.log_level)
    for name, why in misspelt(environment).items():
        warn("unknown variable", name=name, why=why)
    for name, why in empty_tokens(settings, environment).items():
        warn("empty variable", name=name, why=why)
    raise_descriptor_limit(settings.descriptors)
    reread = partial(read_settings, arguments, environment)
    main = partial(until_signal, settings, reread, environment.get("NOTIFY_SOCKET", ""))
    return run_on_trio(main, clock=RunningClock())


COMMAND: Final = Command(
    name="serve",
    help="run the gateway",
    usage="trio-templar serve [--config FILE] [OPTION …]",
    description="Run the gateway until SIGTERM. Each option is also an environment variable, "
    f"{PREFIX}<NAME>, and a key of the TOML file; the command line wins, then the environment, then the file. "
    f"{CONFIG} names the file if no option does.",
    add_options=add_options,
    run=run,
    examples="""\
  trio-templar serve --demo
  trio-templar serve --api-url http://127.0.0.1:8000/api/
  trio-templar serve --config /etc/trio-templar.toml --log-format json
""",
)
