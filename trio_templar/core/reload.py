"""New settings for a gateway that runs: which of them it can take over at once, and what is made of them. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from trio_templar.core.options import Reload
from trio_templar.core.settings import Settings, options


class Reloaded(NamedTuple):
    """What comes of new settings: those in force, what changed by that, and what would need a restart to change."""

    settings: Settings
    changed: list[str]
    restart: list[str]


def merge(old: Settings, new: Settings) -> Reloaded:
    """Return what comes of `new`: what cannot be taken over stays as it is in `old`.

    Raises SettingsError: if the two do not go together; the text names the setting.
    """
    names = [option.name for option in options() if getattr(old, option.name) != getattr(new, option.name)]
    possible = {option.name for option in options() if option.reload is not Reload.RESTART}
    if bool(old.tls_cert) != bool(new.tls_cert):
        possible -= {"tls_cert", "tls_key"}  # another certificate is no other protocol
    changed = [name for name in names if name in possible]
    if old.token != new.token and not {"trigger_token", "trigger_token_file"} & set(changed):
        changed.append("trigger_token_file")  # the same file, with another token in it
    restart = [name for name in names if name not in possible]
    settings = replace(new, **{name: getattr(old, name) for name in restart}) if restart else new
    return Reloaded(settings, changed, restart)
