"""Where clients and callers come in: addresses made into listeners, and the URL that reaches each."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Final

import trio

from trio_templar.errors import SettingsError
from trio_templar.settings import Settings, inherited_descriptor, is_local, split_address

BACKLOG: Final = 4096


async def open_listeners(address: str, settings: Settings | None = None) -> list[trio.SocketListener]:
    """Listen on `HOST:PORT`, `[V6]:PORT` (a name may give several), `unix:PATH`, or the socket that `fd://N` is.

    A socket file that nobody serves any more is replaced. An inherited socket is ours from then on.
    Raises SettingsError: if that cannot be done; the text names the address.
    """
    settings = settings or Settings()
    try:
        if address.startswith("unix:"):
            return [_unix_listener(address.removeprefix("unix:"), settings.socket_mode)]
        descriptor = inherited_descriptor(address)
        if descriptor is not None:
            listeners = [_inherited_listener(descriptor)]
        else:
            host, port = split_address(address)
            listeners = list(await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG))
    except OSError as error:
        raise SettingsError(f"cannot listen on {address}: {error.strerror or error}") from error
    for listener in listeners:
        if not is_unix(listener):  # accepted sockets inherit it
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer_bytes)
    return listeners


def _unix_listener(path: str, mode: int | None) -> trio.SocketListener:
    if Path(path).is_socket():
        _refuse_if_served(path)
        Path(path).unlink()
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        if mode is not None:
            Path(path).chmod(mode)  # before anybody can connect
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _refuse_if_served(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError:
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _inherited_listener(descriptor: int) -> trio.SocketListener:
    sock = socket.socket(fileno=descriptor)
    try:
        sock.set_inheritable(False)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except ValueError as error:  # no stream, or not listening
        sock.close()
        raise OSError(errno.EINVAL, f"it is no listening stream socket ({error})") from error


def is_unix(listener: trio.SocketListener) -> bool:
    """Whether `listener` is a unix socket."""
    return listener.socket.family == socket.AF_UNIX


def is_reachable(listener: trio.SocketListener) -> bool:
    """Whether other machines can reach `listener`: it is no unix socket, and not on a loopback address."""
    return not is_unix(listener) and not is_local("[{}]:{}".format(*listener.socket.getsockname()[:2]))


def url_of(listener: trio.SocketListener, scheme: str, path: str) -> str:
    """Return the URL that reaches `listener`; of a unix socket, its path as `unix:PATH`."""
    name = listener.socket.getsockname()
    if isinstance(name, str | bytes):
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{scheme}://{host}:{name[1]}{path}"
