"""Write docs/settings.md from the settings themselves: `python docs/make_settings.py`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from trio_templar.core.options import Option
from trio_templar.core.settings import options

PAGE: Final = Path(__file__).with_name("settings.md")

HEAD: Final = """\
# Settings

<!-- Made by make_settings.py from trio_templar/core/settings.py: change it there. -->

Each setting can be given in three ways. The command line wins over the environment, the environment over the file.

| where | how |
|---|---|
| command line | `--max-connections 500`; a switch is `--demo` or `--no-demo`; a list is the option given again |
| environment | `TRIO_TEMPLAR_MAX_CONNECTIONS=500`; a switch is `true` or `false`; a list is split at blanks |
| TOML file (`--config FILE`, or `TRIO_TEMPLAR_CONFIG=FILE`) | `max_connections = 500`; a list is `["…", "…"]` |

A wrong option, key or value is one line that names it, and exit status 2. Unknown environment variables are ignored: a
container platform may set some of its own with this prefix. So are empty ones (`${VAR:-}` in a compose file).
Blanks and line ends around a value do not count. Hosts, schemes and origins are written as browsers send them: lower
case, without a default port, names in their ASCII form. What could not work is refused: an origin with a path, an
`--api-url` with a query or a password.
Sizes are in bytes, times in seconds. A program that embeds the gateway gives the same names to
`trio_templar.Settings`.

The column *reload* says when a new value holds in a gateway that runs, after SIGHUP or `gateway.reload(settings)`: for
everybody at once, for new clients only, or not before a restart.
"""

TITLES: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    ("Deadlines", lambda name: name.endswith("_seconds")),
    ("Bounds", lambda name: name.startswith("max_") or name.endswith(("_bytes", "_frames", "_publications"))),
    ("What it is and does", lambda _: True),
)


def page() -> str:
    """Return the page."""
    return HEAD + "".join(_table(title) for title, _ in reversed(TITLES))


def _table(title: str) -> str:
    rows = "".join(_rows(title))
    return f"\n## {title}\n\n| option | default | reload | meaning |\n|---|---|---|---|\n{rows}"


def _rows(title: str) -> Iterator[str]:
    for option in options():
        if title == next(title for title, holds in TITLES if holds(option.name)):
            yield f"| `{option.flag}` | {_default(option)} | {option.reload.value} | {_meaning(option)} |\n"


def _default(option: Option) -> str:
    return option.default_text if option.default in ("", None, ()) else f"`{option.default_text}`"


def _meaning(option: Option) -> str:
    text = option.description.replace("|", "\\|")
    if option.choices:
        text += " (" + ", ".join(f"`{choice}`" for choice in option.choices) + ")"
    return text + ("; repeatable" if option.many else "")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE} is written")
