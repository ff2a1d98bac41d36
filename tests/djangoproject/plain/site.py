"""All addresses of the site: that which README prints, and those that the tests need besides."""

from django.contrib.auth.views import LoginView
from django.urls import include, path
from django.views.generic import TemplateView

from . import saving

urlpatterns = [
    path("", include("plain.urls")),
    path("api/car/<int:pk>/", saving.rename),
    path("login/", LoginView.as_view(template_name="login.html")),
    path("", TemplateView.as_view(template_name="page.html")),
]
