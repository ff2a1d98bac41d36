"""What only the tests need: a view that saves, and one that serves the client for browsers."""

import json
from pathlib import Path

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse

from .models import Car

CLIENT = Path(__file__).parents[3] / "examples/client.js"


def rename(request: HttpRequest, pk: int) -> HttpResponse:
    """`PUT /api/car/1/`: give a car another name; `?rollback` takes it back."""
    with transaction.atomic():
        car = Car.objects.get(pk=pk)
        car.name = json.loads(request.body)["name"]
        car.save()
        transaction.set_rollback("rollback" in request.GET)
    return JsonResponse({"name": car.name})


def client(request: HttpRequest) -> HttpResponse:
    """Return `examples/client.js`."""
    return HttpResponse(CLIENT.read_text(), content_type="text/javascript")
