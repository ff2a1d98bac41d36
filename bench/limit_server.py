"""The bare send loop in Python, for machines without a C compiler: the same conversation as limit.c."""

import resource
import select
import socket
import sys


def send_all(sock: socket.socket, frame: bytes) -> int:
    """Send a whole frame; return how often the socket was full."""
    full = 0
    while frame:
        try:
            frame = frame[sock.send(frame) :]
        except BlockingIOError:
            select.select([], [sock], [])
            full += 1
    return full


def send_to_all(clients: list[socket.socket], frame: bytes) -> int:
    """Send `frame` to each client: the least Python can do."""
    full = 0
    size = len(frame)
    for client in clients:
        try:
            sent = client.send(frame)
        except BlockingIOError:
            sent = 0
        if sent != size:
            full += 1 + send_all(client, frame[sent:])
    return full


def main() -> None:
    """Accept as many clients as the argument says, then obey stdin."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    clients = [listener.accept()[0] for _ in range(int(sys.argv[1]))]
    for client in clients:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as every websocket server
    while line := sys.stdin.buffer.readline():
        frame = sys.stdin.buffer.read(int(line))
        before = resource.getrusage(resource.RUSAGE_SELF)
        full = send_to_all(clients, frame)
        after = resource.getrusage(resource.RUSAGE_SELF)
        print(after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, full, flush=True)


if __name__ == "__main__":
    main()
