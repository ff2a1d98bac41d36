"""What an operator sees and does over HTTP, against a real process: the numbers are those that clients counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.api import Api
from tests.e2e.clients import CAR, closing, receive, request, subscriber, trigger
from tests.e2e.processes import SLOWNESS, GatewayProcess, Process, eventually, gateway

ROUTES = ["/status", "/connections/", "/rooms/", "/tree", "/metrics", "/trends", "/history/?room=%7B%7D"]
TOKEN = {"Authorization": "Bearer s3cret"}
# A gateway whose fan-out stands still for as long as a file is there.
STUCK = """
import sys, trio
from pathlib import Path
from trio_templar.commands.cli import main
from trio_templar.delivery.fanout import Fanout
go_on = Fanout._fanout_loop
async def stand_still(self, rooms):
    while Path(sys.argv[1]).exists():
        await trio.sleep(0.02)
    await go_on(self, rooms)
Fanout._fanout_loop = stand_still
main(sys.argv[2:])
"""


def ask(process: GatewayProcess, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    status, answer, _ = request(
        f"{process.http_url}{path}", None if body is None else json.dumps(body).encode(), headers
    )
    return status, json.loads(answer) if answer.startswith(b"{") else answer.decode()


def scrape(process: GatewayProcess) -> dict[tuple[str, tuple[str, ...]], float]:
    status, text = ask(process, "/metrics")
    assert status == 200
    return {
        (sample.name.removeprefix("trio_templar_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_has_the_numbers_that_the_clients_counted(running: GatewayProcess) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(subscriber(running.websocket_url)) for _ in range(5)]
        before = scrape(running)
        for number in range(20):
            trigger(running, number)
        heard = [[receive(client) for _ in range(20)] for client in clients]
        seen = scrape(running)
        assert seen["connections", ()] == seen["connections_opened_total", ()] == 5
        assert seen["bootstraps_total", ("admitted",)] == seen["bootstrap_seconds_count", ()] == 5
        assert seen["triggers_total", ()] == seen["publications_total", ()] == 20
        assert seen["trigger_requests_total", ("200",)] == seen["publication_seconds_count", ()] == 20
        assert seen["deliveries_total", ("written",)] == sum(map(len, heard)) == 100
        assert seen["deliveries_total", ("queued",)] == 0
        headers = 2  # of a frame so short
        size = sum(len(message) + headers for messages in heard for message in messages)
        assert seen["sent_bytes_total", ()] - before["sent_bytes_total", ()] == size
        assert seen["resident_bytes", ()] > 10_000_000
        status, found = ask(running, "/disconnect/", {"user": 7, "code": 4001, "reason": "enough"})
        assert (status, found) == (200, {"disconnected": 5})
        assert [closing(client) for client in clients] == [(4001, "enough")] * 5
    later = eventually(lambda: (now := scrape(running))["connections", ()] == 0 and now)
    assert later
    assert later["connections_closed_total", ("4xxx",)] == 5


def test_the_views_name_the_clients_that_are_there(running: GatewayProcess) -> None:
    with subscriber(running.websocket_url, {"User-Agent": "a browser"}) as client:
        host, port = client.local_address[:2]
        _, found = ask(running, f"/connections/?peer={host}&user=7&room=%7B%22target%22:%22car%22,%22car%22:1%7D")
        (seen,) = found["connections"]
        assert (seen["peer"], seen["agent"], seen["rooms"]) == (f"{host}:{port}", "a browser", [CAR])
        _, found = ask(running, "/rooms/")
        assert [(room["room"], room["subscribers"]) for room in found["rooms"]] == [(CAR, 1)]
        _, tree = ask(running, "/tree")
        assert f"connection {seen['id'][:8]}…" in json.dumps(tree, ensure_ascii=False)
        assert ask(running, "/unsubscribe/", {"room": CAR, "reason": "sold"}) == (200, {"unsubscribed": 1})
        assert json.loads(receive(client)) == {"type": "unsubscribed", "requestId": "a", "reason": "sold"}


def test_a_room_has_a_history_until_the_gateway_starts_again(api: Api) -> None:
    path = "/history/?room=%7B%22target%22:%22car%22,%22car%22:1%7D"
    with gateway(f"--api-url={api.url}") as process:
        for number in range(5):
            trigger(process, {"number": number})
        status, newest = ask(process, f"{path}&limit=2")
        assert (status, [each["data"]["number"] for each in newest["publications"]]) == (200, [3, 4])
        since = f"{path}&since={newest['publications'][0]['at']}"
        assert [each["data"]["number"] for each in ask(process, since)[1]["publications"]] == [4]
        assert ask(process, f"{path}&since={'a.1' * 1000}")[0] == 400
        assert ask(process, f"{path}&since={'a.1' * 333_333}")[0] == 414
        assert (status, ask(process, "/status")[1]["history"]["publications"]) == (200, 5)
    with gateway(f"--api-url={api.url}") as process:
        status, answer = ask(process, since)
        assert (status, list(answer)) == (410, ["at"])
        trigger(process, "new")
        _, found = ask(process, f"{path}&since={answer['at']}")
        assert [each["data"] for each in found["publications"]] == ["new"]
        assert process.crashes() == []


@pytest.mark.parametrize("path", ROUTES)
def test_every_answer_needs_the_token_where_one_is_set(guarded: GatewayProcess, path: str) -> None:
    assert ask(guarded, path)[0] == 401
    assert ask(guarded, path, **TOKEN)[0] == 200
    assert ask(guarded, path, **TOKEN, Origin="https://evil.example")[0] == 403


@pytest.mark.parametrize("path", ROUTES)
def test_without_a_token_every_answer_is_for_this_machine_alone(shared: GatewayProcess, path: str) -> None:
    assert ask(shared, path)[0] == 200
    assert ask(shared, path, Origin="https://evil.example")[0] == 403
    assert ask(shared, path, Host="evil.example")[0] == 403
    assert ask(shared, path, Host="localhost")[0] == 200


@pytest.fixture(scope="module")
def guarded(shared_api: Api) -> Iterator[GatewayProcess]:
    with gateway(f"--api-url={shared_api.url}", "--trigger-token=s3cret") as process:
        yield process


def test_health_is_for_everybody(guarded: GatewayProcess) -> None:
    assert ask(guarded, "/health/live") == (200, {"live": True})
    status, body = eventually(lambda: (found := ask(guarded, "/health/ready"))[0] == 200 and found) or (0, {})
    assert (status, sorted(body)) == (200, ["canary_age_seconds", "ready"])


def test_wrong_tokens_are_logged_and_do_not_delay_the_right_one(shared_api: Api) -> None:
    with gateway(f"--api-url={shared_api.url}", "--trigger-token=s3cret") as process:
        assert ask(process, "/status", Authorization="Bearer guess")[0] == 401
        assert ask(process, "/status", **TOKEN)[0] == 200
        (line,) = process.log.wait("wrong token")
        assert "peer=127.0.0.1" in line
        assert "guess" not in line


def test_it_is_not_ready_while_the_fanout_stands_still(api: Api, tmp_path: Path) -> None:
    flag = tmp_path / "stand still"
    arguments = [
        "serve",
        "--bind=127.0.0.1:0",
        "--trigger-bind=127.0.0.1:0",
        f"--api-url={api.url}",
        f"--ready-seconds={SLOWNESS}",
    ]
    process = GatewayProcess.__new__(GatewayProcess)
    Process.__init__(process, [sys.executable, "-c", STUCK, str(flag), *arguments])
    try:
        process.wait_ready()
        eventually(lambda: ask(process, "/health/ready")[0] == 200)
        flag.touch()
        eventually(lambda: ask(process, "/health/ready")[0] == 503)
        assert ask(process, "/health/live")[0] == 200
        flag.unlink()
        eventually(lambda: ask(process, "/health/ready")[0] == 200)
        assert process.crashes() == []
    finally:
        process.end()
