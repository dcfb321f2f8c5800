"""What a setting may be: its type, its range, how it is read from text and written to it, as Kafka does both.

Invariant: a value that `check` has let through is read back from what `format` makes of it. Immutable values and pure
functions: thread-safe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1

# What Java's parseInt, parseLong and parseDouble take, but for its NaN, Infinity, hexadecimal and non-ASCII digits.
_INTEGER = re.compile(r"[+-]?(?=[0-9])0*+([0-9]*+)")
_DECIMAL = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[dDfF]?")
_LIST_SEPARATOR = re.compile(r"\s*,\s*")
_SHOWN_MAX = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a setting may be and what it is for; `kind` is Kafka's word for its type."""

    kind: Literal["int", "long", "double", "boolean", "string", "list"]
    meaning: str
    minimum: float = 0
    maximum: float = 0
    also: int | None = None
    choices: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The legal values in words."""
        if self.kind == "boolean":
            return "true, false"
        if self.choices:
            return ", ".join(self.choices)
        if self.minimum == -_INT64_MAX - 1:
            return f"any {self.kind}"
        return f"{self.minimum} to {self.maximum}{'' if self.also is None else f' or {self.also}'}"

    def check(self, name: str, value: object) -> None:
        """Refuse a value of another type with TypeError, and one out of range with ValueError."""
        if not self._has_type(value):
            raise TypeError(f"{name} is {shown(value)}, which is not of its type, {self.kind}")
        if self.kind == "list":
            assert isinstance(value, frozenset)
            legal = value <= set(self.choices)
        elif self.kind == "string":
            legal = value in self.choices
        elif self.kind == "boolean":
            legal = True
        else:
            assert isinstance(value, int | float)
            legal = self.minimum <= value <= self.maximum or value == self.also
        if not legal:
            raise ValueError(f"{name} is {shown(value)}; its range is: {self.range}")

    def parse(self, name: str, text: str) -> object:
        """Read a value as Kafka does: blanks around it do not count, nor does the case of a boolean."""
        plain = text.strip()
        if self.kind in ("int", "long") and (match := _INTEGER.fullmatch(plain)) and len(match[1]) <= 19:
            return int(plain)
        if self.kind == "double" and (match := _DECIMAL.fullmatch(plain)):
            return float(match[1])
        if self.kind == "boolean" and plain.lower() in ("true", "false"):
            return plain.lower() == "true"
        if self.kind == "string":
            return plain
        if self.kind == "list":
            return frozenset(_LIST_SEPARATOR.split(plain) if plain else ())
        raise ValueError(f"{name} is {shown(text)}, which is not of its type, {self.kind}; its range is: {self.range}")

    def format(self, value: object) -> str:
        """Return the text that Kafka reads as this value."""
        if self.kind == "list":
            assert isinstance(value, frozenset)
            return ",".join(sorted(value))
        return str(value).lower() if self.kind == "boolean" else str(value)

    def _has_type(self, value: object) -> bool:
        if self.kind == "list":
            return isinstance(value, frozenset) and all(isinstance(one, str) for one in value)
        if self.kind == "string":
            return isinstance(value, str)
        if self.kind == "boolean":
            return isinstance(value, bool)
        return isinstance(value, int | float if self.kind == "double" else int) and not isinstance(value, bool)


def number(
    kind: Literal["int", "long", "double"],
    minimum: float,
    meaning: str,
    *,
    maximum: float | None = None,
    also: int | None = None,
) -> dict[str, Setting]:
    """What a field of a number has as metadata; without a maximum it is that of its type."""
    if maximum is None:
        maximum = _INT32_MAX if kind == "int" else _INT64_MAX
    return {"setting": Setting(kind=kind, meaning=meaning, minimum=minimum, maximum=maximum, also=also)}


def words(choices: object, meaning: str, kind: Literal["string", "list"] = "string") -> dict[str, Setting]:
    """What a field of words has as metadata; `choices` is a Literal of them."""
    return {"setting": Setting(kind=kind, meaning=meaning, choices=get_args(choices))}


def shown(value: object) -> str:
    """Return a value for a message, shortened where it is long."""
    text = repr(",".join(sorted(map(str, value))) if isinstance(value, frozenset) else value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
