"""Run every benchmark, one after the other: `python -m bench`, or `python -m bench --quick` for a first look."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Script, and its arguments when in a hurry.
SCRIPTS: dict[str, list[str]] = {
    "core": ["--runs", "2"],
    "limit": ["--runs", "2"],
    "fanout": ["--runs", "2", "--triggers", "100"],
    "rooms": ["--runs", "2", "--triggers", "1000", "--batched-triggers", "10000"],
    "connect": ["--runs", "2", "--clients", "500"],
    "recover": ["--runs", "1", "--clients", "500"],
    "memory": ["--runs", "1", "--clients", "1000"],
    "ping": ["--runs", "1", "--clients", "2000", "--triggers", "100"],
    "slow": ["--runs", "1", "--triggers", "100"],
    "soak": ["--seconds", "60"],
    "compare": ["--runs", "1", "--triggers", "100", "--room-triggers", "1000"],
}


def commands(args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Return (title, arguments of python -m) for each script; fanout also with the room of 8000."""
    made = []
    for script in args.only:
        quick = SCRIPTS[script] if args.quick else []
        made.append((script, [f"bench.{script}", *quick]))
        if script == "fanout" and not args.quick:
            large = ["--clients", "8000", "--publishers", "8", "--triggers", "160"]
            made.append(("fanout-8000", ["bench.fanout", *large]))
        if script == "compare" and args.picture:
            made[-1][1].extend(["--picture", str(args.picture)])
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; a script that fails does not keep the others from running."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, few runs: minutes, and noisy figures")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="which scripts")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write one JSON file for each script there")
    parser.add_argument("--picture", type=Path, metavar="FOLDER", help="where compare draws its pictures")
    args = parser.parse_args(arguments)
    if args.json:
        args.json.mkdir(parents=True, exist_ok=True)
    failed = []
    for title, command in commands(args):
        target = ["--json", str(args.json / f"{title}.json")] if args.json else []
        begin = time.monotonic()
        print(f"\n$ python -m {' '.join(command)}", flush=True)
        if subprocess.run([sys.executable, "-m", *command, *target], env=dict(os.environ), check=False).returncode:
            failed.append(title)
        print(f"({time.monotonic() - begin:.0f} s)", flush=True)
    if failed:
        print("failed:", ", ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
