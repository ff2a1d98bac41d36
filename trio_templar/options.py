"""What makes options of the fields of a dataclass: their names outside, and values from text, TOML and environment."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from trio_templar.errors import SettingsError
from trio_templar.policies import Kind, RoomPolicy

PREFIX: Final = "TRIO_TEMPLAR_"

# What msgspec calls a type, and what an operator does.
WORDS: Final = (
    ("`int`", "a whole number"),
    ("`float | null`", "a number"),
    ("`float`", "a number"),
    ("`bool`", "true or false"),
    ("`array`", "a list"),
    ("`object | null`", "a table"),
    ("`object`", "a table"),
    ("Object contains", "there is an"),
    ("`str`", "a text"),
)


class Option(NamedTuple):
    """One setting as an operator sees it."""

    name: str
    type: Any
    default: Any
    description: str

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

    def convert(self, value: Any, said_as: str, *, strict: bool = True) -> Any:
        """Return `value` checked; with `strict=False` texts become numbers and booleans.

        Raises SettingsError: if it does not fit; the text starts with `said_as`.
        """
        if self.tables and isinstance(value, list):
            value = [_table(item, f"{said_as}[{index}]") for index, item in enumerate(value)]
        try:
            return msgspec.convert(value, self.type, strict=strict)
        except msgspec.ValidationError as error:
            said_as += str(error).partition(" - at `$")[2].rstrip("`")
            shown = "" if self.name == "trigger_token" else f" (it is {value!r})"
            raise SettingsError(f"{said_as}: {self._wanted(str(error))}{shown}") from None

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
        if self.tables and problem.startswith("Invalid enum value"):
            return f"expected {' or '.join(get_args(Kind))}"
        for name, words in WORDS:
            problem = problem.replace(name, words)
        return problem.partition(", got")[0].partition(" - at")[0].replace("Expected", "expected")


def _table(item: Any, said_as: str) -> Any:
    return _json(item, said_as) if isinstance(item, str) else item


def _json(text: str, said_as: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise SettingsError(f"{said_as}: not JSON: {error} (it is {text!r})") from None


def options_of(kind: type) -> tuple[Option, ...]:
    """Return the fields of the dataclass `kind`, in its order; each is `Annotated` with a `Meta` that describes it."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(Option(f.name, hints[f.name], f.default, _description(hints[f.name])) for f in fields(kind))


def _description(hint: Any) -> str:
    return next(meta.description for meta in hint.__metadata__ if isinstance(meta, Meta) and meta.description)
