"""From a login in Django to a frame at the subscriber, through the real processes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from tests.e2e.clients import CAR, connect, receive, request, subscribe
from tests.e2e.django_site import Garage, Visitor, run_garage
from tests.e2e.processes import Site, gateway

EVERY_CAR = {"target": "car", "car": "*"}


@contextmanager
def visit(garage: Garage, name: str) -> Iterator[tuple[Visitor, ClientConnection]]:
    """Log in at the site, and connect with its cookies."""
    visitor = Visitor(garage.site)
    visitor.login(name)
    with connect(garage.gateway.websocket_url, visitor.cookies) as client:
        yield visitor, client


def test_a_login_a_cookie_a_subscription_and_a_save_give_the_subscriber_its_frame(garage: Garage) -> None:
    with visit(garage, "ann") as (ann, client):
        assert receive(client) == b'{"allowed_rooms": [{"target": "car", "car": "*"}]}'
        assert subscribe(client, "cars") == b'{"requestId": "cars", "code": "success"}'
        ann.save_car("Citroën 2CV")
        expected = rb'{"requestId": "cars", "type": "publish", "data": {"id": 1, "name": "Citro\u00ebn 2CV"}}'
        assert receive(client) == expected


def test_the_literal_star_is_a_room_of_its_own(garage: Garage) -> None:
    with visit(garage, "ann") as (ann, client):
        receive(client)
        assert subscribe(client, 1, EVERY_CAR) == b'{"requestId": 1, "code": "success"}'
        assert subscribe(client, 2, CAR) == b'{"requestId": 2, "code": "success"}'
        ann.save_car("Ami")
        both = {receive(client), receive(client)}
        assert both == {
            b'{"requestId": 1, "type": "publish", "data": {"id": 1, "name": "Ami"}}',
            b'{"requestId": 2, "type": "publish", "data": {"id": 1, "name": "Ami"}}',
        }


def test_a_user_may_enter_the_rooms_that_django_lists_and_no_others(garage: Garage) -> None:
    with visit(garage, "bob") as (_, client):
        assert receive(client) == b'{"allowed_rooms": [{"target": "car", "car": 1}]}'
        assert subscribe(client, "mine") == b'{"requestId": "mine", "code": "success"}'
        refused = b'{"requestId": "all", "code": "error", "message": "room-not-found"}'
        assert subscribe(client, "all", EVERY_CAR) == refused


@pytest.mark.parametrize("headers", [{}, {"Cookie": "sessionid=guessed; csrftoken=x"}], ids=["nobody", "a guess"])
def test_an_anonymous_visitor_gets_no_websocket_but_403(garage: Garage, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(garage.gateway.websocket_url, headers):
        pass
    assert refused.value.response.status_code == 403
    assert garage.gateway.log.wait("INFO refused status=403 .*the API refused the client with status 403")


def test_a_token_in_the_url_of_the_websocket_is_enough(garage: Garage) -> None:
    with connect(f"{garage.gateway.websocket_url}?token=anns-token") as client:
        assert receive(client) == b'{"allowed_rooms": [{"target": "car", "car": "*"}]}'


def test_neither_cookies_nor_tokens_are_logged(garage: Garage) -> None:
    ann = Visitor(garage.site)
    ann.login("ann")
    with connect(f"{garage.gateway.websocket_url}?token=anns-token", ann.cookies) as client:
        client.close(1000, "seen enough")
    garage.gateway.log.wait('INFO close .* code=1000 .* why="seen enough"')
    log = "\n".join(garage.gateway.log.all)
    assert ann.cookie("sessionid") not in log
    assert "anns-token" not in log
    assert "csrftoken" not in log


def test_an_untouched_django_binder_carries_the_token_in_its_url(tmp_path: Path) -> None:
    with run_garage(tmp_path, "--trigger-token=se:cret", credentials="x:se%3Acret") as garage:
        with visit(garage, "ann") as (ann, client):
            receive(client)
            subscribe(client, "cars")
            status, _, headers = request(garage.gateway.trigger_url, b'{"rooms": [], "data": 1}')
            assert (status, headers["www-authenticate"]) == (401, 'Bearer, Basic realm="trigger"')
            ann.save_car("Dyane")
            assert receive(client) == b'{"requestId": "cars", "type": "publish", "data": {"id": 1, "name": "Dyane"}}'


def test_dialect_3_speaks_as_high_templar_3_did(tmp_path: Path) -> None:
    with run_garage(tmp_path, "--dialect=3") as garage:
        with visit(garage, "ann") as (ann, client):
            assert receive(client) == b'{"is_authorized": true, "allowed_rooms": [{"target": "car", "car": "*"}]}'
            assert subscribe(client, "cars") == b'{"code": "success"}'
            ann.save_car("Dyane")
            assert receive(client) == b'{"type": "publish", "data": {"id": 1, "name": "Dyane"}, "requestId": "cars"}'
        with connect(garage.gateway.websocket_url) as client:
            assert receive(client) == b'{"is_authorized": false}'


# In plain Django, as README has it


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Garage]:
    with run_garage(tmp_path_factory.mktemp("plain"), urls="plain.site") as garage:
        yield garage


def test_the_code_of_the_readme_lets_in_and_publishes(plain: Garage) -> None:
    with visit(plain, "bob") as (bob, client):
        assert receive(client) == b'{"allowed_rooms": [{"target": "car", "car": 1}]}'
        assert subscribe(client, "mine") == b'{"requestId": "mine", "code": "success"}'
        bob.save_car("Dyane")
        assert receive(client) == b'{"requestId": "mine", "type": "publish", "data": {"id": 1, "name": "Dyane"}}'
    with pytest.raises(InvalidStatus) as refused, connect(plain.gateway.websocket_url):
        pass
    assert refused.value.response.status_code == 403


def test_of_a_save_that_is_rolled_back_nobody_is_told(plain: Garage) -> None:
    with visit(plain, "bob") as (bob, client):
        receive(client)
        subscribe(client, "mine")
        bob.save_car("Never", query="?rollback")
        bob.save_car("Ami")
        assert receive(client) == b'{"requestId": "mine", "type": "publish", "data": {"id": 1, "name": "Ami"}}'


@pytest.mark.parametrize("listens", [False, True], ids=["down", "hangs"])
def test_a_save_outlives_a_gateway_that_is_down_or_hangs(listens: bool, tmp_path: Path) -> None:
    site = Site("plain.site")
    with socket.socket() as server:  # its port is nobody else's, whether it listens or not
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        with site.run(tmp_path, "http://{}:{}".format(*server.getsockname())) as process:
            bob = Visitor(site)
            bob.login("bob")
            bob.save_car("Saved")
            assert process.log.wait("not published to .*'car': 1")
    site.close()


# Misconfigured


def test_a_site_that_redirects_to_https_is_named_with_the_way_out(tmp_path: Path) -> None:
    with run_garage(tmp_path, https=True) as garage:
        with pytest.raises(InvalidStatus), connect(f"{garage.gateway.websocket_url}?token=anns-token"):
            pass
        way_out = "--connection-header 'X-Forwarded-Proto=fixed:https'"
        assert garage.gateway.log.wait(f"WARNING refused status=403 .*status 301.* hint=.*{way_out}")


def test_the_way_out_leads_to_a_site_that_redirects_to_https(tmp_path: Path) -> None:
    header = "--connection-header=X-Forwarded-Proto=fixed:https"
    with (
        run_garage(tmp_path, header, https=True) as garage,
        connect(f"{garage.gateway.websocket_url}?token=anns-token") as client,
    ):
        assert receive(client) == b'{"allowed_rooms": [{"target": "car", "car": "*"}]}'


@pytest.mark.parametrize("path", ["api/bootstrap/", ""], ids=["bootstrap/ twice", "another folder"])
def test_a_wrong_address_is_named_in_the_log(garage: Garage, path: str) -> None:
    with gateway(f"--api-url={garage.site.url}{path}") as process:
        with pytest.raises(InvalidStatus), connect(process.websocket_url):
            pass
        assert process.log.wait("WARNING refused status=403 .*status 404.* hint=.*bootstrap/ is appended")
