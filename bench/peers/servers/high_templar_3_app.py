"""High-templar 3.1.0 with the settings of its samples."""

# mypy: disable-error-code="import-not-found,import-untyped,misc,untyped-decorator,unused-ignore"
# What it imports is installed where it runs, not where it is checked.

import os
from typing import ClassVar

from high_templar.main import create_app


class Settings:
    """Where the API and the broker are."""

    API_URL = os.environ["API_URL"]
    API_SOCKET = None
    CONNECTION_HEADERS: ClassVar[dict[str, object]] = {}
    RABBITMQ: ClassVar[dict[str, object]] = {
        "enabled": True,
        "exchange_name": "hightemplar",
        "username": "guest",
        "password": "guest",
        "host": "127.0.0.1",
    }


application = create_app(Settings)
