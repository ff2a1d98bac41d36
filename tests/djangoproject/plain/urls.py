"""Where the views are: those that README prints, and what else the tests need."""

from django.contrib.auth.views import LoginView
from django.urls import path
from django.views.generic import TemplateView

from . import saving, views

urlpatterns = [
    path("api/bootstrap/", views.bootstrap),
    path("api/car/<int:pk>/", saving.rename),
    path("login/", LoginView.as_view(template_name="login.html")),
    path("", TemplateView.as_view(template_name="page.html")),
]
