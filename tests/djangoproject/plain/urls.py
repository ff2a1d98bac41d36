"""The address of the view."""

from django.urls import path

from . import views

urlpatterns = [
    path("api/bootstrap/", views.bootstrap),
]
