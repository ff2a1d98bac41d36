"""Where the views are."""

import binder.router
from binder.views import ModelView
from django.contrib.auth.views import LoginView
from django.urls import include, path

from . import views

router = binder.router.Router().register(ModelView)

urlpatterns = [
    path("", views.page),
    path("login/", LoginView.as_view(template_name="login.html")),
    path("api/bootstrap/", views.bootstrap),
    path("api/", include(router.urls)),
]
