"""Entries: JSON that a file holds, taken apart key by key into values of the types asked for.

Every method raises ValueError, which says the key and what stands there, for what is missing or of another form.
"""

import math
from collections.abc import Collection
from typing import Any, TypeVar

T = TypeVar("T")
_MOST = 2**63 - 1


class Entry:
    """A JSON object, whose keys are taken out one by one."""

    def __init__(self, content: Any, name: str = "the entry") -> None:
        if not isinstance(content, dict):
            raise ValueError(f"{name} is not an object")
        self._left, self._name = dict(content), name

    def holds(self, key: str) -> bool:
        """Say whether a key is there with a value; one that is null is taken out."""
        if self._left.get(key) is None:
            self._left.pop(key, None)
            return False
        return True

    def take(self, key: str, kind: type[T]) -> T:
        """Take out a value of one type."""
        if key not in self._left:
            raise ValueError(f"{self._name} has no {key!r}")
        value = self._left.pop(key)
        if type(value) is not kind:
            raise ValueError(f"{key!r} of {self._name} is {_brief(value)}")
        return value

    def name(self, key: str) -> str:
        """Take out a name: text that is not empty, and that a model can hold."""
        return _named(self.take(key, str), key)

    def names(self, key: str, count: int | None = None) -> tuple[str, ...]:
        """Take out a list of names, of one at least; of `count` where that is given."""
        values = self.take(key, list)
        if not values or len(values) != (len(values) if count is None else count):
            raise ValueError(f"{key!r} of {self._name} is {_brief(values)}")
        return tuple(_named(value, key) for value in values)

    def require_none(self, *keys: str) -> None:
        """Take out keys that hold null or are absent."""
        for key in keys:
            if self.holds(key):
                raise ValueError(f"{key!r} of {self._name} is {_brief(self._left[key])}, not null")

    def one_of(self, key: str, choices: Collection[str], default: str | None = None) -> str:
        """Take out one of some words."""
        if default is not None and key not in self._left:
            return default
        value = self.take(key, str)
        if value not in choices:
            raise ValueError(f"{key!r} of {self._name} is {_brief(value)}")
        return value

    def flag(self, key: str) -> bool:
        """Take out true or false; false where the key is absent."""
        return self.take(key, bool) if key in self._left else False

    def whole(self, key: str, least: int, most: int = _MOST) -> int:
        """Take out a whole number between two others."""
        return _between(self.take(key, int), least, most, key)

    def wholes(self, key: str, least: int, most: int = _MOST, count: int | None = None) -> tuple[int, ...]:
        """Take out a list of whole numbers; of `count` where that is given."""
        values = self.take(key, list)
        if len(values) != (len(values) if count is None else count):
            raise ValueError(f"{key!r} of {self._name} is {_brief(values)}")
        return tuple(_between(value, least, most, key) for value in values)

    def positive(self, key: str) -> float:
        """Take out a finite number above zero."""
        value = self._left.pop(key, None)
        if type(value) not in (int, float) or not 0 < value < math.inf or value > 1e300:
            raise ValueError(f"{key!r} of {self._name} is {_brief(value)}")
        return float(value)

    def inner(self, key: str) -> "Entry":
        """Take out an object."""
        return Entry(self.take(key, dict), key)

    def list(self, key: str) -> "list[Entry]":
        """Take out a list of objects."""
        return [Entry(value, f"{key}[{place}]") for place, value in enumerate(self.take(key, list))]

    def require_end(self) -> None:
        """Raise ValueError where a key is left."""
        if self._left:
            raise ValueError(f"{self._name} has a key {_brief(next(iter(self._left)))} that is unknown")


def _named(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{key!r} holds {_brief(value)}, which is not a name")
    return value


def _between(value: Any, least: int, most: int, key: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key!r} holds {_brief(value)}")
    return value


def _brief(value: Any) -> str:
    """Return a value as messages show it; a number of thousands of digits can't be written at all."""
    if isinstance(value, int) and abs(value) > _MOST:
        return "a number that is too large"
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]}…"
