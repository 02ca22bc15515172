"""The tool's logic on the CPU, cut off and gone on with, and its way out where there is no CUDA."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import sn_graph
from sn_graph.errors import ModelError
from sn_graph.model import Model
from tests.support.builders import drawn
from tests.support.exported import convolution, in_eval
from tests.support.places import ROOT
from tools.cuda_check import __main__ as cuda_check
from tools.cuda_check import pages, parity, stateful, timing
from tools.cuda_check.cases import FORMS, STEPS, Case, cases, sources
from tools.cuda_check.record import NAME, Record, versions
from tools.op_models import op_model, op_models

WEIGHT = drawn(48, 24)


def case(form: str = "as it is", op: str | None = "MatMul", weight: np.ndarray[Any, Any] = WEIGHT) -> Case:
    return Case("m", form, lambda: op_model("MatMul", [2, 48], weight), op)


def inserted(weight: np.ndarray[Any, Any] = WEIGHT, **options: Any) -> Model:
    return Model.open(sn_graph.insert(op_model("MatMul", [2, len(weight)], weight), **options).to_proto())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    onnx.save(op_model("MatMul", [2, 48], WEIGHT), folder / "product.onnx")
    return folder


def run(models: Path, output: Path, *more: str) -> int:
    options = ["--provider", "cpu", "--quick", "--turns", "0.01", "--models", str(models), "--output", str(output)]
    return cuda_check.main([*options, *more])


# The whole tool


def test_cut_off_it_leaves_valid_pages_and_goes_on(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, done, real = tmp_path / "pages", list[str](), cuda_check.outcome
    recorded = {path: path.read_bytes() for path in (ROOT / "docs").glob("*-cuda.md")}

    def cut(step: cuda_check.Step) -> dict[str, Any]:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(step.key)
        return real(step)

    monkeypatch.setattr(cuda_check, "outcome", cut)
    with pytest.raises(KeyboardInterrupt):
        run(models, output)
    text = (output / pages.PARITY).read_text(encoding="utf-8")
    assert "- 5 of " in text  # with the providers
    assert "the same command goes on there" in text
    assert "| models/product.onnx | as it is | 1 | yes |" in text
    with (output / NAME).open("a", encoding="utf-8") as file:
        file.write('{"key": "torn')
    begun, done[:] = list(done), []

    def noted(step: cuda_check.Step) -> dict[str, Any]:
        done.append(step.key)
        return real(step)

    monkeypatch.setattr(cuda_check, "outcome", noted)
    assert run(models, output) == 0
    assert not set(begun) & set(done)
    error = capsys.readouterr().err
    assert "going on: 5 of" in error
    for page in (pages.PARITY, pages.RUNTIME):
        text = (output / page).read_text(encoding="utf-8")
        assert "This page is of the CPU. It shows that the tool runs, and says nothing of CUDA." in text
        assert "python -m tools.cuda_check --provider cpu" in text
        assert f"- {len(begun) + len(done) + 1} of {len(begun) + len(done) + 1} steps are done\n" in text
        assert "Failed:" not in text
    rows = (output / pages.PARITY).read_text(encoding="utf-8").splitlines()
    for form in set(FORMS) - {"as it is", "lifted"}:
        assert any(row.startswith(f"| models/product.onnx | {form} |") and "| yes |" in row for row in rows), form
    assert not list(output.glob("*.part"))
    found = {path: path.read_bytes() for path in (ROOT / "docs").glob("*-cuda.md")}
    assert found == recorded, "pages of the CPU do not belong there"


def test_only_exported_spectral_norm_is_lifted(models: Path) -> None:
    (tmp,) = models.glob("*.onnx")
    with pytest.raises(ModelError, match="no weight to normalize"):
        FORMS["lifted"](onnx.load(tmp))
    exported = convolution(in_eval(drawn(8, 6, 3, 3)))
    assert len(FORMS["lifted"](exported).graph.node) < len(exported.graph.node)


def test_the_pages_are_valid_after_every_step(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = {"ratio": 1.0, "least": 1.0, "ms": 1.0, "of its like": 1.0}
    times = {"ok": True, "rounds": 5, "ways": dict.fromkeys(["bare", "folded", "inserted", "session"], way)}
    steps = [
        cuda_check.Step("providers", lambda: {"ok": True, "active": ["CPUExecutionProvider"]}),
        cuda_check.Step("parity: m, inserted", lambda: parity.measure(case("inserted"), "cpu", 0)),
        cuda_check.Step("state: m", lambda: stateful.state(inserted(), "cpu", 0)),
        cuda_check.Step("graph: m", lambda: stateful.captured(inserted(), "cpu", 0)),
        cuda_check.Step("load: m", lambda: stateful.loaded(inserted(), "cpu")),
        cuda_check.Step("time: dcgan, float32, graph, 16", lambda: times),
    ]
    monkeypatch.setattr(cuda_check, "planned", lambda _: steps)
    output, real, allowed = tmp_path / "pages", cuda_check.outcome, [0]

    def cut(step: cuda_check.Step) -> dict[str, Any]:
        allowed[0] -= 1
        if allowed[0] < 0:
            raise KeyboardInterrupt
        return real(step)

    monkeypatch.setattr(cuda_check, "outcome", cut)
    shown = [
        ("m | inserted | 10 | yes", 1),
        ("| m | yes |", 2),
        ("dcgan | float32 | yes | 16", 5),
        ("dcgan, float32, graph: 1.00", 5),
    ]
    for done in range(1, len(steps)):
        with pytest.raises(KeyboardInterrupt):
            run(models, output)  # goes on where the last one was cut, for one step
        allowed[0] = 1
        text = "".join((output / page).read_text(encoding="utf-8") for page in (pages.PARITY, pages.RUNTIME))
        assert text.count(f"- {done} of {len(steps)} steps are done; the next is {steps[done].key} (the same") == 2
        assert all((words in text) == (done > since) for words, since in shown)
    assert run(models, output) == 0
    text = (output / pages.RUNTIME).read_text(encoding="utf-8")
    assert all(words in text for words, since in shown if since == 5)


def test_when_time_is_up_the_rest_is_left(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_check, "outcome", lambda _: pytest.fail("no time was left"))
    assert run(models, tmp_path / "pages", "--seconds", "1e-9") == 1
    assert "steps are left; the same command goes on with them" in capsys.readouterr().err
    assert "not measured" in (tmp_path / "pages" / pages.RUNTIME).read_text(encoding="utf-8")


def test_a_step_that_fails_ends_with_1_and_costs_no_other(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : the kernel\nfailed")

    def refused() -> dict[str, Any]:
        raise ModelError("m can't be loaded", "it is broken", "mend it")

    def not_there() -> dict[str, Any]:
        raise ModelError(cuda_check.NOT_THERE[0])

    row = parity.measure(case(), "cpu", 0)
    steps = [
        cuda_check.Step("providers", lambda: {"ok": True, "active": ["CPUExecutionProvider"]}),
        cuda_check.Step("parity: a, as it is", broken),
        cuda_check.Step("parity: b, as it is", refused),
        cuda_check.Step("parity: c, folded", not_there),
        cuda_check.Step("parity: d, as it is", lambda: row),
    ]
    monkeypatch.setattr(cuda_check, "planned", lambda _: steps)
    assert run(models, tmp_path / "pages") == 1
    text = (tmp_path / "pages" / pages.PARITY).read_text(encoding="utf-8")
    assert "Failed:\n\n- a, as it is: RuntimeError: the kernel failed\n- b, as it is: m can't be loaded" in text
    assert "Not there:\n\n- c, folded: it holds no weight to normalize" in text
    assert "| d | as it is | 1 | yes |" in text
    assert "3 of 5 steps are well, 2 are not, 0 are left" in capsys.readouterr().out


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="a GPU build")
def test_without_cuda_it_ends_with_4_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.cuda_check", "--output", str(tmp_path / "pages")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("cuda_check: execution provider 'cuda' can't be used")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_pages_of_the_cpu_need_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cuda_check.main(["--provider", "cpu"])
    assert ended.value.code == 2
    assert "do not belong in docs/" in capsys.readouterr().err


# Cases


def test_every_kind_of_operator_is_run_in_every_form() -> None:
    planned = list(cases(ROOT / "models", quick=False))
    names = [name for name, _, _ in sources(ROOT / "models")]
    assert {f"models/{path.name}" for path in (ROOT / "models").glob("*.onnx")} < set(names)
    for name in names:
        forms = {one.form for one in planned if one.name == name}
        assert forms == {form for form in FORMS if not ("float16" in name and "float16" in form)}
    assert [one.form for one in planned[:2]] == ["as it is", "inserted"]
    assert len({one.key for one in planned}) == len(planned)
    assert {pages.split_key(one.key) for one in planned} == {(one.name, one.form) for one in planned}


def test_every_op_model_holds_the_op_it_vouches_for() -> None:
    for _, op, model in op_models():
        nodes = list(model.graph.node)
        bodies = [attribute.g for node in nodes for attribute in node.attribute if attribute.HasField("g")]
        assert op in {node.op_type for node in [*nodes, *(node for body in bodies for node in body.node)]}


def test_float16_is_float16_from_end_to_end() -> None:
    (half,) = {value.type.tensor_type.elem_type for value in case("float16").model().proto.graph.input}
    assert half == onnx.TensorProto.FLOAT16
    with pytest.raises(ModelError, match="no weight of it is float32"):
        case("float16", weight=WEIGHT.astype(np.float16)).model()


# Parity and placement


def test_placement_counts_nodes_once_however_often_they_ran() -> None:
    def event(name: str, provider: str, op_name: str) -> dict[str, Any]:
        return {"cat": "Node", "name": name, "args": {"provider": f"{provider}ExecutionProvider", "op_name": op_name}}

    node, other = event("a_kernel_time", "CUDA", "Conv"), event("sn/w/v_kernel_time", "CPU", "Div")
    noise: list[dict[str, Any]] = [{"cat": "Session", "name": "run"}]
    noise.append({"cat": "Node", "name": "a_fence_before", "args": {}})
    counted = parity.count_nodes([node, other, node, *noise])
    assert counted == Counter({("cuda", "Conv", False): 1, ("cpu", "Div", True): 1})
    assert list(parity.counted(counted, "cuda", here=True)) == [("Conv", 1)]
    assert list(parity.counted(counted, "cuda", here=False)) == [("Div (cpu)", 1)]


def test_a_node_of_ours_elsewhere_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    row = parity.measure(case("inserted"), "cpu", 0)
    assert (row["ok"], row["verdict"], row["steps"], row["elsewhere"]) == (True, "yes", STEPS, "–")
    assert "ReduceL2" in row["here"]
    real = parity.count_nodes

    def moved(profile: Any) -> parity.Placement:
        return Counter(
            {("cuda" if op == "Div" else where, op, ours): n for (where, op, ours), n in real(profile).items()}
        )

    monkeypatch.setattr(parity, "count_nodes", moved)
    row = parity.measure(case("inserted"), "cpu", 0)
    assert (row["ok"], row["verdict"]) == (False, "no: our Div ran elsewhere")
    assert row["elsewhere"].endswith("Div (cuda)")


def test_an_operator_that_did_not_run_where_it_should_is_a_failure() -> None:
    row = parity.measure(case(op="Conv"), "cpu", 0)
    assert (row["ok"], row["verdict"]) == (False, "no: Conv ran elsewhere")


# The state, CUDA graphs, loading


def test_the_state_over_ten_steps_and_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stateful.state(inserted(), "cpu", 0)
    assert found == {"ok": True, "difference": 0.0, "fork": 0.0, "untouched": True, "devices": "cpu"}
    monkeypatch.setattr(sn_graph.StatefulSession, "fork", lambda self: self)
    found = stateful.state(inserted(), "cpu", 0)
    assert (found["ok"], found["untouched"]) == (False, False)


@pytest.mark.parametrize("options", [{}, {"state_layout": "per-weight", "state_mode": "required"}])
def test_a_capture_is_compared_at_every_step(options: dict[str, Any]) -> None:
    assert stateful.captured(inserted(**options), "cpu", 0) == {"ok": True, "difference": 0.0}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options", [{}, {"power_iterations": 3, "state_layout": "per-weight", "state_mode": "required"}]
)
def test_the_gram_matrix_is_folded_when_the_model_is_loaded(dtype: Any, options: dict[str, Any]) -> None:
    weight = drawn(300, 40, dtype=dtype)
    model = inserted(weight, **options)
    size = weight.itemsize
    assert stateful.unfolded(model.proto.graph.node), "insert has it made in the graph"
    found = stateful.loaded(model, "cpu")
    assert (found["ok"], found["left"]) == (True, "–")
    # What loading adds is G, 40×40, and a few scalars; the float64 copy of W that it is made of is gone.
    assert 0 < found["constants"] - found["stored"] - 40 * 40 * size < 40 * size


def test_what_is_left_to_compute_is_named() -> None:
    assert stateful.unfolded(inserted(drawn(300, 40)).proto.graph.node) == [
        "sn/w/float64",
        "sn/w/gram",
        "sn/w/gram_float32",
        "sn/w/gram_norm",
        "sn/w/most",
    ]


# Times


@pytest.mark.parametrize("graph", [False, True])
def test_every_way_is_timed(graph: bool) -> None:
    found = timing.times(timing.Timing("keras-dcgan", "float32", graph, 1), "cpu", 0.01)
    assert set(found["ways"]) == {*timing.WAYS, "bare, from the host", "session"}
    assert found["ways"]["bare"]["ratio"] == 1.0


def test_what_is_timed_on_cuda() -> None:
    keys = [one.key for one in timing.timings("cuda", quick=False)]
    assert len(keys) == len(set(keys)) == 3 * 2 * 2 * 3
    assert keys[0] == "dcgan, float32, graph, 16"


# The record


def test_a_record_of_something_else_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / NAME
    header = {"provider": "cpu", "sources": "a", "date": "2026-01-01", "command": "x"}
    Record(path, header).add("parity: m", {"ok": True, "rel": float("nan")})
    again = Record(path, {**header, "date": "2026-01-02", "command": "y"})
    assert (again.resumed, again.results) == (1, {"parity: m": {"ok": True, "rel": "nan"}})
    assert again.of("parity") == {"m": {"ok": True, "rel": "nan"}}
    assert Record(path, {**header, "sources": "b"}).resumed == 0
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [{**header, "sources": "b"}]


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="a GPU build")
def test_versions_are_of_the_onnxruntime_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions().startswith(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, numpy")
    from onnxruntime.capi import build_and_package_info as built

    monkeypatch.setattr(built, "package_name", "onnxruntime-gpu")
    monkeypatch.setattr(built, "cuda_version", "13.0", raising=False)
    assert versions().startswith(f"onnxruntime-gpu {onnxruntime.__version__} for CUDA 13.0, ")
