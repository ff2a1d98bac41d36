"""What the tests need and README does not print: a view that saves."""

import json

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse

from .models import Car


def rename(request: HttpRequest, pk: int) -> HttpResponse:
    """`PUT /api/car/1/`: give a car another name; `?rollback` takes it back."""
    with transaction.atomic():
        car = Car.objects.get(pk=pk)
        car.name = json.loads(request.body)["name"]
        car.save()
        transaction.set_rollback("rollback" in request.GET)
    return JsonResponse({"name": car.name})
