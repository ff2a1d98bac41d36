"""What a script shows: a progress bar while it works, then a table, and everything in a JSON file."""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from bench.process import LOAD_CORE, SERVER_CORE

_PACKAGES = ("trio-templar", "trio", "trio-websocket", "wsproto", "h11", "hypercorn", "httpx", "msgspec")
_BAR = 24
_FAULTS = ("lost", "duplicated", "disordered", "strange", "refused_posts")


class Column(NamedTuple):
    """One figure of a run as a column of the table."""

    key: str
    title: str
    digits: int = 1


class Spread(NamedTuple):
    """Median, minimum and maximum over the runs."""

    median: float
    minimum: float
    maximum: float

    def text(self, digits: int, *, ranges: bool = True) -> str:
        """Return `median (min-max)`, or the bare median where there is only one number or no `ranges` are wanted."""
        if math.isnan(self.median):
            return "-"
        middle = f"{self.median:,.{digits}f}"
        if self.minimum == self.maximum or not ranges:
            return middle
        return f"{middle} ({self.minimum:,.{digits}f}-{self.maximum:,.{digits}f})"


@dataclass
class Report:
    """The runs of one script, by case."""

    script: str
    parameters: dict[str, Any]
    columns: Sequence[Column]
    expected_runs: int = 0
    cases: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ranges: bool = True

    def add(self, case: str, figures: dict[str, Any]) -> None:
        """Take the figures of one run."""
        self.cases.setdefault(case, []).append(figures)
        self.progress(case)

    def progress(self, what: str) -> None:
        """Draw the bar, on a terminal only."""
        if not sys.stderr.isatty():
            return
        done, total = sum(map(len, self.cases.values())), max(1, self.expected_runs)
        filled = min(_BAR, _BAR * done // total)
        bar = "#" * filled + "." * (_BAR - filled)
        print(f"\r\x1b[K{self.script} [{bar}] {done}/{total} {what}", end="", file=sys.stderr, flush=True)

    def spread(self, case: str, key: str) -> Spread:
        """Return median, minimum and maximum of a figure over the runs of a case; NaN where nobody measured it."""
        values = [run[key] for run in self.cases.get(case, []) if run.get(key) is not None]
        values = [value for value in values if not math.isnan(value)] or [math.nan]
        return Spread(statistics.median(values), min(values), max(values))

    def finish(self, file: Path | None) -> None:
        """Print the table; write `file` if there is one."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(self.table())
        if file is not None:
            file.write_text(json.dumps(self.as_json(), indent=1) + "\n")

    def table(self) -> str:
        """Return median (min-max) of every figure of every case, then notes and warnings."""
        shown = [one for one in self.columns if any(one.key in run for runs in self.cases.values() for run in runs)]
        rows = [[self.script, *(column.title for column in shown)]]
        rows += [[case, *(self._cell(case, one) for one in shown)] for case in self.cases]
        turned = [list(column) for column in zip(*rows, strict=True)]
        lines = min(_lines(rows), _lines(turned), key=lambda lines: len(lines[0]))
        return "\n".join([*lines, *self.notes, *self.warnings()])

    def _cell(self, case: str, column: Column) -> str:
        return self.spread(case, column.key).text(column.digits, ranges=self.ranges)

    def warnings(self) -> list[str]:
        """Say which cases had faults, in which the generator was the bottleneck, and which were disturbed."""
        said = []
        for case, runs in self.cases.items():
            faults = {key: sum(run.get(key, 0) for run in runs) for key in _FAULTS}
            if any(faults.values()):
                said.append(f"FAULTS in {case}: " + ", ".join(f"{n} {key}" for key, n in faults.items() if n))
            if bound := sum(bool(run.get("generator_bound")) for run in runs):
                said.append(f"generator-bound: {bound} of {len(runs)} runs of {case}")
            if disturbed := sum(bool(run.get("disturbed")) for run in runs):
                said.append(f"disturbed by others on the server's core: {disturbed} of {len(runs)} runs of {case}")
        return said

    def as_json(self) -> dict[str, Any]:
        """Return everything, for comparison later and elsewhere."""
        spreads = {
            case: {column.key: _finite(self.spread(case, column.key)._asdict()) for column in self.columns}
            for case in self.cases
        }
        return {
            "script": self.script,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
            "parameters": {key: _plain(value) for key, value in self.parameters.items()},
            "median_min_max": spreads,
            "runs": {case: [_finite(run) for run in runs] for case, runs in self.cases.items()},
            "notes": self.notes + self.warnings(),
        }


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the columns, the first to the left, and rule off the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *lines = [_line(row, widths) for row in rows]
    return [head, "-" * len(head), *lines]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join([row[0].ljust(widths[0]), *numbers])


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in figures.items()}


def commit() -> str:
    """Return the commit that is checked out, with `+` if files differ from it; "unknown" outside a repository."""
    here = Path(__file__).parent
    try:
        name = _git(here, "rev-parse", "--short", "HEAD")
        return name + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(here: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Return what the figures depend on beside the code."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "server_core": SERVER_CORE,
        "generator_core": LOAD_CORE,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what the server is made of."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
