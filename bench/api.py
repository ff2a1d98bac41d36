"""The backend: a minimal HTTP server that answers every request from a constant. `python -m bench.api --help`.

It stands for an API that is not the bottleneck: one epoll loop, keep-alive, no parsing beyond the end of a head.
"""

import argparse
import json
import select
import socket
import sys

ROOMS = [{"target": "room", "id": "*"}]


def answer(rooms: object) -> bytes:
    """Return the HTTP response to a bootstrap."""
    body = json.dumps({"allowed_rooms": rooms}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def serve(listener: socket.socket, response: bytes) -> None:
    """Answer until killed."""
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                connections[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
            elif not _answer_one(connections[fd], response):
                connections.pop(fd).close()


def _answer_one(sock: socket.socket, response: bytes) -> bool:
    """Answer each head that has arrived (a bootstrap request is one small packet); False at the end."""
    try:
        data = sock.recv(65536)
        sock.sendall(response * data.count(b"\r\n\r\n"))
    except OSError:
        return False
    return bool(data)


def main() -> None:
    """Serve on a port of its own; print the URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", default=json.dumps(ROOMS), help="the allowed rooms, as JSON (default %(default)s)")
    args = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
    try:
        serve(listener, answer(json.loads(args.rooms)))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
