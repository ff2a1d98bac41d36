"""Serve the site on a socket that the parent process listens on already, so that its port is known before."""

import socket
from argparse import ArgumentParser
from typing import Any

from binder.plugins.token_auth.models import Token
from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types
    """`manage.py serve --fd N`."""

    help = "make the database, with two users and a car, and serve on the listening socket N"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the descriptor."""
        parser.add_argument("--fd", type=int, required=True)

    def handle(self, *args: Any, fd: int, **options: Any) -> None:
        """Serve until killed."""
        call_command("migrate", run_syncdb=True, verbosity=0)
        seed()
        server = ThreadedWSGIServer(("127.0.0.1", 0), QuietHandler, bind_and_activate=False)
        server.socket.close()
        server.socket = socket.socket(fileno=fd)
        server.server_address = server.socket.getsockname()
        server.server_name, server.server_port = server.server_address
        server.setup_environ()
        server.daemon_threads = True
        server.set_app(get_wsgi_application())
        self.stdout.write("ready")
        self.stdout.flush()
        server.serve_forever()


class QuietHandler(WSGIRequestHandler):  # type: ignore[misc]  # Django has no types
    """No line for each request."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Say nothing."""


def seed() -> None:
    """Ann may do everything, Bob owns the car and may do nothing."""
    ann = User.objects.create_superuser("ann", password="ann's password")
    Token.objects.create(user=ann, token="anns-token")
    User.objects.create_user("bob", password="bob's password")
    for name in ("garage.Car", "plain.Car"):
        model = apps.get_model(name)
        model.objects.bulk_create([model(name="Citroën", owner="bob")])  # no signal: nobody listens yet
