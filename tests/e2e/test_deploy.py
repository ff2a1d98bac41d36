"""The other files of deploy/: what can be checked of units and image without systemd and Docker running."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.e2e.processes import PATIENCE_SECONDS, ROOT
from trio_templar.commands.command import ExitStatus
from trio_templar.core.settings import options

DEPLOY = ROOT / "deploy"
ANALYZE = shutil.which("systemd-analyze")
COMMAND = "/opt/trio-templar/bin/trio-templar"
# Of systemd-analyze security, times ten: 0 is best; below 20 it says OK.
EXPOSURE = 15

with_systemd = pytest.mark.skipif(
    ANALYZE is None, reason="there is no systemd-analyze here; on Debian: apt install systemd"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, timeout=3 * PATIENCE_SECONDS)


@with_systemd
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    units = []
    for unit in (*DEPLOY.glob("*.service"), *DEPLOY.glob("*.socket")):
        units.append(str(tmp_path / unit.name))
        Path(units[-1]).write_text(unit.read_text().replace(COMMAND, "/bin/true"))  # which has to be there
    assert len(units) == 3
    checked = analyze("verify", "--man=no", *units)
    assert (checked.returncode, [line for line in checked.stderr.splitlines() if str(tmp_path) in line]) == (0, [])


@with_systemd
def test_the_service_is_hardened() -> None:
    unit = DEPLOY / "trio-templar.service"
    checked = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(unit))
    assert checked.returncode == 0, checked.stdout


def unit(name: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / name).read_text(), re.MULTILINE))


def test_the_service_leaves_time_for_the_drain_and_descriptors_for_the_clients() -> None:
    defaults = {option.name: option.default for option in options()}
    service = unit("trio-templar.service")
    assert int(service["TimeoutStopSec"]) > defaults["drain_seconds"]
    assert int(service["LimitNOFILE"]) > defaults["max_connections"]


def test_the_service_is_not_started_again_with_settings_that_are_wrong() -> None:
    service = unit("trio-templar.service")
    assert service["Restart"] == "on-failure"
    assert int(service["RestartPreventExitStatus"]) == ExitStatus.USAGE


def test_the_sockets_are_the_addresses_of_the_defaults_and_only_the_trigger_is_named_so() -> None:
    defaults = {option.name: option.default for option in options()}
    websocket, trigger = unit("trio-templar.socket"), unit("trio-templar-trigger.socket")
    assert (websocket["ListenStream"], trigger["ListenStream"]) == (*defaults["bind"], defaults["trigger_bind"])
    assert (websocket["FileDescriptorName"], trigger["FileDescriptorName"]) == ("websocket", "trigger")


def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text()


def test_the_image_has_what_the_package_is_built_from_and_starts_its_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {
        name for line in re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile(), re.MULTILINE) for name in line.split()
    }
    table = project["project"]
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    for needed in ("pyproject.toml", table["readme"], *table["license-files"], *packages):
        assert any(Path(needed).is_relative_to(name) for name in copied), needed
    assert all((ROOT / name).exists() for name in copied)
    assert f'ENTRYPOINT ["{COMMAND}"]' in dockerfile()
    assert Path(COMMAND).name in table["scripts"]


def test_the_image_runs_as_nobody_with_settings_that_exist() -> None:
    assert re.findall(r"^USER (.*)$", dockerfile(), re.MULTILINE) == ["65534:65534"]
    named = set(re.findall(r"TRIO_TEMPLAR_\w+", dockerfile()))
    assert len(named) > 3
    assert named <= {option.variable for option in options()}
    (exposed,) = re.findall(r"^EXPOSE (.*)$", dockerfile(), re.MULTILINE)
    assert re.findall(r"0\.0\.0\.0:(\d+)", dockerfile()) == exposed.split()


def has_daemon() -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None
        and subprocess.run([docker, "info"], capture_output=True, timeout=3 * PATIENCE_SECONDS).returncode == 0
    )


@pytest.mark.skipif(not has_daemon(), reason="there is no Docker daemon here")
def test_the_image_builds_and_knows_its_version() -> None:
    subprocess.run(
        ["docker", "build", "-q", "-t", "trio-templar-test", "-f", "deploy/Dockerfile", "."], cwd=ROOT, check=True
    )
    said = subprocess.run(
        ["docker", "run", "--rm", "trio-templar-test", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("trio-templar ")


@with_systemd
def test_systemd_understands_how_the_token_is_handed_over(tmp_path: Path) -> None:
    service = tmp_path / "trio-templar.service"
    service.write_text((DEPLOY / "trio-templar.service").read_text().replace(COMMAND, "/bin/true"))
    folder = tmp_path / "trio-templar.service.d"
    folder.mkdir()
    (folder / "token.conf").write_text((DEPLOY / "trio-templar-token.conf").read_text())
    checked = analyze("verify", "--man=no", str(service))
    assert (checked.returncode, [line for line in checked.stderr.splitlines() if str(tmp_path) in line]) == (0, [])


def test_the_page_on_installing_has_the_paths_of_the_units_and_settings_that_exist() -> None:
    text = (ROOT / "docs/installing.md").read_text()
    service = (DEPLOY / "trio-templar.service").read_text()
    used = set(re.findall(r"/(?:etc|opt)/trio-templar(?:\.[a-z]+)?\b", service)) - {"/etc/trio-templar.service"}
    assert used == {"/etc/trio-templar.toml", "/etc/trio-templar.env", "/opt/trio-templar"}
    assert all(f"| `{path}` |" in text for path in used)
    assert "RuntimeDirectory=trio-templar" in service
    assert "DynamicUser=yes" in service
    variables = set(re.findall(r"TRIO_TEMPLAR_\w+", text))
    assert variables <= {option.variable for option in options()}
    assert all((ROOT / name).exists() for name in re.findall(r"(?:examples|deploy)/[\w.-]+\w", text))
