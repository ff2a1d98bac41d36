"""Arguments that several scripts share, and how a script is run as a command or by another script."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser(doc: str | None, *, runs: int = 5) -> argparse.ArgumentParser:
    """Return a parser with what every script takes."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=positive, default=runs, help="measured runs (default %(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write parameters, machine and every run to FILE")
    return made


def add_size(made: argparse.ArgumentParser, default: int = 104) -> None:
    """Add --size. 104 bytes of data make frames of 190 bytes."""
    made.add_argument("--size", type=positive, default=default, help="bytes of `data` (default %(default)s)")


def add_crowd(made: argparse.ArgumentParser, *, clients: int, triggers: int, publishers: Sequence[int]) -> None:
    """Add --clients, --triggers, --publishers and --same-request-id."""
    made.add_argument("--clients", type=positive, default=clients, help="clients in the room (default %(default)s)")
    made.add_argument("--triggers", type=positive, default=triggers, help="triggers of a run (default %(default)s)")
    made.add_argument(
        "--publishers",
        type=positives,
        default=list(publishers),
        metavar="N,N",
        help=f"how many publish at once, one case for each (default {','.join(map(str, publishers))})",
    )
    made.add_argument("--same-request-id", action="store_true", help="one requestId for all clients, not a uuid each")


def positive(text: str) -> int:
    """Parse a number of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def positives(text: str) -> list[int]:
    """Parse numbers separated by commas."""
    return [positive(part) for part in text.split(",")]
