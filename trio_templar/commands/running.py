"""A gateway that runs as a process: from its start, which it announces, to the signal that ends it."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from trio_templar.core.settings import Settings
from trio_templar.errors import SettingsError
from trio_templar.gateway import Gateway
from trio_templar.log import announce, log, set_level
from trio_templar.serving import serve

logger = logging.getLogger("trio_templar.serve")
warn = partial(log, logger, logging.WARNING)

# A file can be on a disk that does not answer; other signals wait meanwhile.
REREAD_SECONDS: Final = 5.0
# What is left to clients and publishers after SIGINT.
INTERRUPT_SECONDS: Final = 1.0


async def until_signal(settings: Settings, reread: Callable[[], Settings], notify_socket: str) -> int:
    """Run a gateway; returns 0, or 128 and the number of the second signal that asked it to end.

    SIGHUP reads the settings again; SIGTERM drains; SIGINT stops within a second; another signal ends it now.
    """
    systemd = _Systemd(notify_socket)
    status = 0
    # Before the gateway starts: a signal that comes meanwhile waits, and does not kill.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def run(*, task_status: trio.TaskStatus[Gateway]) -> None:
                await serve(settings, task_status=task_status)
                nursery.cancel_scope.cancel()

            async def obey() -> None:
                nonlocal status
                status = await _obey(gateway, signals, reread, systemd)
                nursery.cancel_scope.cancel()

            gateway = await nursery.start(run)
            nursery.start_soon(obey, name="signals")
            _settle()
            with ready_file(settings.ready_file, _addresses(gateway)):
                _announce(gateway)
                systemd.tell("READY=1")
                await trio.sleep_forever()
    return status


async def _obey(
    gateway: Gateway, signals: AsyncIterator[int], reread: Callable[[], Settings], systemd: _Systemd
) -> int:
    """Do what signals ask, until there are two that ask for the end; returns the exit status that is due then."""
    stopping = False
    async for number in signals:
        if number == signal.SIGHUP:
            await _reload(gateway, reread, systemd)
        elif stopping:
            break
        else:
            stopping = True
            systemd.tell("STOPPING=1")
            _end(gateway, number)
    return 128 + number


def _end(gateway: Gateway, number: int) -> None:
    if number == signal.SIGINT:
        log(logger, logging.INFO, "stop", connections=gateway.statistics().connections, seconds=INTERRUPT_SECONDS)
        gateway.stop(INTERRUPT_SECONDS)
    else:
        gateway.drain()


async def _reload(gateway: Gateway, reread: Callable[[], Settings], systemd: _Systemd) -> None:
    """Let `gateway` take over what it can of the settings as they are now; where they are wrong, nothing changes."""
    # systemd compares the time with its own, to know which reload this is the answer to.
    systemd.tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
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
    systemd.tell("READY=1")


def _settle() -> None:
    """Let the garbage collector forget what is there now, and look less often: our path makes no cycles."""
    # With Python's own thresholds, a quarter of the time in which clients were let in went to the collector.
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
    urls = [*gateway.websocket_urls, *filter(None, [gateway.trigger_url])]
    page = f", dashboard at {gateway.page_url}" if gateway.page_url else ""
    announce(logger, "ready", f"trio-templar: ready on {', '.join(urls)}{page}", **_addresses(gateway))


class _Systemd:
    """Who is told how the gateway does (sd_notify(3)), at the address NOTIFY_SOCKET; nobody, if that is empty."""

    def __init__(self, address: str) -> None:
        # @ stands for the abstract namespace (unix(7)).
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def tell(self, state: str) -> None:
        """Send `state`. What goes wrong is logged: it must not end a gateway that serves."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            try:
                notifier.sendto(state.encode(), self._address)
            except (OSError, ValueError) as error:
                warn("NOTIFY_SOCKET", why=error)


@contextmanager
def ready_file(path: str, addresses: Mapping[str, Any]) -> Iterator[None]:
    """Have `addresses`, and our `pid`, as one JSON object in the file at `path`; empty: in none. Blocks.

    It appears whole, and goes at the end unless another process has written it since.
    Raises SettingsError: if it cannot be written.
    """
    if not path:
        yield
        return
    text = json.dumps({**addresses, "pid": os.getpid()}) + "\n"
    _write(path, text)
    try:
        yield
    finally:
        with suppress(OSError, UnicodeError):
            if Path(path).read_text(encoding="utf-8") == text:
                Path(path).unlink()


def _write(path: str, text: str) -> None:
    # Not in place: a script that waits for the file would find half of it.
    part = Path(f"{path}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise SettingsError(f"ready_file: {path}: {error.strerror or error}") from error
