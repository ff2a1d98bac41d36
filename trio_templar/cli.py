"""The command: options, environment and TOML file → Settings → a running gateway. Only here are they read."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from trio_templar import __version__
from trio_templar.errors import SettingsError
from trio_templar.settings import PREFIX, Option, Settings, options, settings_from

if TYPE_CHECKING:
    from trio_templar.gateway import Gateway

USAGE_ERROR: Final = 2
# What SIGINT leaves anybody.
INTERRUPT_SECONDS: Final = 1.0

Source = Mapping[str, tuple[Any, str]]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 after a stop, 2 with one line on standard error if a setting is wrong."""
    arguments = vars(_parser().parse_args(argv))
    try:
        sys.exit(_serve(read_settings(arguments, os.environ)))
    except SettingsError as error:
        print(f"trio-templar: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


class _Parser(argparse.ArgumentParser):
    """argparse with one line for an error, not its usage too."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"trio-templar: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="trio-templar", description="Real-time websockets for APIs that only speak HTTP.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="run the gateway",
        usage="trio-templar serve [--config FILE] [OPTION …]",
        description="Run the gateway until SIGTERM. Each option is also an environment variable, "
        f"{PREFIX}<NAME>, and a key of the TOML file; the command line wins, then the environment, then the file.",
        allow_abbrev=False,
    )
    serve.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for option in options():
        _add(serve, option)
    return parser


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    text = f"{option.description} [{option.default_text}]".replace("%", "%%")
    if option.plain is bool:
        parser.add_argument(option.flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif option.many:
        parser.add_argument(option.flag, action="append", metavar=option.metavar, help=f"{text}; repeatable")
    else:
        parser.add_argument(option.flag, metavar=option.metavar, help=text)


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
            found[option.name] = (_items(text) if option.many else text, option.variable)
    return found


def _items(text: str) -> list[str]:
    return text.strip().splitlines() if "\n" in text else text.split()


def _from_file(path: Path) -> Source:
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"--config {path}: {error}") from error
    return {key.replace("-", "_"): (value, f"{key} in {path}") for key, value in table.items()}


def _serve(settings: Settings) -> int:
    """Run the gateway; returns the exit status."""
    import trio  # --help need not wait for these

    from trio_templar.log import configure

    configure(settings.log_format, settings.log_level)
    try:
        return trio.run(_until_signal, settings)
    except* SettingsError as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error


async def _until_signal(settings: Settings) -> int:
    """SIGTERM drains; SIGINT too, but waits a second at most; another signal ends it now."""
    import trio

    from trio_templar.gateway import serve

    status = 0
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                nonlocal status
                stopping = False
                async for number in signals:
                    if stopping:
                        status = 128 + number
                        nursery.cancel_scope.cancel()
                    stopping = True
                    _notify("STOPPING=1")
                    gateway.stop(INTERRUPT_SECONDS if number == signal.SIGINT else None)

            async def run(*, task_status: trio.TaskStatus[Gateway]) -> None:
                await serve(settings, task_status=task_status)
                nursery.cancel_scope.cancel()

            gateway = await nursery.start(run)
            nursery.start_soon(obey)
            _settle()
            _announce(gateway)
    return status


def _settle() -> None:
    """Let the garbage collector forget what is there now, and look less often: our path makes no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _announce(gateway: Gateway) -> None:
    """Say on standard error, and to systemd if it listens, that clients can come."""
    places = [*gateway.websocket_urls, *filter(None, [gateway.trigger_url])]
    demo = f", open {gateway.demo_url} in a browser" if gateway.demo_url else ""
    print(f"trio-templar: ready on {', '.join(places)}{demo}", file=sys.stderr, flush=True)
    _notify("READY=1")


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); without it, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        try:
            notifier.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            print(f"trio-templar: NOTIFY_SOCKET: {error}", file=sys.stderr)
