"""A Django site as one finds it: sessions, CSRF, SQLite, django-binder, and triggers that go to HIGH_TEMPLAR_URL.

With SITE_URLS=plain.site it is one in plain Django, whose triggers go to GATEWAY_URL. With SITE_HTTPS=1 it redirects
whoever did not come by https, as the proxy in front says.
"""

import os

SECRET_KEY = "for tests only"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = os.environ.get("SITE_URLS", "garage.urls")
USE_TZ = True
LOGIN_REDIRECT_URL = "/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick: the users are made at each start

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "binder",
    "binder.plugins.token_auth",
    "garage",
    "plain",
]

MIDDLEWARE = [
    "request_id.middleware.RequestIdMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "binder.plugins.token_auth.middleware.TokenAuthMiddleware",
]

if os.environ.get("SITE_HTTPS"):
    MIDDLEWARE.insert(0, "django.middleware.security.SecurityMiddleware")
    SECURE_SSL_REDIRECT = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.contrib.auth.context_processors.auth"]},
    }
]

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["GARAGE_DATABASE"]}}

# The site's whole knowledge of the gateway: where triggers go.
HIGH_TEMPLAR_URL = GATEWAY_URL = os.environ.get("HIGH_TEMPLAR_URL")
