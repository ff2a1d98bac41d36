"""What arrives at the API, and the ways there: TCP, TLS, a unix socket."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest
import trustme
from websockets.exceptions import InvalidStatus

from tests.e2e.api import Api, Call, admit, serve_api
from tests.e2e.clients import closing, connect, dial, head, receive, subscriber, trigger
from tests.e2e.processes import PATIENCE_SECONDS, GatewayProcess, eventually, gateway, reserved_address


def bootstrap_of(api: Api, url: str, headers: dict[str, str]) -> Call:
    """Connect, and return the call that the API saw."""
    with connect(url, headers, user_agent_header=None) as client:
        receive(client)
    return api.called("/bootstrap/")[-1]


def test_cookies_user_agent_csrf_token_and_token_arrive_at_the_api(shared_api: Api, shared: GatewayProcess) -> None:
    cookies = 'a=1; csrftoken="c5rf"; session=ä'.encode().decode("latin-1")
    headers = {"Cookie": cookies, "User-Agent": "Browser/1.0 (é)", "X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6"}
    call = bootstrap_of(shared_api, f"{shared.websocket_url}?token=t%26k&token=other", headers)
    assert (call.method, call.path) == ("GET", "/bootstrap/")
    assert call.header("Cookie") == cookies
    assert call.header("User-Agent") == "Browser/1.0 (é)"
    assert call.header("X-CSRFToken") == "c5rf"
    assert call.header("Authorization") == "Token t&k"
    assert call.header("Host") == shared_api.url.removeprefix("http://").rstrip("/")
    assert call.header("X-Forwarded-For") is None
    assert call.header("X-Real-IP") is None


def test_what_a_client_does_not_send_does_not_arrive(shared_api: Api, shared: GatewayProcess) -> None:
    call = bootstrap_of(shared_api, shared.websocket_url, {})
    for name in ("Cookie", "User-Agent", "X-CSRFToken", "Authorization", "X-Forwarded-For", "X-Real-IP"):
        assert call.header(name) is None


def test_settings_add_the_address_the_host_and_any_header(api: Api) -> None:
    arguments = [
        f"--api-url={api.url}v1",
        "--forward-ip-from=X-Real-IP",
        "--forward-host",
        "--connection-header=X-Session-Token=param:session_token",
        "--connection-header=Authorization=cookie:jwt:Bearer {}",
        "--connection-header=X-Language=key:Accept-Language",
        "--connection-header=Referer=fixed:https://example.org/",
    ]
    with gateway(*arguments) as process:
        headers = {"X-Real-IP": "2001:db8::1", "Cookie": "jwt=e30", "Accept-Language": "nl"}
        with connect(f"{process.websocket_url}?session_token=s&token=t", headers) as client:
            receive(client)
        call = api.called("/v1/bootstrap/")[0]
    assert call.header("X-Forwarded-For") == "2001:db8::1"
    assert call.header("Host") == "{}:{}".format(*process.address)
    assert call.header("X-Session-Token") == "s"
    assert call.header("Authorization") == "Bearer e30"
    assert call.header("X-Language") == "nl"
    assert call.header("Referer") == "https://example.org/"


def test_the_address_of_the_socket_can_be_what_is_forwarded(api: Api) -> None:
    with gateway(f"--api-url={api.url}", "--forward-ip-from=peer") as process:
        call = bootstrap_of(api, process.websocket_url, {"X-Forwarded-For": "6.6.6.6"})
    assert call.header("X-Forwarded-For") == "127.0.0.1"


def test_dialect_3_passes_x_real_ip_on(api: Api) -> None:
    with gateway(f"--api-url={api.url}", "--dialect=3") as process:
        call = bootstrap_of(api, process.websocket_url, {"X-Real-IP": "192.0.2.1"})
    assert call.header("X-Real-IP") == "192.0.2.1"


def test_the_api_may_be_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with serve_api(unix=path) as api, gateway("--api-url=http://api.internal/app/", f"--api-socket={path}") as process:
        with connect(process.websocket_url) as client:
            assert receive(client) == b'{"allowed_rooms": [{"target": "car", "car": "*"}]}'
        call = api.called("/app/bootstrap/")[0]
    assert call.header("Host") == "api.internal"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    issued.private_key_pem.write_to_path(str(key))
    for number, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(str(chain), append=number > 0)
    return chain, key


def test_an_api_over_tls_is_trusted_by_the_file_of_its_authority(
    authority: trustme.CA, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serve_api(tls=certificate) as api:
        with gateway(f"--api-url={api.url}", f"--api-ca={tmp_path / 'ca.pem'}") as process:
            with connect(process.websocket_url) as client:
                assert receive(client) == b'{"allowed_rooms": [{"target": "car", "car": "*"}]}'


def test_an_api_over_tls_that_nobody_vouches_for_is_not_told_a_cookie(certificate: tuple[Path, Path]) -> None:
    with serve_api(tls=certificate) as api, gateway(f"--api-url={api.url}") as process:
        with pytest.raises(InvalidStatus) as refused, connect(process.websocket_url, {"Cookie": "a=1"}):
            pass
        assert refused.value.response.status_code == 503
        assert process.log.wait("WARNING refused status=503 .*CERTIFICATE_VERIFY_FAILED")
        assert api.calls == []


@pytest.mark.parametrize(
    ("answered", "status", "why"),
    [
        ((302, b""), 403, "the API refused the client with status 302"),
        ((401, b""), 401, "the API refused the client with status 401"),
        ((404, b""), 403, "the API refused the client with status 404"),
        ((500, b"Traceback"), 503, "the API answered 500"),
        ((200, b"<html>"), 502, "the bootstrap answer is not JSON"),
        ((200, b"[]"), 502, "the bootstrap answer is no object"),
        ((200, b'{"allowed_rooms": {}}'), 502, "allowed_rooms is no list"),
        ((200, b'{"allowed_rooms": ["foo"]}'), 502, r"allowed_rooms\[0\] is no object"),
    ],
)
def test_each_answer_of_the_api_has_one_of_ours(
    shared_api: Api, shared: GatewayProcess, answered: tuple[int, bytes], status: int, why: str
) -> None:
    seen = len(shared.log.matching(why))
    shared_api.answer = lambda _: answered
    try:
        with pytest.raises(InvalidStatus) as refused, connect(shared.websocket_url):
            pass
    finally:
        shared_api.answer = lambda _: admit()
    assert refused.value.response.status_code == status
    assert ("Retry-After" in refused.value.response.headers) == (status == 503)
    assert b"Traceback" not in refused.value.response.body
    shared.log.wait(why, seen + 1)


def test_an_api_that_is_down_or_slow_is_a_503() -> None:
    with reserved_address() as gone, gateway(f"--api-url=http://{gone}/") as process:
        with pytest.raises(InvalidStatus) as refused, connect(process.websocket_url):
            pass
        assert refused.value.response.status_code == 503
        process.log.wait("WARNING refused status=503 .*the API is down")


def test_an_api_that_does_not_answer_in_time_is_a_503(api: Api) -> None:
    answered = threading.Event()

    def wait(_: Call) -> tuple[int, bytes]:
        answered.wait(PATIENCE_SECONDS)
        return admit()

    api.answer = wait
    with gateway(f"--api-url={api.url}", "--bootstrap-seconds=0.2") as process:
        with pytest.raises(InvalidStatus) as refused, connect(process.websocket_url):
            pass
        answered.set()
        assert refused.value.response.status_code == 503
        process.log.wait(r"did not answer within 0\.2 s")


def test_hooks_are_posts_with_the_headers_of_the_client(api: Api) -> None:
    api.answer = lambda call: admit() if call.method == "GET" else (204, b"")
    hooks = ["--on-connect=user/online/", "--on-ping=user/online/", "--on-disconnect=/user/offline/"]
    with gateway(f"--api-url={api.url}v1/", *hooks) as process:
        with connect(process.websocket_url, {"Cookie": "a=1"}) as client:
            receive(client)
            api.called("/v1/user/online/")

            def pinged() -> bool:
                client.send("ping")
                assert receive(client) == b"pong"
                return len([call for call in api.calls if call.path == "/v1/user/online/"]) == 2

            # A ping calls no hook while one is under way. The API knows of a call before the gateway has the answer.
            eventually(pinged)
        api.called("/v1/user/offline/")
    posts = [call for call in api.calls if call.method == "POST"]
    assert [call.path for call in posts] == ["/v1/user/online/", "/v1/user/online/", "/v1/user/offline/"]
    assert [call.header("Cookie") for call in posts] == ["a=1"] * 3


def test_a_failing_hook_is_logged_and_harms_nobody(api: Api) -> None:
    api.answer = lambda call: admit() if call.method == "GET" else (500, b"")
    with gateway(f"--api-url={api.url}", "--on-connect=online/") as process:
        with connect(process.websocket_url) as client:
            process.log.wait("WARNING connect hook for .* failed: .*500")
            client.send("ping")
            assert receive(client).startswith(b'{"allowed_rooms"')
            assert receive(client) == b"pong"


def test_a_client_that_leaves_during_the_call_ends_it_and_no_slot_stays_behind(api: Api) -> None:
    may_answer = threading.Event()

    def wait(_: Call) -> tuple[int, bytes]:
        may_answer.wait(PATIENCE_SECONDS)
        return admit()

    api.answer = wait
    with gateway(f"--api-url={api.url}", "--max-bootstraps=2") as process:
        for number in range(1, 9):
            with dial(process.address) as sock:
                sock.sendall(head(process))
                api.called("/bootstrap/", number)
            process.log.wait("INFO left before it was let in", number)
        may_answer.set()
        with connect(process.websocket_url) as one, connect(process.websocket_url) as two:
            assert receive(one) == receive(two)


def test_beyond_the_queue_for_the_api_a_client_gets_503_at_once(api: Api) -> None:
    may_answer = threading.Event()

    def wait(_: Call) -> tuple[int, bytes]:
        may_answer.wait(PATIENCE_SECONDS)
        return admit()

    api.answer = wait
    with gateway(f"--api-url={api.url}", "--max-bootstraps=1", "--max-bootstraps-waiting=1") as process:
        outcomes: list[int] = []

        def visit() -> None:
            try:
                with connect(process.websocket_url) as client:
                    receive(client)
                    outcomes.append(101)
            except InvalidStatus as refused:
                outcomes.append(refused.response.status_code)

        visitors = [threading.Thread(target=visit) for _ in range(6)]
        for visitor in visitors:
            visitor.start()
        process.log.wait(r"WARNING refused status=503 .*max_bootstraps_waiting", 4)
        may_answer.set()
        for visitor in visitors:
            visitor.join()
        assert sorted(outcomes) == [101, 101, 503, 503, 503, 503]


def test_dialect_3_tells_a_refused_client_so_and_closes_with_1000(api: Api) -> None:
    api.answer = lambda _: (403, b"")
    with gateway(f"--api-url={api.url}", "--dialect=3") as process, connect(process.websocket_url) as client:
        assert receive(client) == b'{"is_authorized": false}'
        assert closing(client)[0] == 1000


def test_dialect_3_shows_totals_to_a_client_only_if_that_is_allowed(api: Api) -> None:
    with gateway(f"--api-url={api.url}", "--dialect=3") as process, connect(process.websocket_url) as client:
        receive(client)
        client.send('{"type": "status"}')
        assert json.loads(receive(client))["message"] == "message-type-not-allowed"
    with gateway(f"--api-url={api.url}", "--dialect=3", "--allow-status") as process:
        with subscriber(process.websocket_url) as client:
            trigger(process, 1)
            receive(client)
            client.send('{"type": "status"}')
            status = json.loads(receive(client))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+", status.pop("online_since"))
    assert list(status.items()) == [
        ("open_connections", 1),
        ("num_rooms", 1),
        ("rabbitmq_messages_received", 1),
        ("ws_messages_received", 0),
        ("ws_messages_send", 1),
        ("ws_messages_send_error", 0),
        ("ws_messages_send_queued", 0),
    ]


def test_dialect_2_knows_no_totals_and_names_the_request(api: Api) -> None:
    with gateway(f"--api-url={api.url}", "--allow-status") as process, connect(process.websocket_url) as client:
        receive(client)
        client.send('{"type": "status", "requestId": "s"}')
        assert receive(client) == b'{"requestId": "s", "code": "error", "message": "message-type-not-allowed"}'
