"""The backend over HTTP: what goes to the API, and what each answer of it means."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
import trio

from tests.unit.conftest import CAR, quiet
from trio_templar import BackendError, Busy, ClientRequest, Refused, SettingsError, Unavailable
from trio_templar.clients.backend import HttpBackend
from trio_templar.clients.bootstrap import FEW_ROOMS, BootstrapLimiter, read_answer
from trio_templar.core.answers import BootstrapAnswer, NoRoom

COOKIE = ClientRequest("/ws/?token=t", [(b"cookie", b"a=\xe9"), (b"user-agent", b"x")])
BARE = ClientRequest("/ws/", [])


def response(body: bytes | str, status: int = 200, *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else body.encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


@dataclass
class ApiServer:
    """Answers each request with the next of `answers` (the last one again and again); remembers the heads."""

    answers: list[bytes]
    heads: list[str] = field(default_factory=list)
    connections: int = 0

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        received = b""
        while data := await stream.receive_some():
            received += bytes(data)
            while b"\r\n\r\n" in received:
                head, _, received = received.partition(b"\r\n\r\n")
                self.heads.append(head.decode("latin-1"))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if not answer:
                    return
                await stream.send_all(answer)


@asynccontextmanager
async def api(*answers: bytes, **changes: Any) -> AsyncIterator[tuple[HttpBackend, ApiServer]]:
    server = ApiServer(list(answers))

    async def serve(stream: trio.abc.Stream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):  # whoever asked has left
                await server.serve(stream)

    async with trio.open_nursery() as nursery:
        run = partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(run)
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/api"
        async with HttpBackend(quiet(**{"api_url": url, **changes})) as backend:
            yield backend, server
        nursery.cancel_scope.cancel()


def headers(head: str) -> dict[str, str]:
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}


async def test_a_bootstrap_is_a_get_with_the_headers_of_the_client() -> None:
    async with api(response('{"allowed_rooms": []}')) as (backend, server):
        assert await backend.bootstrap(COOKIE) == {"allowed_rooms": []}
        assert server.heads[0].startswith("GET /api/bootstrap/ HTTP/1.1\r\n")
        sent = headers(server.heads[0])
        assert (sent["cookie"], sent["user-agent"], sent["authorization"]) == ("a=\xe9", "x", "Token t")
        assert sent["host"].startswith("127.0.0.1:")


async def test_what_the_client_did_not_send_is_not_made_up() -> None:
    async with api(response("{}")) as (backend, server):
        await backend.bootstrap(BARE)
        assert not headers(server.heads[0]).keys() & {"cookie", "user-agent", "authorization", "x-forwarded-for"}


async def test_a_connection_is_kept_and_shared_but_no_cookie_is() -> None:
    async with api(response("{}", 200, "Set-Cookie: sessionid=theirs; Path=/")) as (backend, server):
        for _ in range(3):
            await backend.bootstrap(BARE)
        assert server.connections == 1
        assert all("cookie" not in headers(head) for head in server.heads)


async def test_a_redirect_is_not_followed_but_a_refusal() -> None:
    async with api(response("", 302, "Location: /login/")) as (backend, server):
        with pytest.raises(Refused) as caught:
            await backend.bootstrap(BARE)
        assert (caught.value.status, len(server.heads)) == (302, 1)


async def test_the_environment_of_the_process_sets_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with api(response("{}")) as (backend, _):
        assert await backend.bootstrap(BARE) == {}


@pytest.mark.parametrize("status", [204, 301, 400, 401, 403, 404])
async def test_3xx_and_4xx_are_refusals(status: int) -> None:
    async with api(response("{}", status)) as (backend, _):
        with pytest.raises(Refused) as caught:
            await backend.bootstrap(BARE)
        assert caught.value.status == status


@pytest.mark.parametrize("status", [500, 502, 503, 599])
async def test_5xx_is_an_api_that_is_unavailable(status: int) -> None:
    async with api(response("{}", status)) as (backend, _):
        with pytest.raises(Unavailable, match=str(status)):
            await backend.bootstrap(BARE)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{", b"\xff", b"NaN", b"[" * 100_000], ids=lambda body: repr(body)[:9]
)
async def test_what_is_not_json_is_nonsense(body: bytes) -> None:
    async with api(response(body)) as (backend, _):
        with pytest.raises(BackendError, match="not JSON") as caught:
            await backend.bootstrap(BARE)
        assert not isinstance(caught.value, Unavailable)


# httpx gives no way to close the generators under a response that is not read to its end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_answer_over_its_bytes_is_an_error_that_names_the_setting() -> None:
    async with api(response(b'"%s"' % (b"x" * 2000)), max_bootstrap_bytes=1000) as (backend, _):
        with pytest.raises(BackendError, match="max_bootstrap_bytes"):
            await backend.bootstrap(BARE)


async def test_an_api_that_hangs_up_on_a_kept_connection_is_asked_once_more() -> None:
    async with api(response("{}"), b"", response("{}")) as (backend, server):
        for _ in range(2):
            assert await backend.bootstrap(BARE) == {}
        assert (len(server.heads), server.connections) == (3, 2)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 X\r\nContent-Length: x\r\n\r\n", b"nonsense\r\n\r\n"], ids=repr)
async def test_an_api_that_speaks_no_http_on_a_new_connection_is_unavailable(answer: bytes) -> None:
    async with api(answer) as (backend, server):
        with pytest.raises(Unavailable, match="down"):
            await backend.bootstrap(BARE)
        assert len(server.heads) == 1


async def test_a_connection_that_the_api_has_closed_meanwhile_counts_as_new() -> None:
    async with api(response("{}", 200, "Connection: close"), b"", response("{}")) as (backend, server):
        await backend.bootstrap(BARE)
        with pytest.raises(Unavailable, match="down"):
            await backend.bootstrap(BARE)
        assert len(server.heads) == 2


@pytest.mark.parametrize("status", [408, 425, 429])
async def test_come_back_later_is_no_refusal_but_busy(status: int) -> None:
    async with api(response("{}", status, "Retry-After: 7")) as (backend, _):
        with pytest.raises(Busy, match=str(status)) as caught:
            await backend.bootstrap(BARE)
        assert caught.value.retry_after == 7


@pytest.mark.parametrize("field", ['"mean": NaN', '"max": -Infinity', '"name": "\\ud83d"', '"n": 1e999'])
async def test_what_pythons_parser_takes_locks_nobody_out(field: str) -> None:
    async with api(response(f'\ufeff{{"allowed_rooms": [{{}}], {field}}}')) as (backend, _):
        assert (await backend.bootstrap(BARE))["allowed_rooms"] == [{}]


@pytest.mark.parametrize("value", ["NaN", "-Infinity", '"\\ud83d"', "[1e999]"])
async def test_what_json_cannot_carry_is_named_where_it_is_needed(value: str) -> None:
    async with api(response(f'{{"allowed_rooms": [{{"a": {value}}}]}}')) as (backend, _):
        with pytest.raises(BackendError, match=r"^allowed_rooms has NaN, Infinity or half a surrogate pair in it"):
            await BootstrapLimiter(backend.bootstrap, quiet()).ask(BARE)
    async with api(response(f'{{"user": {{"id": {value}}}}}')) as (backend, _):
        with pytest.raises(BackendError, match=r"^user\.id has NaN, Infinity or half a surrogate pair in it"):
            await BootstrapLimiter(backend.bootstrap, quiet()).ask(BARE)


async def test_an_api_that_is_not_there_is_unavailable() -> None:
    async with HttpBackend(quiet(api_url="http://127.0.0.1:1/")) as backend:
        with pytest.raises(Unavailable, match="ConnectError"):
            await backend.bootstrap(BARE)


async def test_an_api_may_be_on_a_unix_socket(tmp_path: Any) -> None:
    path = str(tmp_path / "api.sock")
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    server = ApiServer([response("{}")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, server.serve, [trio.SocketListener(sock)]))
        async with HttpBackend(quiet(api_url="http://app.example/", api_socket=path)) as backend:
            assert await backend.bootstrap(BARE) == {}
        nursery.cancel_scope.cancel()
    assert headers(server.heads[0])["host"] == "app.example"


async def test_many_cancelled_calls_cost_no_slot_of_the_pool() -> None:
    async with api(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n", max_bootstraps=2) as (backend, server):
        for _ in range(10):
            asked = len(server.heads)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(backend.bootstrap, BARE)
                while len(server.heads) == asked:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        server.answers = [response("{}")]
        with trio.fail_after(5):
            assert await backend.bootstrap(BARE) == {}


async def test_a_hook_is_a_post_and_anything_but_2xx_an_error() -> None:
    async with api(response("", 204), response("", 500)) as (backend, server):
        await backend.post("/user/online/", [(b"Cookie", b"a=1")])
        assert server.heads[0].startswith("POST /api/user/online/ HTTP/1.1\r\n")
        assert headers(server.heads[0])["cookie"] == "a=1"
        with pytest.raises(BackendError, match="500"):
            await backend.post("user/online/", [])


def test_a_file_of_certificates_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^api_ca: "):
        HttpBackend(quiet(api_url="https://x/", api_ca="/does/not/exist"))


# What an answer means


async def nonsense(answer: Any) -> str:
    with pytest.raises(BackendError) as caught:
        await read_answer(answer, [])
    return str(caught.value)


async def test_missing_rooms_are_no_rooms() -> None:
    for answer in ({}, {"allowed_rooms": None}):
        assert await read_answer(answer, []) == BootstrapAnswer([], "[]")


@pytest.mark.parametrize("answer", [[], None, 1, "x"], ids=repr)
async def test_an_answer_that_is_no_object_is_nonsense(answer: Any) -> None:
    assert "is no object but" in await nonsense(answer)


async def test_a_room_that_is_no_object_is_named() -> None:
    assert await nonsense({"allowed_rooms": [CAR, "foo"]}) == "allowed_rooms[1] is no object"
    assert await nonsense({"allowed_rooms": [CAR] * 999 + ["foo"]}) == "allowed_rooms[999] is no object"
    with pytest.raises(NoRoom):
        await read_answer({"allowed_rooms": [None]}, [])


@pytest.mark.parametrize("count", [0, 1, FEW_ROOMS, FEW_ROOMS + 1, 2 * FEW_ROOMS, 3 * FEW_ROOMS - 1])
async def test_the_text_of_the_rooms_is_what_json_dumps_writes(count: int) -> None:
    rooms = [
        {"target": "car \u2028é\U0001f697", "car": number, "x": [1.0, 1e22, None, True]} for number in range(count)
    ]
    answer = await read_answer({"allowed_rooms": tuple(rooms)}, [])
    assert answer.rooms_text == json.dumps(rooms)
    assert list(answer.allowed_rooms) == rooms
    foreign = await read_answer({"allowed_rooms": [MappingProxyType(room) for room in rooms]}, [])
    assert foreign == replace(answer, allowed_rooms=rooms, index=foreign.index)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (["user", "id"], 7),
        (["user", "names", "1"], "b"),
        (["user", "names", "x"], None),
        (["user", "names", "9"], None),
        (["nobody"], None),
        (["user", "id", "deeper"], None),
        ([], None),
    ],
    ids=repr,
)
async def test_the_id_of_the_user_is_where_the_path_leads(path: list[str], expected: Any) -> None:
    assert (await read_answer({"user": {"id": 7, "names": ["a", "b"]}}, path)).user_id == expected
