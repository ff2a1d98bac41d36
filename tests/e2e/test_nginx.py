"""The site of deploy/nginx.conf, and what docs/nginx.md makes of it, in Debian's nginx."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPSConnection
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
from tests.e2e.test_tls import Files

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
SITE = ROOT / "deploy/nginx.conf"
PAGE = ROOT / "docs/nginx.md"

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx here; on Debian: apt install nginx-light")


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """`text` with what is ours in the place of what is theirs, each of which is there once."""
    for theirs, ours in changes:
        assert text.count(theirs) == 1, theirs
        text = text.replace(theirs, ours)
    return text


def site_of(folder: Path, api: Api | Site, *changes: tuple[str, str]) -> str:
    """The site in front of `api`, with more `changes`, and its log in `folder`."""
    proxied = "proxy_pass http://127.0.0.1:8000;", f"proxy_pass {api.url.removesuffix('/')};"
    return replaced(SITE.read_text(), ("/var/log/nginx/", f"{folder}/"), proxied, *changes)


def block(heading: str) -> str:
    """The first block of configuration under a heading of docs/nginx.md."""
    return PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("```nginx\n")[2].partition("```")[0]


class Nginx(Process):
    """nginx with `sites`, one of which is at `place`. Ending it ends its workers too."""

    def __init__(self, folder: Path, place: str, sites: str) -> None:
        assert NGINX is not None
        self.place = place
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        configuration = folder / "nginx.conf"
        configuration.write_text(
            f"daemon off; pid {folder}/pid; error_log stderr notice; worker_processes 1; events {{}}\n"
            f"http {{ access_log off; {temporary}\n{sites}}}\n"
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
def run_nginx(folder: Path, place: str, sites: str) -> Iterator[Nginx]:
    process = Nginx(folder, place, sites)
    try:
        eventually(process.is_open)
        yield process
    finally:
        process.end()


def proxied_to(place: str) -> tuple[str, str]:
    return "proxy_pass http://127.0.0.1:8001;", f"proxy_pass http://{place};"


@contextmanager
def site(folder: Path, api: Api | Site, behind: GatewayProcess) -> Iterator[Nginx]:
    with reserved_address() as place:
        sites = site_of(folder, api, ("listen 80 ", f"listen {place} "), proxied_to(place_of(behind)))
        with run_nginx(folder, place, sites) as process:
            yield process


def place_of(process: GatewayProcess) -> str:
    return "{}:{}".format(*process.address)


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


@contextmanager
def tls_site(folder: Path, api: Api, behind: GatewayProcess, files: Files) -> Iterator[tuple[Nginx, str]]:
    """The two servers of the page's section on TLS, in the order of the page: nginx at the second, and the first."""
    log_format, _, server = site_of(folder, api, proxied_to(place_of(behind))).partition("server {")
    locations = server[server.index("    location / {") : server.rindex("}")]
    with reserved_address() as place, reserved_address() as plain:
        servers = replaced(
            block("TLS"),
            ("    # both locations of deploy/nginx.conf\n", locations),
            ("listen 80;", f"listen {plain};"),
            ("listen 443 ", f"listen {place} "),
            ("/etc/letsencrypt/live/example.com/fullchain.pem", str(files.cert)),
            ("/etc/letsencrypt/live/example.com/privkey.pem", str(files.key)),
        )
        with run_nginx(folder, place, log_format + servers) as nginx:
            yield nginx, plain


def test_with_tls_as_the_page_has_it_websockets_and_the_api_are_under_https(
    api: Api, behind: GatewayProcess, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    with tls_site(tmp_path, api, behind, files) as (nginx, _):
        url = f"wss://{nginx.place}/ws/"
        with subscriber(url, {"Origin": f"https://{nginx.place}"}, ssl=files.trusting) as client:
            trigger(behind, 1.5)
            assert json.loads(receive(client))["data"] == 1.5
        with pytest.raises(InvalidStatus, match="403"):
            with connect(url, {"Origin": f"http://{nginx.place}"}, ssl=files.trusting):
                pass
        with closing(HTTPSConnection(*nginx.address, context=files.trusting)) as caller:
            caller.request("GET", "/cars/")
            assert caller.getresponse().status == 200
        assert api.called("/cars/")[0].header("X-Forwarded-Proto") == "https"


def test_with_tls_as_the_page_has_it_plain_http_is_sent_to_https(
    api: Api, behind: GatewayProcess, tmp_path: Path
) -> None:
    with tls_site(tmp_path, api, behind, Files(tmp_path)) as (_, plain):
        with closing(HTTPConnection(plain)) as caller:
            caller.request("GET", "/cars/?a=1", headers={"Host": "example.com"})
            answer = caller.getresponse()
        assert (answer.status, answer.headers["Location"]) == (301, "https://example.com/cars/?a=1")
        assert api.calls == []


def test_two_instances_as_the_page_has_them_share_the_clients_and_one_goes_on_alone(
    api: Api, behind: GatewayProcess, tmp_path: Path
) -> None:
    (proxy_pass,) = re.findall(r"`location /ws/` then has `(proxy_pass .*?;)`", PAGE.read_text())
    with ExitStack() as stack:
        other = stack.enter_context(gateway(f"--api-url={api.url}", "--drain-seconds=0.5"))
        upstream = replaced(
            block("Two instances"), ("10.0.0.5:8001", place_of(behind)), ("10.0.0.6:8001", place_of(other))
        )
        place = stack.enter_context(reserved_address())
        changes = ("listen 80 ", f"listen {place} "), (proxied_to("")[0], proxy_pass)
        stack.enter_context(run_nginx(tmp_path, place, upstream + site_of(tmp_path, api, *changes)))
        clients = [stack.enter_context(subscriber(f"ws://{place}/ws/")) for _ in range(4)]
        for process in (behind, other):
            assert json.loads(request(f"{process.http_url}/status")[1])["connections"] == 2
            trigger(process, process.address[1])
        heard = sorted(json.loads(receive(client))["data"] for client in clients)
        assert heard == sorted([behind.address[1], other.address[1]] * 2)

        other.signal(signal.SIGTERM)
        assert other.wait() == 0
        late = stack.enter_context(subscriber(f"ws://{place}/ws/"))
        trigger(behind, "alone")
        assert json.loads(receive(late))["data"] == "alone"


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
