"""`trio-templar check`: what `serve` would say of these settings here and now, without serving."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from trio_templar.commands import serve
from trio_templar.commands.command import Command, ExitStatus, run_on_trio
from trio_templar.commands.settings_sources import empty_tokens, misspelt, read_settings
from trio_templar.commands.streams import printable

if TYPE_CHECKING:
    from trio_templar.commands.checks import Finding


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how it is said, and the options of `serve`."""
    parser.add_argument("--host", help="the Host of a client, for an API to which it is forwarded (--forward-host)")
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    serve.add_options(parser)


def run(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Check; FAILED if a gateway would not start, or could admit no client."""
    settings = read_settings(arguments, environment)
    from trio_templar.commands.checks import Finding, check_all

    findings: list[Finding] = []

    async def check() -> int:
        odd = misspelt(environment) | empty_tokens(settings, environment)
        findings.extend(Finding("warn", name, why) for name, why in odd.items())
        findings.extend(await check_all(settings, arguments["host"] or ""))
        return ExitStatus.DONE

    run_on_trio(check)
    good = not any(finding.level == "fail" for finding in findings)
    print(_json(findings, good=good) if arguments["json"] else _lines(findings))
    return ExitStatus.DONE if good else ExitStatus.FAILED


def _json(findings: Sequence[Finding], *, good: bool) -> str:
    return json.dumps({"ok": good, "findings": [finding._asdict() for finding in findings]})


def _lines(findings: Sequence[Finding]) -> str:
    return "\n".join(f"{finding.level:4}  {finding.about}: {printable(finding.text)}" for finding in findings)


COMMAND: Final = Command(
    name="check",
    help="say what would go wrong with these settings",
    usage="trio-templar check [--json] [--host NAME] [--config FILE] [OPTION …]",
    description="Read the settings as `serve` does, and say whether a gateway could start with them now. It looks at "
    "addresses, files, descriptors and memory, and at the API's answer to GET bootstrap/.",
    add_options=add_options,
    run=run,
    examples="""\
  trio-templar check --config /etc/trio-templar.toml
  trio-templar check --api-url http://127.0.0.1:8000/api/ --json
""",
)
