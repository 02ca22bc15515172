"""Tables: nothing wider than the terminal, no figure cut, and names that break at their joints, whatever they are."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from sn_graph.cli import table as tables
from sn_graph.cli.table import Table, print_tables
from sn_graph.cli.wrapping import lay_out

NAMES = {
    "keras": "discriminator_1/spectral_normalization_3/conv2d_transpose/ReadVariableOp:0",
    "torch": "encoder.layers.11.self_attn.out_proj.parametrizations.weight.original",
    "exporter": "onnx::MatMul_147 ← /net/block.3/attention/MatMul",
    "one letter": "w",
    "one word": "w" * 300,
    "wide": "核心/卷积层" * 20,
}


@given(st.text(st.characters(exclude_categories=["C", "Z", "M"]), max_size=80), st.integers(4, 60))
def test_a_line_never_passes_the_width_and_nothing_is_lost(text: str, width: int) -> None:
    lines = lay_out(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines) == text


@settings(max_examples=200)
@given(
    st.lists(st.text("abcXYZ", min_size=1, max_size=8), min_size=1, max_size=12), st.sampled_from("/._-:"), st.data()
)
def test_words_stay_whole_where_they_fit(words: list[str], joint: str, data: st.DataObject) -> None:
    width = data.draw(st.integers(max(map(len, words)) + 1, 40))
    for line in lay_out(joint.join(words), width)[:-1]:
        assert line.endswith(joint)


def test_joints_come_in_their_order() -> None:
    assert lay_out("blocks.12.self_attn.q_proj", 20) == ["blocks.12.self_attn.", "q_proj"]
    assert lay_out("self_attention_q_proj", 16) == ["self_attention_", "q_proj"]
    assert lay_out("ReadVariableOp", 8) == ["Read", "Variable", "Op"]
    assert lay_out("two words of.a.name", 12) == ["two words", "of.a.name"]
    assert lay_out("", 10) == [""]


FIGURES = ["3.205571", "49.98312", "-24.7 %"]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("name", NAMES)
def test_no_figure_is_cut_and_what_is_left_out_is_told(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(tables, "on_terminal", lambda: True)
    titles = ["weight", "op", "shape", "σ", "bound", "1 step", "status"]
    table = Table(*titles, wrapped=["weight"], least_wanted=["1 step", "shape", "op", "bound"])
    row = [NAMES[name], "ConvTranspose", "128×64×4×4", *FIGURES, "eligible"]
    for dim in (False, True):
        table.add(row, dim=dim)
    print_tables(table)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    shown, _, told = plain.partition("left out for want of width: ")
    assert max(map(cell_len, plain.splitlines())) <= columns
    dropped = " ".join(told.split()).removesuffix("; --json has them").split(", ") if told else []
    kept = [title for title in titles if title not in dropped]
    heading, _, *lines = [line for line in shown.splitlines() if line.strip()]
    assert heading.split() == " ".join(kept).split()
    for title, cell in zip(titles, row, strict=True):
        if title not in ("weight", *dropped):
            assert shown.count(cell) == 2, title
    written = [re.split(r"\s{2,}", line[1:])[0] for line in lines]
    assert NAMES[name].replace(" ", "") * 2 == "".join(written).replace(" ", "")
    assert dropped if columns == 40 else columns < 100 or not dropped
