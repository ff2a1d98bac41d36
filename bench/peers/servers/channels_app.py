"""A Django project in one file: `/room/N` is a websocket into the group N, and a POST there sends to it."""

# mypy: disable-error-code="import-not-found,import-untyped,misc,untyped-decorator,unused-ignore"
# What it imports is installed where it runs, not where it is checked.

import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="bench",
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [("127.0.0.1", int(os.environ["REDIS_PORT"]))], "capacity": 10_000},
        }
    },
)
django.setup()


class Subscriber(AsyncWebsocketConsumer):
    """One client."""

    async def connect(self) -> None:
        """Join the group, then say so."""
        await self.channel_layer.group_add(self.scope["url_route"]["kwargs"]["room"], self.channel_name)
        await self.accept()
        await self.send(text_data="joined")

    async def publish(self, event: dict[str, Any]) -> None:
        """Pass a publication on."""
        await self.send(text_data=event["text"])


async def trigger(request: HttpRequest, room: str) -> HttpResponse:
    """Send the body to a group."""
    await get_channel_layer().group_send(room, {"type": "publish", "text": request.body.decode()})
    return HttpResponse("publish success")


urlpatterns = [path("room/<room>", trigger)]
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("room/<room>", Subscriber.as_asgi())]),
    }
)
