"""The view that the gateway asks."""

from django.http import HttpRequest, HttpResponse, JsonResponse

from .models import Car


def bootstrap(request: HttpRequest) -> HttpResponse:
    """Tell the gateway who the client is, and which rooms it may enter."""
    if not request.user.is_authenticated:
        return HttpResponse("log in first", status=403)
    cars = Car.objects.filter(owner=request.user.username)
    rooms = [{"target": "car", "car": car.pk} for car in cars]
    return JsonResponse({"user": {"id": request.user.pk}, "allowed_rooms": rooms})
