"""Entries: JSON of another form is refused, whatever stands there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sn_graph.state.entries import Entry

OTHERS: list[Any] = [None, True, 1.5, -1, 0, 10**30, 10**5000, "", "text", "\ud800", [], [1], ["a"], [[]], {}, {"a": 1}]


@pytest.mark.parametrize(
    ("take", "right"),
    [
        (lambda entry: entry.name("key"), ["text"]),
        (lambda entry: entry.names("key"), [["a"]]),
        (lambda entry: entry.names("key", count=2), []),
        (lambda entry: entry.one_of("key", ("other", "text")), ["text"]),
        (lambda entry: entry.flag("key"), [True]),
        (lambda entry: entry.whole("key", 0), [0]),
        (lambda entry: entry.wholes("key", 1), [[], [1]]),
        (lambda entry: entry.positive("key"), [1.5, 10**30]),
        (lambda entry: entry.inner("key"), [{}, {"a": 1}]),
        (lambda entry: entry.list("key"), [[]]),
    ],
)
def test_each_kind_takes_its_own_and_nothing_else(take: Callable[[Entry], Any], right: list[Any]) -> None:
    taken = []
    for value in OTHERS:
        try:
            take(Entry({"key": value}))
        except ValueError:
            pass
        else:
            taken.append(value)
    assert [(type(value), value) for value in taken] == [(type(value), value) for value in right]


def test_what_is_left_is_refused() -> None:
    entry = Entry({"a": 1, "b": None})
    assert not entry.holds("b")
    with pytest.raises(ValueError, match="'a'"):
        entry.require_end()
    assert entry.whole("a", 1) == 1
    entry.require_end()
    with pytest.raises(ValueError, match="has no 'a'"):
        entry.whole("a", 1)
    with pytest.raises(ValueError, match="not null"):
        Entry({"a": 1}).require_none("a")
