"""Where settings come from: options of the command line, the environment, a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trio_templar.errors import SettingsError
from trio_templar.settings import PREFIX, Settings, options, settings_from

Source = Mapping[str, tuple[Any, str]]


def read_settings(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Return the settings of parsed arguments, environment and file. Raises SettingsError: naming what is wrong."""
    path = arguments.get("config") or environment.get(f"{PREFIX}CONFIG")
    return settings_from(
        {
            option.name: (arguments[option.name], option.flag)
            for option in options()
            if arguments.get(option.name) is not None
        },
        _from_environment(environment),
        _from_file(Path(path)) if path else {},
    )


def _from_environment(environment: Mapping[str, str]) -> Source:
    """Return what is set; a list is split at blanks, or at line ends where an item has blanks of its own."""
    found: dict[str, tuple[Any, str]] = {}
    for option in options():
        text = environment.get(option.variable)
        if text is not None:
            found[option.name] = (option.split(text) if option.many else text, option.variable)
    return found


def _from_file(path: Path) -> Source:
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"--config {path}: {error}") from error
    return {key.replace("-", "_"): (value, f"{key} in {path}") for key, value in table.items()}
