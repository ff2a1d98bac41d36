"""`trio-templar serve`: run the gateway until a signal ends it."""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trio_templar.commands.command import Command, run_on_trio
from trio_templar.commands.ready import ready_file
from trio_templar.commands.sources import CONFIG, misspelt, read_settings
from trio_templar.core.options import PREFIX, Option
from trio_templar.core.settings import Settings, groups
from trio_templar.errors import SettingsError
from trio_templar.machine import raise_descriptor_limit

if TYPE_CHECKING:
    import trio

    from trio_templar.gateway import Gateway

logger = logging.getLogger("trio_templar.serve")

# A file can be on a disk that does not answer; other signals wait meanwhile.
REREAD_SECONDS: Final = 5.0
# A program may serve listeners of its own; a command has none.
NO_ADDRESS: Final = "bind: it is empty, so no client could come; give HOST:PORT or unix:PATH"
# What SIGINT leaves anybody.
INTERRUPT_SECONDS: Final = 1.0


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
    from trio_templar.log import configure, log

    configure(settings.log_format, settings.log_level)
    for name, why in misspelt(environment).items():
        log(logger, logging.WARNING, "unknown variable", name=name, why=why)
    raise_descriptor_limit(settings.descriptors)
    reread = partial(read_settings, arguments, environment)
    return run_on_trio(
        partial(_until_signal, settings, reread, environment.get("NOTIFY_SOCKET", "")), clock=RunningClock()
    )


async def _until_signal(settings: Settings, reread: Callable[[], Settings], notify_socket: str) -> int:
    """SIGHUP reads the settings again; SIGTERM drains; SIGINT stops within a second; another signal ends it now."""
    import trio

    from trio_templar.log import log
    from trio_templar.serving import serve

    status = 0
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                nonlocal status
                stopping = False
                async for number in signals:
                    if number == signal.SIGHUP:
                        await _reload(gateway, reread, notify_socket)
                        continue
                    if stopping:
                        status = 128 + number
                        nursery.cancel_scope.cancel()
                    stopping = True
                    _notify(notify_socket, "STOPPING=1")
                    if number == signal.SIGINT:
                        clients = len(gateway.connections)
                        log(logger, logging.INFO, "stop", connections=clients, seconds=INTERRUPT_SECONDS)
                        gateway.stop(INTERRUPT_SECONDS)
                    else:
                        gateway.drain()

            async def run(*, task_status: trio.TaskStatus[Gateway]) -> None:
                await serve(settings, task_status=task_status)
                nursery.cancel_scope.cancel()

            gateway = await nursery.start(run)
            nursery.start_soon(obey, name="signals")
            _settle()
            with ready_file(settings.ready_file, _addresses(gateway)):
                _announce(gateway)
                _notify(notify_socket, "READY=1")
                await trio.sleep_forever()
    return status


async def _reload(gateway: Gateway, reread: Callable[[], Settings], notify_socket: str) -> None:
    """Let `gateway` take over what it can of the settings as they are now; where they are wrong, nothing changes."""
    import trio

    from trio_templar.log import log, set_level

    _notify(notify_socket, f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        with trio.fail_after(REREAD_SECONDS):
            settings = await trio.to_thread.run_sync(reread, abandon_on_cancel=True)
        gateway.reload(settings)
        set_level(settings.log_level)
    except SettingsError as error:
        log(logger, logging.ERROR, "not reloaded", why=error)
    except trio.TooSlowError:
        log(logger, logging.ERROR, "not reloaded", why=f"the file could not be read within {REREAD_SECONDS:g} s")
    except Exception as error:  # a fault of ours must not end a gateway that serves
        logger.exception("not reloaded: %s", type(error).__name__)
    _notify(notify_socket, "READY=1")


def _settle() -> None:
    """Let the garbage collector forget what is there now, and look less often: our path makes no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _addresses(gateway: Gateway) -> dict[str, Any]:
    return {
        "websockets": list(gateway.websocket_urls),
        "triggers": gateway.trigger_url,
        "dashboard": gateway.page_url,
    }


def _announce(gateway: Gateway) -> None:
    """Say on standard error that clients can come."""
    from trio_templar.log import announce

    places = [*gateway.websocket_urls, *filter(None, [gateway.trigger_url])]
    page = f", dashboard at {gateway.page_url}" if gateway.page_url else ""
    announce(logger, "ready", f"trio-templar: ready on {', '.join(places)}{page}", **_addresses(gateway))


def _notify(address: str, state: str) -> None:
    """Tell systemd (sd_notify(3)) at `address`; if that is empty, nobody."""
    if not address:
        return
    from trio_templar.log import log

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        try:
            notifier.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except (OSError, ValueError) as error:
            log(logger, logging.WARNING, "NOTIFY_SOCKET", why=error)


COMMAND: Final = Command(
    name="serve",
    help="run the gateway",
    usage="trio-templar serve [--config FILE] [OPTION …]",
    description="Run the gateway until SIGTERM. Each option is also an environment variable, "
    f"{PREFIX}<NAME>, and a key of the TOML file; the command line wins, then the environment, then the file. "
    f"{CONFIG} is the file where no option says which.",
    add_options=add_options,
    run=run,
    examples="""\
  trio-templar serve --demo
  trio-templar serve --api-url http://127.0.0.1:8000/api/
  trio-templar serve --config /etc/trio-templar.toml --log-format json
""",
)
