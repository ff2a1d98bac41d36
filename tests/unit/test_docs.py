"""What the documentation says, held against the code."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from tests.unit.conftest import operator, parts, texts
from tests.unit.test_docs_terminal import flags
from trio_templar import Settings, errors
from trio_templar.commands.cli import COMMANDS
from trio_templar.core.dialects import DIALECTS, position, subscribed, unsubscribed
from trio_templar.core.frames import Batch, hole_frame
from trio_templar.core.position import Positions
from trio_templar.core.settings import options
from trio_templar.errors import BackendError, ClientError, Close, Refused, TemplarError
from trio_templar.http import page as dashboard
from trio_templar.testing import FakeBackend, WebsocketClient, open_gateway
from trio_templar.wiring import http_app_of

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
# A code block whose lines are those of a file: `<!-- from PATH -->` before it.
QUOTED = re.compile(r"<!-- from (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
# What CHANGELOG says of options that are no more.
REMOVED = {"--outboxes-bytes", "--in-flight-bytes"}
# What a type checker or linter is told is not for the reader.
ASIDE = re.compile(r"  # (?:type: ignore|noqa).*")


def quotations() -> Iterator[tuple[str, str, str]]:
    for page in PAGES:
        for path, block in QUOTED.findall(page.read_text()):
            yield page.name, path, block


def page(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize(("name", "path", "block"), list(quotations()))
def test_a_quoted_block_is_in_its_file(name: str, path: str, block: str) -> None:
    assert block in ASIDE.sub("", page(path)), f"{name} quotes {path} differently"


def test_every_guarantee_names_a_test_that_exists() -> None:
    guarantees = re.split(r"^(?=- )", page("docs/guarantees.md"), flags=re.MULTILINE)[1:]
    assert len(guarantees) > 15
    for guarantee in guarantees:
        named = re.findall(r"<!-- (\S+)::(\w+) -->", guarantee)
        assert named, guarantee
        for path, test in named:
            assert f"def {test}(" in page(path), test


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [title.lower().replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_every_python_name_that_is_written_exists(path: Path) -> None:
    for name in re.findall(r"trio_templar(?:\.\w+)+", path.read_text()):
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_option_that_is_named_exists(path: Path) -> None:
    text = re.sub(r"`python -m bench[^`]*`", "", path.read_text())  # options of their own
    lines = [line for line in text.splitlines() if re.search("trio[_-]templar serve|^[^$]*`--", line)]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)))
    of_commands = {flag for command in COMMANDS for flag in flags(command)} if path.name == "terminal.md" else set()
    assert named <= {option.flag for option in options()} | {"--config", "--no-demo", "--help", *REMOVED} | of_commands


def test_the_page_of_settings_is_what_the_settings_say() -> None:
    spec = importlib.util.spec_from_file_location("make_settings", ROOT / "docs/make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run `python docs/make_settings.py`"
    assert all(f"| `{option.flag}` |" in module.page() for option in options())


def test_readme_names_the_line_of_urls() -> None:
    line = re.search(r'path\(".*", views.bootstrap\)', page("README.md"))
    assert line
    assert line[0] in page("tests/djangoproject/plain/urls.py")


def test_the_example_file_is_a_good_one() -> None:
    Settings(**tomllib.loads(page("examples/gateway.toml")))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_of_settings_that_is_shown_is_a_good_one(path: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        Settings(**tomllib.loads(block))


def test_every_way_to_end_a_connection_is_in_the_table() -> None:
    closes = [value for value in vars(errors).values() if isinstance(value, Close)]
    assert len(closes) > 10
    for close in closes:
        assert f"| {close.code} | `{close.reason}` |" in page("docs/operating.md")


def kinds_of(*roots: type[TemplarError]) -> set[type[TemplarError]]:
    return {*roots}.union(*(kinds_of(*root.__subclasses__()) for root in roots))


def test_every_status_of_the_trigger_address_is_in_the_tables() -> None:
    statuses = {kind.status for kind in kinds_of(TemplarError) - kinds_of(BackendError, Refused)}
    assert statuses == {400, 401, 403, 404, 408, 410, 413, 415, 422, 500, 503}
    for status in {200, *statuses} - {TemplarError.status}:
        assert f"\n| {status}" in page("docs/operating.md").partition("### Of the trigger address")[2]


def test_every_status_of_the_websocket_address_is_in_the_table() -> None:
    table = page("docs/operating.md").partition("### Of the trigger address")[0]
    sources = "".join(page(f"trio_templar/clients/{name}.py") for name in ("handshake", "admission"))
    of_the_api = {str(kind.status) for kind in kinds_of(BackendError)}
    used = {*re.findall(r"HandshakeError\((\d{3})", sources), *of_the_api, "401", "403"}
    assert len(used) > 7
    for status in used:
        assert re.search(rf"^\| (?:\d+, )?{status}\b", table, re.MULTILINE), status


def test_every_error_a_client_can_get_is_in_the_table() -> None:
    sources = "".join(page(f"trio_templar/core/{name}.py") for name in ("dialects", "session"))
    codes = set(re.findall(r'ClientError\(\s*"([a-z-]+)"', sources))
    assert len(codes) > 7
    table = page("docs/wire.md").partition("The messages of an error")[2]
    assert all(f"`{code}`" in table for code in codes)


@pytest.mark.parametrize("name", ["2", "3"])
def test_the_frames_are_those_of_the_dialects(name: str) -> None:
    dialect = DIALECTS[name]  # type: ignore[index]  # one of both
    publication = dialect.publication(b"[1.50]")
    frames = [
        dialect.welcome('[{"target": "car"}]'),
        dialect.success("1"),
        dialect.error(ClientError("room-not-found", "1"), "ID"),
        (publication.left + b"1" + publication.right).decode(),
        dialect.refusal() or "pong",
    ]
    rows = page("docs/wire.md")
    frames.append(unsubscribed("1", "sold"))
    assert [frame for frame in frames if f"`{frame}`" not in rows] == []


@pytest.mark.parametrize("name", ["2", "3"])
def test_the_frames_with_positions_are_those_of_the_dialects(name: str) -> None:
    dialect = DIALECTS[name]  # type: ignore[index]  # one of both
    positions = Positions(b"0123456789ab")
    publication = dialect.publication(b"[1.50]")._replace(position=positions.last)
    frames = Batch([publication]).render(b"1", positions.epoch) + hole_frame(b"1", positions.token(positions.last))
    expected = [
        *texts(frames),
        subscribed("1", "P", None),
        subscribed("1", "P", True),
        subscribed("1", "P", False),
        subscribed("1", None, False),
        position("P"),
    ]
    rows = page("docs/wire.md").partition("### What the gateway sends with positions")[2]
    told = positions.token(positions.last)
    assert [frame for frame in expected if f"`{frame.replace(told, 'P')}`" not in rows] == []


async def test_the_conversation_with_positions_is_what_a_gateway_says(autojump_clock: MockClock) -> None:
    shown = re.findall(r"```text\n(.*?)```", page("docs/wire.md").partition("## Positions\n")[2], re.DOTALL)
    room, said = {"target": "news"}, []

    async def subscribed_client(since: str | None) -> WebsocketClient:
        client = await running.connect()
        await client.receive()
        message = json.dumps({"type": "subscribe", "requestId": 1, "room": room, "since": since})
        await client.send(message)
        said.extend([f"→ {message}", f"← {await client.receive_text()}"])
        return client

    async with open_gateway(backend=FakeBackend([room])) as running:
        before = await subscribed_client(None)
        await running.gateway.publish([room], 1)
        said.append(f"← {await before.receive_text()}")
        await before.aclose()
        await running.gateway.publish([room], 2)
        await running.gateway.publish([room], 3)
        client = await subscribed_client(before.position(1))
        said += [f"← {await client.receive_text()}" for _ in range(2)]
    assert numbered("\n".join(said)) == numbered("".join(shown).rstrip())


def numbered(conversation: str) -> str:
    """Return a conversation with a number for each position, in the order they come."""
    found: dict[str, str] = {}
    return re.sub(
        r"\b[0-9a-f]{12}\.[0-9a-f]+\b", lambda match: found.setdefault(match[0], f"P{len(found)}"), conversation
    )


async def test_every_route_is_in_the_page_of_the_http_api() -> None:
    async with open_gateway() as running:
        files = dashboard.routes(needs_token=bool)
        routes = {(method, path.rstrip("/")) for method, path in set(http_app_of(parts(running)).routes) - set(files)}
    titles = re.findall(r"^### `(\w+) (/\S*)`$", page("docs/http.md"), re.MULTILINE)
    shown = {(method, path.rstrip("/")) for method, path in titles}
    assert shown | {("POST", "/trigger")} == routes


@pytest.mark.parametrize("path", ["/status", "/connections/", "/rooms/", "/trends", "/history/?room={}"])
async def test_the_answers_of_the_http_api_have_the_keys_that_are_shown(path: str) -> None:
    section = page("docs/http.md").partition(f"### `GET {path.partition('?')[0]}`")[2]
    shown = json.loads(section.partition("```json\n")[2].partition("```")[0])
    async with open_gateway(backend=FakeBackend([{"target": "car"}])) as running:
        await running.subscriber(1, {"target": "car"})
        async with operator(running.gateway) as caller:
            answer = (await caller.get(path)).json()
    assert list(shown) == list(answer)
    for items in ("connections", "rooms"):
        if path == f"/{items}/":
            assert list(shown[items][0]) == list(answer[items][0])


def test_the_log_lines_are_those_of_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "trio_templar").rglob("*.py"))
    rows = re.findall(r"^\| `([^`]+)`.* \| (?:info|warning|error) \|", page("docs/operating.md"), re.MULTILINE)
    assert len(rows) > 8
    for row in rows:
        event = row.removesuffix(" …").removeprefix("connect ")
        assert event in code, row
    written = re.findall(r'logger\.(?:warning|error|exception)\(\s*"(?:%s )?([\w ]+\w)', code)
    written += re.findall(r'log\(\s*logger, [\w.]+, "([^"]+)"', code)
    assert len(written) > 8
    table = page("docs/operating.md").partition("## The log")[2]
    assert [line for line in written if line not in table] == []


def test_readme_has_one_command_to_try_and_one_to_test() -> None:
    commands = re.findall(r"```sh\n(python -m pip install .*)\n```", page("README.md"))
    assert commands == [
        "python -m pip install . && python -m trio_templar serve --demo",
        "python -m pip install -e '.[test]' && python -m pytest",
    ]
