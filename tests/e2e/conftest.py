"""What several files start: the Django site with its gateway, a recording API, a gateway in front of that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.api import Api, serve_api
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
def shared(shared_api: Api) -> Iterator[GatewayProcess]:
    """A gateway for all tests of a module: none of them may harm it."""
    with gateway(f"--api-url={shared_api.url}") as process:
        yield process
