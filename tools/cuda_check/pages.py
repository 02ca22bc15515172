"""The two pages: parity and placement, and what it costs; valid after every step, however many are still to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bench.common import markdown_table
from tools.cuda_check.kernels import PUBLISHED, table
from tools.cuda_check.record import Record

PARITY, RUNTIME = "parity-cuda.md", "runtime-cuda.md"
AIM = 1.10  # of inserted/bare at batch 16 with a CUDA graph
REFERENCE = {"cuda": "the CPU", "cpu": "the CPU without graph optimizations"}
Rows = Mapping[str, Mapping[str, Any]]

MODELS = """\
Inserted models run 10 steps; at each, outputs, u and σ are compared. Copies are nodes that onnxruntime put in to move
a tensor between the host and the device."""
SESSIONS = """\
Outputs, u and σ over 10 steps against the CPU, relative; where u and σ are kept; and a fork, which starts from the
same u and must leave it as it is."""
KNOWN = f"""\
onnxruntime-gpu {" and ".join(table())} were asked, without a GPU, which nodes their CUDA provider takes (`python -m
tools.cuda_kernels`; `tools/cuda_check/kernels.json`, and beside it what onnxruntime publishes, `{PUBLISHED.name}`).
They take every node that `insert` and `fold` write, in float16, bfloat16, float32 and float64, opsets 7 to 25 (1.24:
to 23), but one: ConvTranspose of opset 22 and later, which `--norm operator` of a convolution needs, runs on the CPU
with 1.24. `tests/tools/test_cuda_kernels.py` keeps it so."""
TIMES = """\
A ratio is the median over the rounds of a turn's time divided by the bare model's in the same round; behind it stands
the ratio of the two least times. Bare, folded and inserted models run on inputs and outputs that stay on the device.
StatefulSession takes its inputs from the host and gives its outputs to it, and is compared with a bare model that
does the same, without a CUDA graph."""
LOADS = """\
What is made of constants, the Gram matrix before all, onnxruntime is to compute once, on the CPU, while it loads the
model. Constants are counted in the file and in what onnxruntime made of it."""


def write(folder: Path, record: Record, todo: Sequence[str]) -> None:
    """Write both pages of a record; `todo` names every step there is."""
    left = [key for key in todo if key not in record.results]
    for name, text in ((PARITY, parity(record, todo, left)), (RUNTIME, runtime(record, todo, left))):
        part = folder / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)


def parity(record: Record, todo: Sequence[str], left: Sequence[str]) -> str:
    """Return the page of parity and placement."""
    rows, states, graphs = record.of("parity"), record.of("state"), record.of("graph")
    done = _done(rows)
    provider = record.header["provider"]
    lines = [
        *_head(f"{provider.upper()} against {REFERENCE[provider]}", record, todo, left),
        f"- {sum(bool(row['ok']) for row in done.values())} of {len(done)} models agree within the tolerances of "
        "`sn-graph verify`, TF32 off, with every node of ours, and every operator in question, on the provider",
        f"- worst max|a−b| / max|b| of float32, TF32 off: {_worst(done, 'rel')}",
        f"- with TF32 on: {_worst(done, 'rel_tf32')}",
        "",
        "## Outputs, u and σ, and where the nodes ran",
        "",
        MODELS,
        "",
        markdown_table(
            (
                *("model", "form", "steps", "ok", "max abs", "rel", "max abs, TF32", "rel, TF32"),
                *(f"nodes on {provider}", "nodes elsewhere", "copies"),
            ),
            (_parity_row(key, row) for key, row in done.items()),
        ),
        *_problems(rows),
        "",
        "## StatefulSession",
        "",
        SESSIONS,
        "",
        markdown_table(
            ("model", "ok", "rel", "fork, rel", "the other's u untouched", "u and σ are on"),
            (
                (key, _yes(row["ok"]), _e(row["difference"]), _e(row["fork"]), _yes(row["untouched"]), row["devices"])
                for key, row in _done(states).items()
            ),
        ),
        *_problems(states),
        "",
        "## CUDA graphs",
        "",
        "A session that replays a CUDA graph against one that does not, over 10 steps."
        if provider == "cuda"
        else "The CPU has none: these runs bind inputs, outputs and u at fixed addresses, as a CUDA graph needs it.",
        "",
        markdown_table(
            ("model", "ok", "rel"),
            ((key, _yes(row["ok"]), _e(row["difference"])) for key, row in _done(graphs).items()),
        ),
        *_problems(graphs),
        "",
        "## What is known without a GPU",
        "",
        KNOWN,
    ]
    return "\n".join(lines) + "\n"


def runtime(record: Record, todo: Sequence[str], left: Sequence[str]) -> str:
    """Return the page of costs."""
    times, loads = record.of("time"), record.of("load")
    on_cuda = record.header["provider"] == "cuda"
    aimed = [
        f"{key.rpartition(',')[0]}: {row['ways']['inserted']['ratio']:.2f}"
        for key, row in _done(times).items()
        if key.endswith(", graph, 16")
    ]
    lines = [
        *_head(f"What an inserted iteration costs on {record.header['provider'].upper()}", record, todo, left),
        f"- inserted/bare at batch 16 with a CUDA graph (aim: {AIM:.2f}): {'; '.join(aimed) or 'not measured'}",
        "",
        "## Time",
        "",
        TIMES,
        *([] if on_cuda else ["The CPU has no CUDA graph: only the addresses of StatefulSession are fixed there."]),
        "",
        markdown_table(
            (
                *("network", "type", "CUDA graph", "batch", "bare, ms", "folded/bare", "inserted/bare"),
                *("session/bare, from the host", "rounds"),
            ),
            (_time_row(key, row) for key, row in _done(times).items()),
        ),
        *_problems(times),
        "",
        "## Loading",
        "",
        LOADS,
        "",
        markdown_table(
            (
                "model",
                "ok",
                "left to compute at every run",
                "constants in the file, MB",
                "after loading, MB",
                "seconds",
            ),
            (
                (
                    *(key, _yes(row["ok"]), row["left"], f"{row['stored'] / 1e6:.3g}"),
                    *(f"{row['constants'] / 1e6:.3g}", f"{row['seconds']:.2g}"),
                )
                for key, row in _done(loads).items()
            ),
        ),
        *_problems(loads),
    ]
    return "\n".join(lines) + "\n"


def _head(title: str, record: Record, todo: Sequence[str], left: Sequence[str]) -> list[str]:
    header = record.header
    provider = header["provider"]
    lines = [f"# {title}", ""]
    if provider != "cuda":
        lines += ["**This page is of the CPU. It shows that the tool runs, and says nothing of CUDA.**", ""]
    if header["quick"]:
        lines += ["**A trial of a few models (`--quick`).**", ""]
    lines += [
        f"Written by `{header['command']}` on {header['date']}; `tools/cuda_check/` says how.",
        "",
        f"- GPU: {header['gpu']}",
        f"- {header['versions']}",
        f"- providers in force: {', '.join(record.results.get('providers', {}).get('active', [])) or 'not known'}",
        f"- {len(todo) - len(left)} of {len(todo)} steps are done"
        + (f"; the next is {left[0]} (the same command goes on there)" if left else ""),
    ]
    return lines


def _done(rows: Rows) -> Rows:
    return {key: row for key, row in rows.items() if "error" not in row and "none" not in row}


def _problems(rows: Rows) -> list[str]:
    """Return what did not run, and what there is none of."""
    lines: list[str] = []
    for word, title in (("error", "Failed:"), ("none", "Not there:")):
        found = [f"- {key}: {row[word]}" for key, row in rows.items() if word in row]
        lines += ["", title, "", *found] if found else []
    return lines


def _parity_row(key: str, row: Mapping[str, Any]) -> list[str]:
    name, form = split_key(key)
    figures = (row["max_abs"], row["rel"], row["max_abs_tf32"], row["rel_tf32"])
    cells = [name, form, str(row["steps"]), row["verdict"], *map(_e, figures)]
    return [*cells, row["here"], row["elsewhere"], str(row["copies"])]


def split_key(key: str) -> tuple[str, str]:
    """Return name and form of a case."""
    from tools.cuda_check.cases import FORMS

    form = max((form for form in FORMS if key.endswith(f", {form}")), key=len)
    return key.removesuffix(f", {form}"), form


def _time_row(key: str, row: Mapping[str, Any]) -> list[str]:
    network, dtype, graph, batch = key.split(", ")
    ways = row["ways"]
    cells = [network, dtype, "yes" if graph == "graph" else "no", batch, f"{ways['bare']['ms']:.3g}"]
    cells += [f"{ways[way]['ratio']:.2f} ({ways[way]['least']:.2f})" for way in ("folded", "inserted")]
    return [*cells, f"{ways['session']['of its like']:.2f}", str(row["rounds"])]


def _worst(rows: Rows, field: str) -> str:
    figures = [(float(row[field]), key) for key, row in rows.items() if "float16" not in key]
    if not figures:
        return "–"
    figure, key = max(figures, key=lambda one: (one[0] != one[0], one[0]))  # NaN beats any
    return f"{figure:.1e} ({key})"


def _e(figure: float | str) -> str:
    return f"{float(figure):.1e}"


def _yes(ok: bool) -> str:
    return "yes" if ok else "no"
