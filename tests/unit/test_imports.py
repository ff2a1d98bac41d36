"""Imports go one way, so that the core can be read, and tested, without the shell."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

import trio_templar
from tests.unit.conftest import PYTHON
from trio_templar.cli import COMMANDS

PACKAGE = Path(trio_templar.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
    for path in PACKAGE.rglob("*.py")
}
CORE = [
    *["errors", "rooms", "policies", "frames", "dialects", "session", "hub", "triggers", "preferences"],
    *["settings", "options", "texts", "files", "forwarding", "reload", "counters"],
]
ASYNC = {"trio", "trio_websocket", "httpx", "hypercorn", "h11", "wsproto", "anyio", "asyncio", "socket", "logging"}


def imported(module: str) -> set[str]:
    """The modules that `module` imports anywhere; ours by their name in the package."""
    found: set[str] = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            found.add(_module(rest) if top == "trio_templar" and rest else top)
    return found


def _module(name: str) -> str:
    """`commands.serve.COMMAND` is in `commands.serve`; what is in no module of ours keeps its first part."""
    parts = name.split(".")
    return next((known for n in range(len(parts), 0, -1) if (known := ".".join(parts[:n])) in MODULES), parts[0])


def is_command(module: str) -> bool:
    return module in ("cli", "__main__") or module.startswith("commands.")


def ours(module: str) -> set[str]:
    return imported(module) & set(MODULES)


def names_used(module: str) -> set[str]:
    return {f"{ast.unparse(node)}" for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_nothing_of_the_shell_and_nothing_that_does_io(module: str) -> None:
    assert ours(module) <= set(CORE)
    assert not imported(module) & ASYNC


@pytest.mark.parametrize("module", CORE)
def test_the_core_is_synchronous_and_knows_no_clock(module: str) -> None:
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(MODULES[module]))
    assert not imported(module) & {"time", "datetime", "random", "threading"}


def test_imports_make_no_circle() -> None:
    done: list[str] = []
    left = {module: ours(module) - {module} for module in MODULES if module != "__init__"}
    left["hub"].discard("frames")  # for the type checker only
    while left:
        free = [module for module, needs in left.items() if needs <= {*done, "__init__"}]
        assert free, f"a circle among {sorted(left)}"
        done += free
        left = {module: needs for module, needs in left.items() if module not in free}


def test_a_connection_knows_nothing_of_the_http_api() -> None:
    assert not ours("connection") & {"http_api", "http_server", "gateway", "cli"}
    assert not ours("http_api") & {"connection", "outbox", "reception", "gateway", "cli"}


def test_only_the_command_reads_arguments_and_environment() -> None:
    for module in set(MODULES) - {"cli"}:
        assert not names_used(module) & {"sys.argv", "os.environ", "os.getenv"}, module


def test_nothing_but_the_command_line_knows_the_commands() -> None:
    for module in MODULES:
        if not is_command(module):
            assert not any(is_command(used) for used in ours(module)), module


def test_only_serving_sees_everything() -> None:
    users = {module for module in MODULES if {"connection", "http_app", "fanout", "supervisor"} <= ours(module)}
    assert users == {"serving"}
    assert {module for module in MODULES if "serving" in ours(module)} <= {
        "__init__",
        "commands.serve",
        "testing",
        "demo",
    }


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("httpx", {"backend", "commands.gateway_api"}),
        ("rich", {"commands.dashboard"}),
        ("shtab", {"commands.completion"}),
        ("hypercorn", {"http_caller"}),
        ("prometheus_client", {"exposition"}),
    ],
)
def test_a_library_is_known_to_the_modules_that_hide_it(library: str, modules: set[str]) -> None:
    assert {module for module in MODULES if library in imported(module)} == modules


def test_only_the_commands_read_arguments_and_print() -> None:
    for module in MODULES:
        if not is_command(module):
            assert "argparse" not in imported(module), module
            assert "print" not in {node.id for node in ast.walk(MODULES[module]) if isinstance(node, ast.Name)}, module


def run(code: str) -> str:
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("argv", [["--help"], *([command.name, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_that_is_slow_to_import(argv: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['trio-templar', *{argv}]\n"
        "from trio_templar.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "slow = {'trio', 'httpx', 'hypercorn', 'h11', 'trio_websocket', 'wsproto', 'anyio', 'asyncio', 'rich'}\n"
        "print('imported:', sorted(slow & set(sys.modules)))"
    )
    assert run(code).endswith("imported: []\n")


def test_importing_the_package_starts_nothing() -> None:
    code = "import sys, trio_templar; print('trio' in sys.modules, trio_templar.Settings().dialect)"
    assert run(code) == "False 2\n"


@pytest.mark.parametrize("name", trio_templar.__all__)
def test_every_public_name_can_be_had_and_is_documented(name: str) -> None:
    assert getattr(trio_templar, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = trio_templar.nonsense
