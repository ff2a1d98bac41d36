"""High-templar 2.5.0 as its test application runs it; the argument is the URL of the API."""

# mypy: disable-error-code="import-not-found,import-untyped,misc,untyped-decorator,unused-ignore"
# What it imports is installed where it runs, not where it is checked.

import gevent.monkey

gevent.monkey.patch_all()

import sys  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402
from geventwebsocket.handler import WebSocketHandler  # noqa: E402
from high_templar.main import create_app  # noqa: E402


class Settings:
    """Where the API is."""

    API_URL = sys.argv[1]


if __name__ == "__main__":
    server = WSGIServer(("127.0.0.1", 0), create_app(Settings), handler_class=WebSocketHandler, log=None, backlog=4096)
    server.start()
    print("ready", server.server_port, flush=True)
    server.serve_forever()
