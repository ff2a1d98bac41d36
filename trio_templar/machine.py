"""What this machine, or the container, allows this process: descriptors and memory."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
# Where a cgroup (v1) has no limit, the kernel shows a huge number: 2**63 cut to whole pages.
NO_LIMIT: Final = 2**60


def descriptor_limit() -> int:
    """Return how many descriptors this process may have open (`ulimit -n`)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if limit == resource.RLIM_INFINITY else limit


def most_descriptors() -> int:
    """Return up to how many descriptors this process may raise its limit (`ulimit -Hn`)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if most == resource.RLIM_INFINITY else most


def raise_descriptor_limit(wanted: int) -> None:
    """Raise the limit of this process to `wanted` descriptors, or as far as it may."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        with suppress(OSError, ValueError):  # a sandbox may forbid it; a warning follows
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, allowed), most))


def memory_bytes(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the memory of the machine, or of the tightest control group we are in (cgroups v2, v1) if that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            limits += _limits(root, path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(root / "memory", path, "memory.limit_in_bytes")
    return min(limits)


def _limits(root: Path, path: str, name: str) -> list[int]:
    """Return the limits of a control group and of all above it."""
    folder = root / path.lstrip("/")
    found = []
    for each in (folder, *folder.parents):
        if not each.is_relative_to(root):
            break
        try:
            text = (each / name).read_text().strip()
        except OSError:  # in a container the path is that of the host
            continue
        if text.isdecimal() and int(text) < NO_LIMIT:
            found.append(int(text))
    return found
