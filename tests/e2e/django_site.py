"""The Django site as a person, and as a program with a token, uses it."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path

from tests.e2e.processes import PATIENCE_SECONDS, GatewayProcess, Site, gateway


class Visitor:
    """Somebody with a browser's cookies and none of its JavaScript."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._jar = CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self._jar)
        )

    def cookie(self, name: str) -> str:
        return next(cookie.value or "" for cookie in self._jar if cookie.name == name)

    @property
    def cookies(self) -> dict[str, str]:
        """The header a browser would send with a websocket."""
        return {"Cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._jar)}

    def get(self, path: str) -> str:
        with self._opener.open(self._site.url + path, timeout=PATIENCE_SECONDS) as response:
            return str(response.read().decode())

    def login(self, name: str) -> None:
        """Fetch the form, send it back with its CSRF token, and get a session."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.get("login/"))
        assert token
        form = {"csrfmiddlewaretoken": token[1], "username": name, "password": f"{name}'s password"}
        body = urllib.parse.urlencode(form).encode()
        with self._opener.open(self._site.url + "login/", body, timeout=PATIENCE_SECONDS) as response:
            assert f"You are {name}." in response.read().decode()

    def save_car(self, name: str, car: int = 1, query: str = "") -> None:
        """Change a car through the API of the site, which saves it, which triggers."""
        request = urllib.request.Request(
            f"{self._site.api_url}car/{car}/{query}",
            json.dumps({"name": name}).encode(),
            {"Content-Type": "application/json", "X-CSRFToken": self.cookie("csrftoken")},
            method="PUT",
        )
        with self._opener.open(request, timeout=PATIENCE_SECONDS) as response:
            assert json.load(response)["name"] == name


@dataclass(frozen=True)
class Garage:
    """The running site and its gateway."""

    site: Site
    gateway: GatewayProcess


@contextmanager
def run_garage(
    folder: Path, *arguments: str, credentials: str = "", urls: str = "garage.urls", https: bool = False
) -> Iterator[Garage]:
    """Run both; `credentials` go into HIGH_TEMPLAR_URL, which is all that the site knows of the gateway."""
    site = Site(urls, https=https)
    try:
        with gateway(f"--api-url={site.api_url}", *arguments) as process:
            url = process.http_url.replace("http://", f"http://{credentials}@" if credentials else "http://")
            with site.run(folder, url):
                yield Garage(site, process)
    finally:
        site.close()
