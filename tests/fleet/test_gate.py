"""Conditions: what they say of rows, and that nothing else than a condition is ever read."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sn_graph.errors import UsageError
from sn_graph.fleet import Gate

HOSTILE = [
    "__import__('os').system('touch /tmp/sn-graph-was-here')",
    "sigma.__class__.__mro__[1].__subclasses__()",
    "(lambda: 0)() == 0",
    "[x for x in (1,)] == 1",
    "{'a': 1} == 1",
    "sigma if 1 else 2",
    "(sigma := 1) == 1",
    "9**9**9 > 1",
    "'a'*10**9 == 'b'",
    "f'{sigma}' == 'x'",
    "sigma <= 1; import os",
    "sigma <= 1\nimport os",
    "exec < 1",
    "open == 'x'",
    "globals() == 1",
    "sigma[0] < 1",
    "sigma < 1 # comment",
    "sigma <= 1e999",
    "sigma <= nan",
    "sigma <= 0x10",
    "sigma <= 1_000",
    "(" * 40 + "sigma < 1" + ")" * 40,
    "(" * 100_000,
    "not " * 400 + "sigma < 1",
    "ѕigma < 1",  # the first letter is Cyrillic
    "sigma\0< 1",
    "sigma < 1 sigma < 2",
    "sigma",
    "1",
    "",
    "   ",
    "sigma <",
    "< 1",
    "sigma < 1 and",
    "and sigma < 1",
    "(sigma < 1",
    "sigma < 1)",
    "role < 'a'",
    "role == 1",
    "sigma == 'a'",
    "'a\\'b' == role",
    "unknown_field < 1",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Gate.parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@given(st.text(alphabet="sigma role<>=!()'\"andnotr 0123456789.e+-\0\n*[]{}:;,", max_size=60))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        gate = Gate.parse(text)
    except UsageError:
        return
    assert gate.names <= {"sigma", "role", "gain"}
    gate.broken([{"id": "w", "status": "eligible", "sigma": 1.0}])


def row(**fields: Any) -> dict[str, Any]:
    return {"id": "w", "status": "eligible", **fields}


@pytest.mark.parametrize(
    ("text", "fields", "holds"),
    [
        ("sigma <= 1.001", {"sigma": 1.0}, True),
        ("sigma <= 1.001", {"sigma": 1.002}, False),
        ("0 < sigma <= 2", {"sigma": 1.0}, True),
        ("2 > sigma > 1.5", {"sigma": 1.0}, False),
        ("sigma != 1", {"sigma": 1.0}, False),
        ("sigma == 1e0", {"sigma": 1}, True),
        ("sigma < -1.5", {"sigma": -2.0}, True),
        ("not sigma > 1", {"sigma": 1.0}, True),
        ("not not sigma > 1", {"sigma": 1.0}, False),
        ("sigma < 1 or sigma > 2 and rows == 3", {"sigma": 3.0, "matrix": [3, 4]}, True),
        ("(sigma < 1 or sigma > 2) and rows == 3", {"sigma": 0.5, "matrix": [4, 3]}, False),
        ("columns == 3", {"matrix": [4, 3]}, True),
        ("role == 'embed' or sigma < 1", {"role": "embed", "sigma": 9.0}, True),
        ('role != "embed"', {"role": None}, True),
        ("role == ''", {}, True),
        # What is not known is not fulfilled, nor is its opposite.
        ("sigma <= 1", {"sigma": None}, False),
        ("not sigma <= 1", {"sigma": None}, False),
        ("sigma_base < 1 or sigma < 1", {"sigma": 0.5}, True),
        ("sigma_base < 1 and sigma < 1", {"sigma": 0.5}, False),
        ("not (sigma_base < 1 and sigma > 1)", {"sigma": 0.5}, True),
        ("sigma <= 1", {"sigma": float("inf")}, False),
        ("sigma >= 1", {"sigma": float("nan")}, False),
    ],
)
def test_conditions_hold_as_they_read(text: str, fields: dict[str, Any], holds: bool) -> None:
    assert Gate.parse(text).broken([row(**fields)]) == ([] if holds else [row(**fields)])


numbers = st.floats(-4, 4).map(lambda value: round(value, 2))
comparisons = st.builds(
    lambda name, relation, value: f"{name} {relation} {value}",
    st.sampled_from(["sigma", "frobenius"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    numbers,
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(lambda a, b: f"{a} and {b}", inner, inner),
        st.builds(lambda a, b: f"{a} or {b}", inner, inner),
        st.builds(lambda a: f"not {a}", inner),
        st.builds(lambda a: f"({a})", inner),
    ),
    max_leaves=8,
)


@given(conditions, numbers, numbers)
def test_conditions_of_known_numbers_mean_what_python_means(text: str, sigma: float, frobenius: float) -> None:
    wanted = eval(text, {"__builtins__": {}}, {"sigma": sigma, "frobenius": frobenius})
    assert Gate.parse(text).broken([row(sigma=sigma, frobenius=frobenius)]) == (
        [] if wanted else [row(sigma=sigma, frobenius=frobenius)]
    )


def test_skipped_weights_are_not_judged() -> None:
    assert Gate.parse("sigma < 1").broken([{"id": "w", "status": "skipped", "sigma": None}]) == []


def test_what_was_found_is_said() -> None:
    gate = Gate.parse("sigma <= 1 and role == 'embed' and sigma_base < 1")
    assert gate.found(row(sigma=1.5, role="q_proj")) == "role is 'q_proj', sigma is 1.5, sigma_base is not known"
