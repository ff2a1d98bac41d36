"""Cars, and the trigger that goes out whenever one is saved."""

from typing import Any

from binder.models import BinderModel
from binder.websocket import trigger
from django.db import models, transaction
from django.db.models.signals import post_save
from django.dispatch import receiver


class Car(BinderModel):  # type: ignore[misc]  # django-binder has no types
    """A car in the garage."""

    name = models.CharField(max_length=100)
    owner = models.CharField(max_length=100)


@receiver(post_save, sender=Car)  # type: ignore[untyped-decorator]
def tell_everybody(instance: Car, **_: Any) -> None:
    """Publish after the commit, to the room of this car and to the room named `*`, for all cars."""
    data = {"id": instance.pk, "name": instance.name}
    rooms = [{"target": "car", "car": instance.pk}, {"target": "car", "car": "*"}]
    transaction.on_commit(lambda: trigger(data, rooms))
