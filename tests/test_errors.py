"""Errors: one line of what happened, why and what to do, and names in the advice that a shell and a regex keep."""

import re
import shlex

import pytest

from sn_graph.errors import EnvironmentUnavailable, ModelError, SnGraphError, UsageError, VerificationFailed, leave_out


@pytest.mark.parametrize(
    ("parts", "reason", "message"),
    [
        (("it broke",), "it broke", "it broke"),
        (("it broke", "the disk is full"), "it broke: the disk is full", "it broke: the disk is full"),
        (("it broke", "", "try again"), "it broke", "it broke; try again"),
        (("it broke", "because it fell", "lift it"), "it broke, because it fell", "it broke, because it fell; lift it"),
        (("it broke", "so it is gone"), "it broke, so it is gone", "it broke, so it is gone"),
        (("it broke", "sorting failed"), "it broke: sorting failed", "it broke: sorting failed"),
    ],
)
def test_parts_of_a_message(parts: tuple[str, ...], reason: str, message: str) -> None:
    error = SnGraphError(*parts)
    assert (error.what, error.why, error.do) == (*parts, "", "")[:3]
    assert (error.reason, str(error)) == (reason, message)


@pytest.mark.parametrize("word", ["and", "because", "but", "for", "so", "where", "which", "whose"])
def test_a_conjunction_follows_a_comma(word: str) -> None:
    assert str(SnGraphError("it broke", f"{word} it was old")) == f"it broke, {word} it was old"


@pytest.mark.parametrize(
    ("kind", "code"),
    [(SnGraphError, 3), (VerificationFailed, 1), (UsageError, 2), (ModelError, 3), (EnvironmentUnavailable, 4)],
)
def test_about_keeps_the_kind_and_the_advice(kind: type[SnGraphError], code: int) -> None:
    error = kind("it broke", "because it fell", "lift it").about("a.onnx")
    assert type(error) is kind
    assert error.exit_code == code
    assert str(error) == "a.onnx: it broke, because it fell; lift it"


@pytest.mark.parametrize(
    "name",
    ["plain", "a.b/c:0", "w[0](x)|y", r"back\slash", "plus+star*?", "^$", "ü{1}", "a b", "x-y", "#1~2&3", "{}"],
)
def test_names_left_out_are_found_and_nothing_else(name: str) -> None:
    *_, option, pattern = shlex.split(leave_out(name))
    assert option == "--exclude"
    assert re.search(pattern, name)
    for other in (f"{name}x", f"x{name}", name[1:], name.replace(".", "_") + "_", ""):
        assert not re.search(pattern, other)


def test_harmless_characters_stay_readable() -> None:
    assert leave_out("block_1/conv-2:kernel@0") == "leave it out with --exclude '^block_1/conv-2:kernel@0$'"
