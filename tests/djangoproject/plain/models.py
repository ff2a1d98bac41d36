"""Cars, and a publication whenever one is saved."""

from django.db import models, transaction
from django.db.models.signals import post_save
from django.dispatch import receiver

from .live import publish


class Car(models.Model):  # type: ignore[misc]  # Django has no types
    name = models.CharField(max_length=100)
    owner = models.CharField(max_length=100)


@receiver(post_save, sender=Car)  # type: ignore[untyped-decorator]
def tell_everybody(instance: Car, **_: object) -> None:
    """Publish the saved car after the commit, so that a rollback publishes nothing."""
    room = {"target": "car", "car": instance.pk}
    data = {"id": instance.pk, "name": instance.name}
    transaction.on_commit(lambda: publish([room], data))
