"""Imports go one way, so that each layer can be read, and tested, without those behind it."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

import trio_templar
from tests.unit.conftest import PYTHON
from trio_templar.commands.cli import COMMANDS

PACKAGE = Path(trio_templar.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
    for path in PACKAGE.rglob("*.py")
}
# A layer imports from itself and from those before it, also where only the type checker looks.
LEAVES = {"errors", "log", "log_writer", "files", "clock", "counters", "machine", "lag"}
LAYERS = ("leaves", "core", "net", "delivery", "clients", "http", "root", "commands")
# What stands in the way of the core being tested without a machine around it.
SHELL = {"trio", "trio_websocket", "httpx", "hypercorn", "h11", "wsproto", "anyio", "asyncio", "socket", "logging"}
CLOCKS = {"time", "random", "threading"}
FILES = {"os", "io", "pathlib", "tempfile", "shutil", "subprocess"}
IMPURE = {"files", "log", "log_writer", "clock", "lag", "machine"}


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


def layer(module: str) -> str:
    if module in LEAVES:
        return "leaves"
    if module == "__main__":
        return "commands"
    package, dot, _ = module.partition(".")
    return package if dot else "root"


def ours(module: str) -> set[str]:
    return imported(module) & set(MODULES)


def names_used(module: str) -> set[str]:
    return {f"{ast.unparse(node)}" for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute)}


def of_layer(name: str) -> list[str]:
    return sorted(module for module in MODULES if layer(module) == name)


def test_every_module_is_in_a_layer() -> None:
    assert {layer(module) for module in MODULES} == set(LAYERS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_no_later_layer(module: str) -> None:
    place = LAYERS.index(layer(module))
    later = {used for used in ours(module) if LAYERS.index(layer(used)) > place}
    assert later == set()


def test_only_the_wiring_sees_all_parts() -> None:
    packages = {name for name in LAYERS if (PACKAGE / name).is_dir()} - {"commands"}
    assert {module for module in MODULES if packages <= set(map(layer, ours(module)))} == {"wiring"}


def test_imports_make_no_circle() -> None:
    done: list[str] = []
    packages = {module for module in MODULES if module.endswith("__init__")}
    left = {module: ours(module) - {module} - packages for module in MODULES if module not in packages}
    left["core.hub"].discard("core.frames")  # for the type checker only
    left["delivery.backlog"].discard("delivery.outbox")  # likewise
    while left:
        free = [module for module, needs in left.items() if needs <= set(done)]
        assert free, f"a circle among {sorted(left)}"
        done += free
        left = {module: needs for module, needs in left.items() if module not in free}


@pytest.mark.parametrize("module", of_layer("core"))
def test_the_core_does_no_io_and_knows_no_clock(module: str) -> None:
    assert not imported(module) & (SHELL | CLOCKS)
    assert "datetime.now" not in names_used(module)
    # Reading the token from its file is what that setting means: a program that has Settings has the token.
    assert imported(module) & (FILES | IMPURE) == ({"files"} if module == "core.settings" else set())


@pytest.mark.parametrize("module", of_layer("core"))
def test_the_core_is_synchronous(module: str) -> None:
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(MODULES[module]))


def test_only_the_command_line_reads_arguments_and_environment() -> None:
    for module in set(MODULES) - {"commands.cli"}:
        assert not names_used(module) & {"sys.argv", "os.environ", "os.getenv"}, module


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("httpx", {"clients.backend", "commands.gateway_api"}),
        ("rich", {"commands.screen"}),
        ("shtab", {"commands.completion"}),
        ("hypercorn", {"http.caller"}),
        ("prometheus_client", {"http.exposition"}),
    ],
)
def test_a_library_is_known_to_the_modules_that_hide_it(library: str, modules: set[str]) -> None:
    assert {module for module in MODULES if library in imported(module)} == modules


def test_only_the_commands_read_arguments_and_print() -> None:
    for module in MODULES:
        if layer(module) != "commands":
            assert "argparse" not in imported(module), module
            assert "print" not in {node.id for node in ast.walk(MODULES[module]) if isinstance(node, ast.Name)}, module


def test_the_map_names_every_module_and_nothing_else() -> None:
    text = trio_templar.__doc__ or ""
    drawn = set[str]()
    for line in text.splitlines():
        if match := re.match(r"    (\w+)/? {2,}(.*)", line):
            folder = f"{match[1]}." if (PACKAGE / match[1]).is_dir() else ""
            drawn |= {f"{folder}{name}" for name in ([] if folder else [match[1]])}
            current = folder
        elif match := re.match(r"      (\w+) {2,}", line):
            drawn.add(f"{current}{match[1]}")
    assert drawn == {module for module in MODULES if not module.rpartition(".")[2].startswith("__")}


def run(code: str) -> str:
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("argv", [["--help"], *([command.name, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_that_is_slow_to_import(argv: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['trio-templar', *{argv}]\n"
        "from trio_templar.commands.cli import main\n"
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
