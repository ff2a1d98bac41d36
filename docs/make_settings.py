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
| environment | `TRIO_TEMPLAR_MAX_CONNECTIONS=500`; a switch is `true` or `false`; a list is split at spaces |
| TOML file (`--config FILE`, or `TRIO_TEMPLAR_CONFIG=FILE`) | `max_connections = 500`; a list is `["…", "…"]` |

Sizes are in bytes and times in seconds. A program that embeds the gateway passes the same names to
`trio_templar.Settings`. A file for `serve --config gateway.toml`:

<!-- from examples/gateway.toml -->
```toml
api_url = "http://127.0.0.1:8000/api/"
bind = ["127.0.0.1:8001"]
trigger_bind = "127.0.0.1:8002"
forward_ip_from = "X-Real-IP"  # nginx sets it, see deploy/nginx.conf
max_connections = 20_000
log_format = "json"
```

If an option, key or value is wrong, the gateway prints one line that names it, and exits with status 2. It ignores
empty environment variables (`${VAR:-}` in a compose file). It also ignores unknown ones, because a container platform
may set some with the same prefix, but it logs a warning if the name looks like a misspelt setting.

An empty trigger token in an option or a file is an error, because callers would then need no token. If that is what you
want, leave it out. An empty variable for the token is a warning.

The gateway removes spaces and line ends around a value. It writes hosts, schemes and origins as browsers send them:
in lower case, without a default port, and with names in their ASCII form. It refuses values that cannot work, such as
an origin with a path, or an `--api-url` with a query or a password.

The column *reload* says when a new value takes effect after SIGHUP or `gateway.reload(settings)`: for all clients at
once, for new clients only, or only after a restart.
"""

TITLES: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    ("Deadlines", lambda name: name.endswith("_seconds")),
    ("Bounds", lambda name: name.startswith("max_") or name.endswith(("_bytes", "_frames", "_publications"))),
    ("What it does", lambda _: True),
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
