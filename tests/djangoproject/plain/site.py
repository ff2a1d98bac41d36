"""All addresses of the site: the one in README, and those that only the tests need."""

from django.contrib.auth.views import LoginView
from django.urls import include, path
from django.views.generic import TemplateView

from . import extras

urlpatterns = [
    path("", include("plain.urls")),
    path("api/car/<int:pk>/", extras.rename),
    path("static/client.js", extras.client),
    path("login/", LoginView.as_view(template_name="login.html")),
    path("", TemplateView.as_view(template_name="page.html")),
]
