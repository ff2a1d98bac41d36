"""The addresses of the view and of the page, as README says them."""

from django.urls import path
from django.views.generic import TemplateView

from . import views

urlpatterns = [
    path("api/bootstrap/", views.bootstrap),
    path("live/", TemplateView.as_view(template_name="live.html")),
]
