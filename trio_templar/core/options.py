"""The fields of a dataclass as options: their names outside, and their values from texts, TOML and the environment."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from trio_templar.core.policies import Kind, RoomPolicy
from trio_templar.core.texts import plain
from trio_templar.errors import SettingsError

PREFIX: Final = "TRIO_TEMPLAR_"

# What msgspec calls a type, and what an operator calls it.
WORDS: Final = (
    ("`int`", "a whole number"),
    ("`int | null`", "a whole number"),
    ("`float`", "a number"),
    ("`float | null`", "a number"),
    ("`bool`", "true or false"),
    ("`array`", "a list"),
    ("`object | null`", "a table"),
    ("`object`", "a table"),
    ("Object contains", "there is an"),
    ("`str`", "a text"),
    ("`str | null`", "a text"),
)
NUMBERS: Final = {int: "a whole number", float: "a number"}
SWITCH: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
# How much of a value an error shows.
SHOWN: Final = 61


class Reload(enum.Enum):
    """When a new value of a setting holds in a gateway that runs; the value is what the docs call it."""

    AT_ONCE = "at once"
    NEW_CLIENTS = "new clients"  # the others keep what they were admitted with
    RESTART = "restart"


class Option(NamedTuple):
    """One setting as an operator sees it."""

    name: str
    type: Any
    default: Any
    description: str
    normalise: Callable[[str], str] = str
    reload: Reload = Reload.RESTART

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.name.upper()

    @property
    def many(self) -> bool:
        """Whether it takes a list."""
        return get_origin(self.plain) is tuple

    @property
    def plain(self) -> Any:
        """Its type without bounds and description."""
        return self.type.__origin__

    @property
    def tables(self) -> bool:
        """Whether its items have fields of their own; on the command line they are JSON."""
        return RoomPolicy in get_args(self.plain)

    @property
    def default_text(self) -> str:
        """Its default, as one would write it."""
        if self.many:
            return " ".join(self.default) or "none"
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return "unset" if self.default in ("", None) else str(self.default)

    @property
    def metavar(self) -> str:
        """What stands for its value in a usage line."""
        if self.choices:
            return "|".join(self.choices)
        if self.tables:
            return "JSON"
        for unit in ("seconds", "bytes"):
            if self.name.endswith(unit):
                return unit.upper()
        return "N" if self.plain is int else "VALUE"

    @property
    def choices(self) -> tuple[str, ...]:
        """The values it takes, if they can be counted."""
        return get_args(self.plain) if get_origin(self.plain) is Literal else ()

    @property
    def kind(self) -> Any:
        """The type of its value where it has one."""
        if self.many:
            return tuple
        inner = next(iter(get_args(self.plain)), None) if type(None) in get_args(self.plain) else self.plain
        return getattr(inner, "__origin__", inner)

    def convert(self, value: Any, said_as: str, *, strict: bool = True) -> Any:
        """Return `value` checked and normal; with `strict=False` texts become numbers and booleans.

        Raises SettingsError: if it does not fit; the text starts with `said_as`.
        """
        if self.tables and isinstance(value, list):
            value = [_table(item, _at(said_as, f"[{index}]")) for index, item in enumerate(value)]
        meant = self._from_text(value) if isinstance(value, str) and not strict else value
        try:
            converted = msgspec.convert(meant, self.type)
        except (msgspec.ValidationError, UnicodeError, RecursionError) as error:
            said_as = _at(said_as, str(error).partition(" - at `$")[2].rstrip("`"))
            hidden = self.name == "trigger_token"
            raise SettingsError(f"{said_as}: {self._wanted(str(error))}{'' if hidden else _shown(value)}") from None
        try:
            return self._normal(converted)
        except SettingsError as error:
            raise SettingsError(f"{said_as}: {error}") from None

    def _from_text(self, text: str) -> Any:
        """Return what `text` means; itself if that is nothing of this kind."""
        text = text.strip()
        if self.choices:
            return text.lower()
        if self.kind is bool:
            return SWITCH.get(text.lower(), text)
        if self.kind is int:  # what has 4301 digits is no number to int()
            return int(text) if re.fullmatch(r"-?\d[\d_]{0,40}", text, re.ASCII) and text[-1] != "_" else text
        if self.kind is float:
            with suppress(ValueError):
                return float(text)
        return text

    def _normal(self, value: Any) -> Any:
        if self.tables:
            return value
        if self.many:
            return tuple(self.normalise(plain(item)) for item in value)
        return self.normalise(plain(value)) if self.kind is str else value

    def split(self, text: str) -> list[Any]:
        """Return the items of a list in a text: split at blanks, or at line ends where an item has blanks of its own.

        Of tables it is a JSON array of objects.
        """
        if self.tables and text.strip().startswith("["):
            return list(_json(text, self.name))
        return text.strip().splitlines() if "\n" in text or self.tables else text.split()

    def _wanted(self, problem: str) -> str:
        """Return what msgspec says is wrong in the words of an operator."""
        if self.choices:
            return f"expected {' or '.join(self.choices)}"
        if self.kind is bool:
            return "expected true or false"
        if self.kind in NUMBERS:
            return f"expected {NUMBERS[self.kind]} {self._bounds()}"
        if self.tables and problem.startswith("Invalid enum value"):
            return f"expected {' or '.join(get_args(Kind))}"
        for name, words in WORDS:
            problem = problem.replace(name, words)
        return problem.partition(", got")[0].partition(" - at")[0].replace("Expected", "expected")

    def _bounds(self) -> str:
        inner = (get_args(self.plain) or (None,))[0]
        meta = next(meta for meta in (*metas(self.type), *metas(inner)) if meta.le is not None)
        return f"over {meta.gt}, at most {meta.le}" if meta.gt is not None else f"from {meta.ge} to {meta.le}"


def hint(name: str, names: Iterable[str], likeness: float = 0.7, prefix: str = "") -> str:
    """Return what to put behind an error about `name`: which of `names` may be meant, after `prefix`, or nothing."""
    from difflib import get_close_matches  # --help need not wait for it

    found = get_close_matches(name, list(names), 1, likeness)
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def metas(hint: Any) -> list[Meta]:
    """Return the bounds and descriptions that are annotated to a type."""
    return [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]


def _at(said_as: str, place: str) -> str:
    """Return what a user calls a place in a setting: `bind[0]`, and what stands behind the name: `bind[0] in FILE`."""
    name, blank, source = said_as.partition(" ")
    return f"{name}{place}{blank}{source}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of 4301 digits, or nested too deeply
        return ""
    return f" (it is {text})" if len(text) <= SHOWN else f" (it is {text[:SHOWN]}…)"


def _table(item: Any, said_as: str) -> Any:
    return _json(item, said_as) if isinstance(item, str) else item


def _json(text: str, said_as: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise SettingsError(f"{said_as}: nested too deeply{_shown(text)}") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise SettingsError(f"{said_as}: not JSON: {str(error)[:SHOWN]}{_shown(text)}") from None


def options_of(kind: type) -> tuple[Option, ...]:
    """Return the fields of the dataclass `kind`, in its order.

    Each is `Annotated` with a `Meta` that describes it, and perhaps with what makes its texts normal, and a `Reload`.
    """
    hints = get_type_hints(kind, include_extras=True)
    return tuple(_option(each.name, hints[each.name], each.default) for each in fields(kind))


def _option(name: str, hint: Any, default: Any) -> Option:
    description = next(meta.description for meta in metas(hint) if meta.description)
    normalise = next((each for each in hint.__metadata__ if callable(each)), str)
    reload = next((each for each in hint.__metadata__ if isinstance(each, Reload)), Reload.RESTART)
    return Option(name, hint, default, description, normalise, reload)
