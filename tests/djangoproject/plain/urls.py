"""The address of the view, as README says it."""

from django.urls import path

from . import views

urlpatterns = [
    path("api/bootstrap/", views.bootstrap),
]
