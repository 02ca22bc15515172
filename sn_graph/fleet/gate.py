"""Gates: a condition on each weight's record, as `--assert` takes it, parsed by a grammar and never evaluated as code.

    condition  = conjunction { "or" conjunction }
    conjunction = denial { "and" denial }
    denial     = "not" denial | "(" condition ")" | comparison
    comparison = operand relation operand { relation operand }         1 <= sigma < 2 holds where both do
    relation   = "<" | "<=" | ">" | ">=" | "==" | "!="
    operand    = number | text in quotes | name of a field

A field that is not known makes a comparison unknown, by Kleene's logic; a weight passes where the condition is true, so
that what nobody measured does not pass.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from sn_graph.errors import UsageError

Value = float | str
Row = Mapping[str, Any]
"""A weight's record as JSON: what stands under "sites" in `--json`."""

NUMBERS = (
    *("sigma", "sigma_upper", "sigma_operator", "sigma_operator_upper", "sigma_used", "sigma_power", "sigma_scaled"),
    *("sigma_base", "sigma_delta", "sigma_graph", "frobenius", "stable_rank", "gain", "cap", "k", "groups"),
    *("rows", "columns"),
)
TEXTS = ("id", "weight", "scope", "dtype", "role", "status", "reason", "form")
_LONGEST = 2000  # characters
_DEEPEST = 32  # brackets and "not" within one another
_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_TOKEN = re.compile(
    r"""[ \t]*(?:(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,4})?)(?![\w.])
    |(?P<name>[A-Za-z_]\w*)|(?P<text>'[^'\\]*'|"[^"\\]*")|(?P<relation><=|>=|==|!=|<|>)|(?P<bracket>[()]))""",
    re.ASCII | re.VERBOSE,
)

Truth = bool | None
_Condition = Callable[[Row], Truth]


@dataclass(frozen=True)
class Gate:
    """A condition that each measured weight is to fulfil.

    Attributes:
        text: As it was given.
        names: The fields that it asks for.

    >>> gate = Gate.parse("sigma <= 1.001 or role == 'embed'")
    >>> [row["id"] for row in gate.broken([{"id": "a", "status": "eligible", "sigma": 2.0, "role": "q_proj"}])]
    ['a']
    """

    text: str
    names: frozenset[str]
    _condition: _Condition

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Read a condition.

        Raises:
            UsageError: It is none, or asks for what no record has.
        """
        parser = _Parser(text)
        condition = parser.parsed()
        return cls(text, frozenset(parser.names), condition)

    def broken(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows that break the condition; those that were skipped are not judged."""
        return [row for row in rows if row.get("status") != "skipped" and self._condition(row) is not True]

    def found(self, row: Row) -> str:
        """Return what the condition met in a row, in words.

        >>> Gate.parse("sigma < 1").found({"sigma": 1.5})
        'sigma is 1.5'
        """
        values = ((name, _field(row, name)) for name in sorted(self.names))
        return ", ".join(f"{name} is {_shown(value)}" for name, value in values)


def _shown(value: Value | None) -> str:
    if value is None:
        return "not known"
    return repr(value) if isinstance(value, str) else f"{value:.9g}"


def _field(row: Row, name: str) -> Value | None:
    if name in ("rows", "columns"):
        matrix = row.get("matrix")
        return None if matrix is None else float(matrix[name == "columns"])
    value = row.get(name)
    if name in TEXTS:
        return "" if value is None else str(value)  # a weight without a role is none of any
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@dataclass(frozen=True)
class _Operand:
    """A side of a comparison: whether it is a text or a number, and what gives its value."""

    is_text: bool
    value: Callable[[Row], Value | None]


class _Parser:
    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        self._text = text
        self._tokens = self._tokenized()
        self._at = 0

    def parsed(self) -> _Condition:
        condition = self._any(0)
        if self._at < len(self._tokens):
            self._refuse(f"'{self._tokens[self._at][1]}' follows where it should end")
        return condition

    def _tokenized(self) -> list[tuple[str, str]]:
        if len(self._text) > _LONGEST:
            raise UsageError(f"--assert has {len(self._text):,} characters", f"where at most {_LONGEST:,} are read")
        found, position, text = [], 0, self._text.rstrip(" \t")
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                rest = text[position:].lstrip()
                self._refuse(f"it can't go on with {rest[:20]!r}")
            kind = str(match.lastgroup)
            found.append((kind, match[kind]))
            position = match.end()
        return found

    def _any(self, depth: int) -> _Condition:
        return self._joined("or", lambda: self._joined("and", lambda: self._denial(depth), _all), _one)

    def _joined(self, word: str, part: Callable[[], _Condition], join: Callable[[list[Truth]], Truth]) -> _Condition:
        parts = [part()]
        while self._take("name", word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else lambda row: join([each(row) for each in parts])

    def _denial(self, depth: int) -> _Condition:
        if depth > _DEEPEST:
            self._refuse("it is nested too deeply")
        if self._take("name", "not"):
            denied = self._denial(depth + 1)
            return lambda row: None if (truth := denied(row)) is None else not truth
        if self._take("bracket", "("):
            inner = self._any(depth + 1)
            if not self._take("bracket", ")"):
                self._refuse("a bracket is not closed")
            return inner
        return self._comparison()

    def _comparison(self) -> _Condition:
        left, pairs = self._operand(), []
        while self._at < len(self._tokens) and self._tokens[self._at][0] == "relation":
            relation = self._tokens[self._at][1]
            self._at += 1
            right = self._operand()
            if left.is_text != right.is_text:
                self._refuse("it compares a text with a number")
            if left.is_text and relation not in ("==", "!="):
                self._refuse(f"texts are == or !=, not {relation}")
            pairs.append((left, _RELATIONS[relation], right))
            left = right
        if not pairs:
            self._refuse("a value alone is neither true nor false: compare it")
        return lambda row: _all(
            [_compared(one.value(row), relation, other.value(row)) for one, relation, other in pairs]
        )

    def _operand(self) -> _Operand:
        if self._at >= len(self._tokens):
            self._refuse("it ends where a value should follow")
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            number = float(text)
            if not math.isfinite(number):
                self._refuse(f"{text} is too large")
            return _Operand(False, lambda _: number)
        if kind == "text":
            return _Operand(True, lambda _: text[1:-1])
        if kind != "name" or text in ("and", "or", "not"):
            self._refuse(f"'{text}' stands where a value should")
        if text not in NUMBERS and text not in TEXTS:
            self._refuse(f"no record has a '{text[:40]}'; there are {', '.join((*NUMBERS, *TEXTS))}")
        self.names.add(text)
        return _Operand(text in TEXTS, lambda row: _field(row, text))

    def _take(self, kind: str, text: str) -> bool:
        taken = self._at < len(self._tokens) and self._tokens[self._at] == (kind, text)
        self._at += taken
        return taken

    def _refuse(self, why: str) -> NoReturn:
        shown = self._text if len(self._text) <= 80 else f"{self._text[:80]}…"
        raise UsageError(f"--assert can't be read: {shown!r}", why, "write it as in 'sigma <= 1.001 and rows > 1'")


def _compared(left: Value | None, relation: Callable[[Any, Any], bool], right: Value | None) -> Truth:
    return None if left is None or right is None else relation(left, right)


def _all(truths: list[Truth]) -> Truth:
    """Kleene's and."""
    if any(truth is False for truth in truths):
        return False
    return None if any(truth is None for truth in truths) else True


def _one(truths: list[Truth]) -> Truth:
    """Kleene's or."""
    if any(truth is True for truth in truths):
        return True
    return None if any(truth is None for truth in truths) else False
