"""A command that asks a running gateway's HTTP API: its options, and a connection to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from trio_templar.commands.command import run_on_trio
from trio_templar.commands.places import caller_settings, http_place

if TYPE_CHECKING:
    from trio_templar.commands.gateway_api import GatewayApi


def run_asking(
    arguments: Mapping[str, Any],
    environment: Mapping[str, str],
    ask: Callable[[GatewayApi], Awaitable[int]],
) -> int:
    """Run `ask` with the HTTP API that options and settings lead to; returns its exit status."""
    settings = caller_settings(arguments, environment)
    place = http_place(arguments["url"], settings)
    from trio_templar.commands.gateway_api import GatewayApi

    async def main() -> int:
        ca, timeout = arguments["ca"] or "", arguments["timeout"]
        async with GatewayApi(place, token=settings.token, ca=ca, timeout_seconds=timeout) as api:
            return await ask(api)

    return run_on_trio(main)
