"""The site of deploy/nginx.conf in Debian's nginx: the API and the gateway under one name."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.e2e.api import Api
from tests.e2e.browser import CHROMIUM, run_browser
from tests.e2e.clients import (
    connect,
    dial,
    head,
    masked_text,
    publish_until_cut,
    read_until,
    receive,
    request,
    subscriber,
    trigger,
)
from tests.e2e.django_site import Visitor
from tests.e2e.processes import ROOT, GatewayProcess, Process, Site, eventually, gateway, reserved_address

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
SITE = ROOT / "deploy/nginx.conf"

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx here; on Debian: apt install nginx-light")


class Nginx(Process):
    """nginx with our site at `place`, in front of an API and a gateway. Ending it ends its workers too."""

    def __init__(self, folder: Path, place: str, api: Api | Site, behind: GatewayProcess) -> None:
        assert NGINX is not None
        self.place = place
        site = SITE.read_text()
        for ours, theirs in (
            ("listen 80 ", f"listen {self.place} "),
            ("/var/log/nginx/", f"{folder}/"),
            ("proxy_pass http://127.0.0.1:8000;", f"proxy_pass {api.url.removesuffix('/')};"),
            ("proxy_pass http://127.0.0.1:8001;", "proxy_pass http://{}:{};".format(*behind.address)),
        ):
            assert site.count(ours) == 1, ours
            site = site.replace(ours, theirs)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        configuration = folder / "nginx.conf"
        configuration.write_text(
            f"daemon off; pid {folder}/pid; error_log stderr notice; worker_processes 1; events {{}}\n"
            f"http {{ access_log off; {temporary}\n{site}}}\n"
        )
        super().__init__([NGINX, "-p", str(folder), "-e", "stderr", "-c", str(configuration)])

    def is_open(self) -> bool:
        assert self.popen.poll() is None, self.log.all
        with socket.socket() as probe:
            return probe.connect_ex(self.address) == 0

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.place.partition(":")
        return host, int(port)

    def end(self) -> None:
        self.signal(signal.SIGTERM)
        super().wait()


@pytest.fixture
def behind(api: Api) -> Iterator[GatewayProcess]:
    settings = ["--forward-ip-from=X-Real-IP", "--outbox-bytes=200000", "--goodbye-seconds=0.2"]
    with gateway(f"--api-url={api.url}", *settings) as process:
        yield process


@contextmanager
def site(folder: Path, api: Api | Site, behind: GatewayProcess) -> Iterator[Nginx]:
    with reserved_address() as place:
        process = Nginx(folder, place, api, behind)
        try:
            eventually(process.is_open)
            yield process
        finally:
            process.end()


def test_websockets_and_the_api_are_under_one_name_and_the_origin_is_still_checked(
    api: Api, behind: GatewayProcess, tmp_path: Path
) -> None:
    with site(tmp_path, api, behind) as nginx:
        url = f"ws://{nginx.place}/ws/"
        with subscriber(url, {"Origin": f"http://{nginx.place}"}) as client:
            trigger(behind, 1.5)
            assert json.loads(receive(client))["data"] == 1.5
        with pytest.raises(InvalidStatus, match="403"), connect(url, {"Origin": "http://elsewhere.test"}):
            pass
        assert request(f"http://{nginx.place}/cars/")[0] == 200
        assert api.called("/cars/")[0].header("Host") == nginx.place.partition(":")[0]


def test_the_api_hears_the_address_of_the_client_and_not_what_it_says(
    api: Api, behind: GatewayProcess, tmp_path: Path
) -> None:
    with site(tmp_path, api, behind) as nginx:
        with connect(f"ws://{nginx.place}/ws/", {"X-Real-IP": "192.0.2.66"}) as client:
            receive(client)
        (call,) = api.called("/bootstrap/")
        assert call.header("X-Forwarded-For") == "127.0.0.1"


def test_a_slow_client_behind_it_is_cut_and_the_others_hear_everything(
    api: Api, behind: GatewayProcess, tmp_path: Path
) -> None:
    with site(tmp_path, api, behind) as nginx, ExitStack() as stack:
        healthy = stack.enter_context(subscriber(f"ws://{nginx.place}/ws/"))
        stuck = stack.enter_context(dial(nginx.address, receive_buffer=4096))
        stuck.sendall(head(behind))
        read_until(stuck, b"\r\n\r\n")
        stuck.sendall(masked_text('{"type": "subscribe", "requestId": 1, "room": {"target": "car", "car": 1}}'))
        read_until(stuck, b'"success"}')
        publish_until_cut(behind, healthy, size=20_000)


def test_a_token_in_the_query_is_not_in_the_access_log(api: Api, behind: GatewayProcess, tmp_path: Path) -> None:
    with site(tmp_path, api, behind) as nginx:
        with subscriber(f"ws://{nginx.place}/ws/?token=s3cret"):
            pass
        log = tmp_path / "websockets.log"
        eventually(lambda: log.exists() and "/ws/" in log.read_text())
    assert "s3cret" not in log.read_text()
    assert '"GET /ws/" 101 ' in log.read_text()


def test_a_reload_of_nginx_drops_nobody(api: Api, behind: GatewayProcess, tmp_path: Path) -> None:
    with site(tmp_path, api, behind) as nginx:
        with subscriber(f"ws://{nginx.place}/ws/") as early:
            nginx.signal(signal.SIGHUP)
            nginx.log.wait("gracefully shutting down")
            trigger(behind, "after")
            assert json.loads(receive(early))["data"] == "after"
            with subscriber(f"ws://{nginx.place}/ws/") as late:
                trigger(behind, "both")
                assert [json.loads(receive(client))["data"] for client in (early, late)] == ["both", "both"]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; on Debian: apt install chromium")
def test_a_page_as_the_readme_has_it_hears_of_a_save_in_django(tmp_path: Path) -> None:
    django = Site("plain.site")
    with ExitStack() as stack:
        stack.callback(django.close)
        process = stack.enter_context(gateway(f"--api-url={django.api_url}"))
        stack.enter_context(django.run(tmp_path, process.http_url))
        nginx = stack.enter_context(site(tmp_path, django, process))
        page = stack.enter_context(stack.enter_context(run_browser(tmp_path)).page())
        bob = Visitor(django)
        bob.login("bob")
        page.call("Network.setCookie", name="sessionid", value=bob.cookie("sessionid"), url=f"http://{nginx.place}/")
        page.go(f"http://{nginx.place}/live/")

        def heard() -> bool:
            bob.save_car("Ami")
            return bool(page.evaluate("heard.includes('Ami')"))

        eventually(heard)
