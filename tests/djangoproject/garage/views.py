"""The views: cars through django-binder, bootstrap through its RoomController, and one page."""

from typing import Any

from binder.json import JsonResponse
from binder.views import ModelView
from binder.websocket import RoomController
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import ensure_csrf_cookie

from .models import Car


class CarView(ModelView):  # type: ignore[misc]  # django-binder has no types
    """`/car/`: list, read, create and change cars."""

    model = Car

    @classmethod
    def get_rooms_for_user(cls, user: Any) -> list[dict[str, Any]]:
        """Staff may listen to every car, others to their own."""
        if user.is_staff:
            return [{"target": "car", "car": "*"}]
        return [{"target": "car", "car": car.pk} for car in Car.objects.filter(owner=user.username).order_by("pk")]


def bootstrap(request: HttpRequest) -> HttpResponse:
    """Tell the gateway who the client is, and which rooms it may enter."""
    if not request.user.is_authenticated:
        return HttpResponse("log in first", status=403)
    rooms = RoomController().register(ModelView).list_rooms_for_user(request.user)
    return JsonResponse({"user": {"id": request.user.pk}, "allowed_rooms": rooms})


@ensure_csrf_cookie  # type: ignore[untyped-decorator]
def page(request: HttpRequest) -> HttpResponse:
    """A page that listens to car 1; `?gateway=` says where."""
    return render(request, "page.html", {"gateway": request.GET.get("gateway", "")})
