"""The dashboard's files: what is served, how it is tied down, and that its parts fit together."""

from __future__ import annotations

import importlib.resources
import re

import httpx
import pytest

from trio_templar.delivery.budget import Budget
from trio_templar.http import page
from trio_templar.http.app import HttpApi
from trio_templar.http.authorization import Access, Authorization

FOLDER = importlib.resources.files("trio_templar.http") / "page_files"
DEMO_URL = "ws://127.0.0.1:1234/live/"
PATHS = sorted(path for _, path in page.routes(needs_token=bool))
SCRIPTS = [path for path in PATHS if path.endswith(".js") and "uplot" not in path]


def client(*, token: str = "", demo_url: str | None = None) -> httpx.AsyncClient:
    """A client of an HTTP API that has the page and nothing else."""
    authorization = Authorization(Access(token.encode()))
    app = HttpApi(authorization, max_bytes=1000, body_seconds=1, budget=Budget(10**7))
    app.routes |= page.routes(needs_token=lambda: bool(authorization.access.token), demo_url=demo_url)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway.test:80")


async def get(path: str) -> str:
    async with client() as http:
        return (await http.get(path)).text


def test_the_page_is_at_the_root_and_its_files_below_page() -> None:
    assert {"/", "/page.json", "/page/app.js", "/page/page.css", "/page/uplot/uPlot.iife.min.js"} <= set(PATHS)
    assert all(path.startswith("/page/") for path in PATHS if path not in {"/", "/page.json"})


@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_is_public_and_tied_down(path: str) -> None:
    async with client(token="s3cret") as http:
        response = await http.get(path)

    assert response.status_code == 200
    assert "s3cret" not in response.text
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "connect-src 'self';" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_browser_that_has_a_file_is_told_that_it_is_the_same() -> None:
    async with client() as http:
        first = await http.get("/page/app.js")
        tag = first.headers["etag"]
        again = await http.get("/page/app.js", headers={"if-none-match": f'W/"other", W/{tag}'})
        other = await http.get("/page/dom.js", headers={"if-none-match": tag})

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (other.status_code, other.content) == (200, (FOLDER / "dom.js").read_bytes())


@pytest.mark.parametrize(("token", "needed"), [("", False), ("s3cret", True)])
async def test_the_page_is_told_whether_a_token_is_needed(token: str, needed: bool) -> None:
    async with client(token=token) as http:
        assert (await http.get("/page.json")).json() == {"needs_token": needed, "demo": None}


async def test_a_token_that_comes_or_goes_while_it_runs_is_noticed() -> None:
    needed = [True]
    app = HttpApi(Authorization(Access()), max_bytes=1000, body_seconds=1, budget=Budget(10**7))
    app.routes |= page.routes(needs_token=needed.pop)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway.test") as http:
        assert (await http.get("/page.json")).json()["needs_token"] is True
        needed.append(False)
        assert (await http.get("/page.json")).json()["needs_token"] is False


async def test_with_the_demo_the_page_may_connect_to_its_websockets() -> None:
    async with client(demo_url=DEMO_URL) as http:
        assert (await http.get("/page.json")).json()["demo"] == {"scheme": "ws", "port": 1234, "path": "/live/"}
        assert "connect-src 'self' ws://*:1234;" in (await http.get("/")).headers["content-security-policy"]


async def test_with_the_demo_over_tls_the_page_may_connect_over_tls() -> None:
    async with client(demo_url="wss://127.0.0.1:1234/live/") as http:
        assert (await http.get("/page.json")).json()["demo"]["scheme"] == "wss"
        assert "connect-src 'self' wss://*:1234;" in (await http.get("/")).headers["content-security-policy"]


async def test_the_page_is_only_read() -> None:
    async with client() as http:
        response = await http.post("/")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


async def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline() -> None:
    document = await get("/")
    assert {f"/{target}" for target in re.findall(r'(?:src|href)="([^"]*)"', document)} <= set(PATHS)
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", document)


@pytest.mark.parametrize("path", SCRIPTS)
async def test_every_script_asks_for_what_exists(path: str) -> None:
    document, script = await get("/"), await get(path)

    assert set(re.findall(r'element\("([\w-]+)"\)', script)) <= set(re.findall(r'\sid="([\w-]+)"', document))
    modules = re.findall(r'(?:from|import\() ?"([^"]+)"', script)
    assert {f"/page/{module.removeprefix('./')}" for module in modules} <= set(PATHS)
    assert all(module.startswith("./") for module in modules)
    assert "//" not in re.sub(r"// .*|\$\{scheme\}://\$\{location", "", script)  # no address of another host
    assert "innerHTML" not in script


@pytest.mark.parametrize("path", [path for path in PATHS if path.endswith(".css")])
async def test_no_style_asks_for_anything(path: str) -> None:
    assert not re.search(r"url\(|@import", await get(path))


async def test_every_element_that_is_asked_for_stands_once_in_the_page() -> None:
    ids = re.findall(r'\sid="([\w-]+)"', await get("/"))
    assert len(ids) == len(set(ids)) > 30


def test_what_is_vendored_has_its_licence_beside_it() -> None:
    assert "Permission is hereby granted" in (FOLDER / "uplot" / "LICENSE").read_text()
    assert "(v1." in (FOLDER / "uplot" / "uPlot.iife.min.js").read_text(encoding="utf-8")[:200]
