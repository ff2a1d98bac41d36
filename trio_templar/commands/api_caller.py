"""What the commands have in common that call the HTTP API of a running gateway: options, and a way to it."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from trio_templar.commands.addresses import http_address
from trio_templar.commands.command import add_connection_options, given_token, run_on_trio
from trio_templar.commands.settings_sources import read_settings
from trio_templar.core.settings import Settings

if TYPE_CHECKING:
    from trio_templar.commands.gateway_api import GatewayApi


def add_api_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that calls the HTTP API."""
    parser.add_argument("--config", metavar="FILE", help="the gateway's TOML file, for its trigger_bind and token")
    parser.add_argument("--url", help="the HTTP API, as http://HOST:PORT or unix:PATH [that of trigger_bind]")
    parser.add_argument(
        "--token", metavar="TOKEN", help="the trigger token; a file or the environment hides it from ps"
    )
    parser.add_argument("--token-file", metavar="FILE", help="file whose first line is the trigger token")
    add_connection_options(parser)


def caller_settings(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Return the gateway's settings with the token that the options give. Raises SettingsError: as `serve` would."""
    given: dict[str, Any] = {"config": arguments["config"]}
    token = given_token(arguments)
    if token:  # an empty one, as of `--token "$TOKEN"`, says nothing
        given |= {"trigger_token": token, "trigger_token_file": ""}
    return read_settings(given, environment)


class ApiCaller:
    """A caller whose address, token and patience are those of options and settings.

    Raises CommandError or SettingsError: if one of those is wrong, before any call.
    """

    def __init__(self, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.settings = caller_settings(arguments, environment)
        self._address = http_address(arguments["url"], self.settings)
        self._ca: str = arguments["ca"] or ""
        self._timeout_seconds: float = arguments["timeout"]

    def run(self, call: Callable[[GatewayApi], Awaitable[int]], *, wait_seconds: float = 0.0) -> int:
        """Run `call` on Trio with the HTTP API, and return its exit status.

        The gateway has `wait_seconds` more than the options say, because it was asked to wait that long.
        """
        from trio_templar.commands.gateway_api import GatewayApi

        async def main() -> int:
            seconds = self._timeout_seconds + wait_seconds
            token = self.settings.token
            async with GatewayApi(self._address, token=token, ca=self._ca, timeout_seconds=seconds) as api:
                return await call(api)

        return run_on_trio(main)
