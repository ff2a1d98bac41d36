"""Where settings come from: options of the command line, the environment, a TOML file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from trio_templar.core.options import PREFIX, hint
from trio_templar.core.settings import TOKENS, Settings, options, settings_from
from trio_templar.core.texts import number
from trio_templar.errors import SettingsError
from trio_templar.files import read_text

# Where the file of settings is, if no option says so.
CONFIG: Final = f"{PREFIX}CONFIG"
# Of sd_listen_fds(3).
FIRST_DESCRIPTOR: Final = 3
MAX_DESCRIPTORS: Final = 65_536

Source = Mapping[str, tuple[Any, str]]


def read_settings(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Return the settings of parsed arguments, environment and file. Raises SettingsError: naming what is wrong.

    Sockets that systemd handed over take the place of addresses, wherever those are given.
    """
    path = arguments.get("config") or environment.get(CONFIG)
    return settings_from(
        _from_systemd(environment),
        {
            option.name: (arguments[option.name], option.flag)
            for option in options()
            if arguments.get(option.name) is not None
        },
        _from_environment(environment),
        _from_file(Path(path)) if path else {},
    )


def _from_systemd(environment: Mapping[str, str]) -> Source:
    """Return the sockets that were handed to this process (sd_listen_fds(3)); one named `trigger` is for triggers."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = environment.get("LISTEN_FDS", "0")
    number_of = number(count, MAX_DESCRIPTORS)
    if number_of is None:
        raise SettingsError(f"LISTEN_FDS: {count[:20]!r} is not a number of sockets")
    numbers = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + number_of)
    named = list(zip_longest(numbers, environment.get("LISTEN_FDNAMES", "").split(":")[: len(numbers)]))
    triggers = [f"fd://{number}" for number, name in named if name == "trigger"]
    sockets = [f"fd://{number}" for number, name in named if name != "trigger"]
    if len(triggers) > 1:
        raise SettingsError("LISTEN_FDNAMES: more than one socket is named trigger")
    found: dict[str, tuple[Any, str]] = {}
    if triggers:
        found["trigger_bind"] = triggers[0], "LISTEN_FDS"
    if sockets:
        found["bind"] = sockets, "LISTEN_FDS"
    return found


def _from_environment(environment: Mapping[str, str]) -> Source:
    """Return what is set; a list is split at blanks, or at line ends where an item has blanks of its own.

    An empty variable is one that is not set, as a compose file has it of `${VAR:-}`.
    """
    found: dict[str, tuple[Any, str]] = {}
    for option in options():
        text = environment.get(option.variable)
        if text is not None and text.strip():
            found[option.name] = (option.split(text) if option.many else text, option.variable)
    return found


def misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that look like one of ours and are none, and what to say of each.

    All others with our prefix may be another's: Kubernetes sets some for a service of our name.
    """
    known = [option.variable for option in options()] + [CONFIG]
    ours = [name.removeprefix(PREFIX) for name in known]
    unknown = [name for name in environment if name.startswith(PREFIX) and name not in known]
    hints = {name: hint(name.removeprefix(PREFIX), ours, 0.8, PREFIX) for name in unknown}
    return {name: f"there is no such setting{text}" for name, text in hints.items() if text}


def empty_tokens(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that should have given a token for the HTTP API, which has none, and what to say of each."""
    if settings.token or not settings.trigger_bind:
        return {}
    variables = [option.variable for option in options() if option.name in TOKENS]
    why = "it is empty, so it counts as unset, and callers need no token"
    return {name: why for name in variables if name in environment and not environment[name].strip()}


def _from_file(path: Path) -> Source:
    said_as = "--config"
    try:
        table = tomllib.loads(read_text(path, said_as))
    except RecursionError:
        raise SettingsError(f"{said_as} {path}: nested too deeply") from None
    except ValueError as error:  # not only TOMLDecodeError: a number of 4301 digits
        raise SettingsError(f"{said_as} {path}: {error}") from error
    return {key.replace("-", "_"): (value, f"{key} in {path}") for key, value in table.items()}
