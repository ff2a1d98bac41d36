"""Where clients and callers come in: addresses made into listeners, and the URL that reaches each."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from trio_templar.core.settings import Settings, is_local
from trio_templar.core.texts import inherited_descriptor, split_address
from trio_templar.errors import SettingsError

BACKLOG: Final = 4096
# How long another process may take that opens a socket in the same folder.
FOLDER_SECONDS: Final = 5.0
FOLDER_LOOK_SECONDS: Final = 0.05
# What binding says to an address that a name has, and this machine has not: ::1 of `localhost` without IPv6.
NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A unix socket that we made at `path`; its file goes with it, unless another one has taken its place."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self.socket = self._listener.socket
        self._path = Path(path).absolute()
        self._made = self._path.stat()

    async def accept(self) -> trio.SocketStream:
        """Return the stream of the next client."""
        return await self._listener.accept()

    async def aclose(self) -> None:
        """Listen no longer."""
        if self.socket.fileno() >= 0:
            self._remove()  # while the open socket keeps the number of its inode from other files
        await self._listener.aclose()

    def _remove(self) -> None:
        with suppress(OSError):  # it has gone, or the folder is no longer ours
            if os.path.samestat(self._path.stat(), self._made):
                self._path.unlink()


Listening: TypeAlias = trio.SocketListener | UnixListener


async def open_listeners(address: str, settings: Settings | None = None) -> list[Listening]:
    """Listen on `HOST:PORT`, `[V6]:PORT`, `unix:PATH`, or the socket that `fd://N` is.

    A name is listened on at all its addresses that this machine has. A socket file that nobody serves any more is
    replaced; ours is removed at the end. An inherited socket is ours from then on. Blocks while another process opens
    a socket in the same folder, for `FOLDER_SECONDS` at most.
    Raises SettingsError: if that cannot be done; the text names the address.
    """
    settings = settings or Settings()
    try:
        if address.startswith("unix:"):
            return [await _unix_listener(address.removeprefix("unix:"), settings.socket_mode)]
        descriptor = inherited_descriptor(address)
        if descriptor is not None:
            listeners = [_inherited_listener(descriptor)]
        else:
            listeners = await _tcp_listeners(*split_address(address))
    except OSError as error:
        raise SettingsError(f"cannot listen on {address}: {error.strerror or error}") from error
    for listener in listeners:
        if not is_unix(listener):  # accepted sockets inherit it
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer_bytes)
    return [*listeners]


async def _tcp_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on all addresses of `host` that are here; Trio would leave it at the first that is not."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[trio.SocketListener] = []
    absent: OSError | None = None
    try:
        for family, _, _, _, place in dict.fromkeys(found):  # /etc/hosts may say one twice
            try:
                listeners.append(_tcp_listener(family, place))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                absent = error
        if absent is not None and not listeners:
            raise absent
    except OSError:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def _tcp_listener(family: int, place: tuple[Any, ...]) -> trio.SocketListener:
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # or [::] would take 0.0.0.0 too
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def _unix_listener(path: str, mode: int | None) -> UnixListener:
    # Looking, replacing and listening is one step: two gateways that start at once would take over each other's.
    async with _locked(Path(path).parent):
        if Path(path).is_socket():
            _refuse_if_served(path)
            Path(path).unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(path)
            if mode is not None:
                Path(path).chmod(mode)  # before anybody can connect
            sock.listen(BACKLOG)
            return UnixListener(sock, path)
        except OSError:
            sock.close()
            raise


@asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[None]:
    """Hold the lock of `folder` itself: one in a file of its own would be left there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with trio.move_on_after(FOLDER_SECONDS) as patience:
            while not _lock(descriptor):  # noqa: ASYNC110  # the kernel has no event for it
                await trio.sleep(FOLDER_LOOK_SECONDS)
        if patience.cancelled_caught:
            raise OSError(errno.EAGAIN, "another process is about to listen in that folder")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_if_served(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:  # served by one that has more to do than it can
            pass
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _inherited_listener(descriptor: int) -> trio.SocketListener:
    sock = socket.socket(fileno=descriptor)
    try:
        sock.set_inheritable(False)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except ValueError as error:  # no stream, or not listening
        sock.close()
        raise OSError(errno.EINVAL, f"it is no listening stream socket ({error})") from error


def is_unix(listener: Listening) -> bool:
    """Whether `listener` is a unix socket."""
    return listener.socket.family == socket.AF_UNIX


def is_reachable(listener: Listening) -> bool:
    """Whether other machines can reach `listener`: it is no unix socket, and not on a loopback address."""
    return not is_unix(listener) and not is_local("[{}]:{}".format(*listener.socket.getsockname()[:2]))


def url_of(listener: Listening, scheme: str, path: str) -> str:
    """Return the URL that reaches `listener`; of a unix socket, its path as `unix:PATH`."""
    name = listener.socket.getsockname()
    if isinstance(name, str | bytes):
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{scheme}://{host}:{name[1]}{path}"
