"""How much memory there is: the machine's, or the tightest control group's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trio_templar.machine import memory_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def groups(folder: Path, own: str, **limits: str) -> int:
    """The memory of a process whose /proc/self/cgroup is `own`, in control groups with these limits."""
    for path, limit in limits.items():
        file = folder.joinpath(*path.split("__"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit)
    (folder / "own").write_text(own)
    return memory_bytes(folder, folder / "own")


def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path, tmp_path / "absent") == MACHINE


def test_the_tightest_group_above_us_counts(tmp_path: Path) -> None:
    limits = {"a__memory.max": "1000\n", "a__b__memory.max": "max\n", "a__b__c__memory.max": "2000\n"}
    assert groups(tmp_path, "0::/a/b/c\n", **limits) == 1000


def test_in_a_container_whose_path_is_not_there_its_root_counts(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/docker/abc\n", **{"memory.max": "5000\n"}) == 5000


def test_the_first_version_of_groups_counts_too(tmp_path: Path) -> None:
    own = "5:cpu,cpuacct:/\n4:memory:/a\n"
    assert groups(tmp_path, own, **{"memory__a__memory.limit_in_bytes": "7000\n"}) == 7000


@pytest.mark.parametrize("limit", ["max\n", str(2**63 - 4096)])
def test_no_limit_is_none(limit: str, tmp_path: Path) -> None:
    name = "memory.max" if limit == "max\n" else "memory__memory.limit_in_bytes"
    assert groups(tmp_path, "0::/\n4:memory:/\n", **{name: limit}) == MACHINE
