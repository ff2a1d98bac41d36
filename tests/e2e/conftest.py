"""What several files start: the Django site with its gateway, a recording API, a gateway in front of that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.api import Api, serve_api
from tests.e2e.browser import Browser, Page, run_browser
from tests.e2e.django_site import Garage, run_garage
from tests.e2e.processes import GatewayProcess, gateway


@pytest.fixture(scope="session")
def garage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Garage]:
    """The site and a gateway with nothing but its address."""
    with run_garage(tmp_path_factory.mktemp("garage")) as found:
        yield found


@pytest.fixture
def api() -> Iterator[Api]:
    with serve_api() as served:
        yield served


@pytest.fixture
def running(api: Api) -> Iterator[GatewayProcess]:
    """A gateway in front of `api`."""
    with gateway(f"--api-url={api.url}") as process:
        yield process


@pytest.fixture(scope="module")
def shared_api() -> Iterator[Api]:
    with serve_api() as served:
        yield served


@pytest.fixture(scope="module")
def one_for_all(shared_api: Api) -> Iterator[GatewayProcess]:
    with gateway(f"--api-url={shared_api.url}") as process:
        yield process


@pytest.fixture
def shared(one_for_all: GatewayProcess) -> GatewayProcess:
    """A gateway for all tests of a module: none of them may harm it. Nothing is left there of the test before."""
    one_for_all.wait_idle()
    return one_for_all


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all who have one; who has none skips before."""
    with run_browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new tab."""
    with browser.page() as opened:
        yield opened
