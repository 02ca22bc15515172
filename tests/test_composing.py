"""Composing: what one function returns is what the next one takes, at run time and for a strict type checker."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import sn_graph as sn
from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError
from sn_graph.proofs import verify_state
from tests.support.builders import drawn, network, node

MODEL = Path(__file__).parents[1] / "models" / "keras_dcgan_discriminator.onnx"


def conv_chain(count: int, name: Callable[[int], str]) -> onnx.ModelProto:
    """A model of so many small convolutions, one behind the other, whose weights have these names."""
    names = [name(number) for number in range(count)]
    nodes = [node("Conv", [f"x{at}", weight], [f"x{at + 1}"]) for at, weight in enumerate(names)]
    nodes[-1].output[0] = "y"
    return network(nodes, {weight: drawn(2, 2, 1, 1, seed=at) for at, weight in enumerate(names)}, {"x0": [1, 2, 3, 3]})


Opens = Callable[[], Any]
SOURCES: dict[str, Opens] = {
    "path": lambda: MODEL,
    "text": lambda: str(MODEL),
    "proto": lambda: onnx.load(MODEL),
    "model": lambda: sn.Model.open(MODEL),
    "result": lambda: sn.fold(MODEL, include=["nosuch"], force=True),
    "graphsurgeon": lambda: pytest.importorskip("onnx_graphsurgeon").import_onnx(onnx.load(MODEL)),
}
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "inspect": sn.inspect,
    "fold": sn.fold,
    "insert": sn.insert,
    "lift": sn.lift,
    "apply": lambda source: sn.apply("fold", source),
    "compare": lambda source: sn.compare(MODEL, source),
    "verify": sn.verify,
    "make_plan": sn.make_plan,
    "against": lambda source: sn.inspect(MODEL, against=source),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_takes_every_source(function: str, source: str) -> None:
    found, expected = FUNCTIONS[function](SOURCES[source]()), FUNCTIONS[function](MODEL)
    assert type(found) is type(expected)
    if isinstance(found, sn.PassResult):
        assert [site.status for site in found.sites] == [site.status for site in expected.sites]
    if isinstance(found, sn.Report):
        assert [site.sigma for site in found.sites] == [site.sigma for site in expected.sites]


@pytest.mark.parametrize("kind", ["result", "proto", "graphsurgeon"])
def test_what_takes_an_inserted_model_takes_every_source(kind: str) -> None:
    result = sn.insert(MODEL)
    source: Any = result if kind == "result" else result.to_proto()
    if kind == "graphsurgeon":
        surgeon = pytest.importorskip("sn_graph.interop.graphsurgeon")
        gs = pytest.importorskip("onnx_graphsurgeon")
        source = surgeon.insert(gs.import_onnx(onnx.load(MODEL)))
    assert sn.StatefulSession(source).run(None, {"image": np.zeros((1, 32, 32, 3), np.float32)})
    assert verify_state(source).ok
    if kind != "graphsurgeon":  # whose export changes the graph that is to be given back
        assert sn.strip(source).to_proto() == onnx.load(MODEL)
        assert sn.fold(source).sites[0].status == "folded"


@pytest.mark.parametrize("source", [3, None, [str(MODEL)], object()])
def test_what_holds_no_model_is_said_to_be_so(source: Any) -> None:
    with pytest.raises(UsageError, match="is not a model; give a path, a ModelProto"):
        sn.fold(source)


def test_a_plan_of_a_path_is_one_of_the_same_model_opened_anew() -> None:
    plan = sn.make_plan(MODEL, op_types=["Conv"])
    expected = [site.status for site in sn.fold(MODEL, op_types=["Conv"]).sites]
    for source in (MODEL, onnx.load(MODEL), sn.fold(MODEL)):
        assert [site.status for site in sn.fold(source, plan=plan).sites] == expected
    assert [site.status == "inserted" for site in sn.insert(MODEL, plan=plan).sites] == [
        status == "folded" for status in expected
    ]


def test_a_state_may_be_arrays(tmp_path: Path) -> None:
    session = sn.StatefulSession(sn.insert(MODEL))
    for _ in range(3):
        session.normalize_weights()
    session.save_state(tmp_path / "u.safetensors")
    by_file = sn.fold(MODEL, sigma="power", state=tmp_path / "u.safetensors")
    arrays: dict[str, Any] = dict(session.state())
    for state in (arrays, {f"{key}.u": value.reshape(-1, 1) for key, value in arrays.items()}):
        found = sn.fold(MODEL, sigma="power", state=state)
        assert [site.sigma_used for site in found.sites] == [site.sigma_used for site in by_file.sites]
    inserted = sn.insert(MODEL, state=arrays)
    for name, u in sn.StatefulSession(inserted).state().items():
        np.testing.assert_array_equal(u, arrays[name])
    begun = sn.StatefulSession(sn.insert(MODEL), state=arrays).state()
    assert all(np.array_equal(begun[name], u) for name, u in arrays.items())
    lists = {name: u.tolist() for name, u in arrays.items()}
    assert [one.sigma_used for one in sn.fold(MODEL, sigma="power", state=lists).sites] == pytest.approx(
        [one.sigma_used for one in by_file.sites], rel=1e-6
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: {}, r"holds no '.*'; leave that weight out, or give its u"),
        (lambda u: {**u, next(iter(u)): np.ones(3)}, r"has shape \[3\], where \[\d+\] is needed"),
        (lambda u: {**u, next(iter(u)): "words"}, "is not an array of numbers"),
        (lambda u: {name: np.zeros_like(value) for name, value in u.items()}, "from which no iteration can start"),
        (lambda u: {name: value * np.nan for name, value in u.items()}, "from which no iteration can start"),
    ],
)
def test_arrays_that_are_no_state(change: Callable[[dict[str, Any]], dict[str, Any]], said: str) -> None:
    state = change(dict(sn.StatefulSession(sn.insert(MODEL)).state()))
    with pytest.raises(ModelError, match=said):
        sn.fold(MODEL, sigma="power", state=state)


def test_a_plan_whose_state_is_in_memory_is_not_written(tmp_path: Path) -> None:
    result = sn.insert(MODEL, state=dict(sn.StatefulSession(sn.insert(MODEL)).state()))
    assert result.plan is not None
    with pytest.raises(UsageError, match="in memory; save it"):
        sn.save_plan(result.plan, tmp_path / "plan.json")


# What is shown


def test_results_show_themselves() -> None:
    result, parity = sn.fold(MODEL), sn.verify(MODEL)
    assert repr(result).splitlines()[0] == f"<{MODEL}: 4 folded; convention keras>"
    assert len(repr(result).splitlines()) == 5
    heading, *rows = str(result).splitlines()[1:]
    assert heading.split()[:3] == ["weight", "op", "type"]
    assert len(rows) == 4
    assert result._repr_html_().count("<tr>") == 5
    assert result.to_dict() == result.report.to_json()
    assert repr(parity).startswith("<ParityResult: all outputs agree>")
    assert parity.to_dict()["ok"]
    assert "SiteRecord" in repr(result.sites[0])


@pytest.mark.parametrize("name", ["w", "größe" * 500, "\x1b[2J\u202e" * 300, "名前" * 1000, "a\nb" * 999])
def test_a_repr_is_short_whatever_the_names(name: str) -> None:
    proto = conv_chain(40, lambda number: f"{name}{number}")
    result, report = sn.fold(proto), sn.inspect(proto)
    plan = sn.make_plan(proto)
    for shown in (result, report, plan, sn.compare(proto, proto), sn.insert(proto), sn.Model.open(proto)):
        assert len(repr(shown).encode()) < 2000
        assert len(repr(shown).splitlines()) <= 12
    for one in (result.sites[0], plan.sites[0], plan.sites[0].site, plan.targets()[0]):
        assert len(repr(one).encode()) < 800
        assert "\n" not in repr(one)
    for text in (repr(result), str(result), result._repr_html_()):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert len(str(result).splitlines()) == 42


def test_markup_in_a_name_does_nothing() -> None:
    shown = sn.fold(conv_chain(1, lambda _: "<script>alert('x')</script>"))._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_rows_for_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    result = sn.fold(MODEL)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pandas", None)
        with pytest.raises(EnvironmentUnavailable, match="pip install pandas"):
            result.to_pandas()
    pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert list(frame["id"]) == [site.id for site in result.sites]
    assert list(frame["sigma"]) == [site.sigma for site in result.sites]
    assert len(sn.verify(MODEL).to_pandas()) == 1


def test_what_was_done_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sn_graph"):
        sn.fold(MODEL, exclude=["conv"])
        sn.inspect(MODEL)
    names = {record.name for record in caplog.records}
    assert names == {"sn_graph.fold", "sn_graph.inspect"}
    assert any("skipped" in record.getMessage() for record in caplog.records)
    caplog.clear()
    sn.fold(MODEL)
    assert not [record for record in caplog.records if record.name.startswith("sn_graph")]


# For a type checker

USER = """
import onnx
import numpy as np
import sn_graph as sn


def compose(path: str, proto: onnx.ModelProto) -> float | None:
    model = sn.Model.open(path)
    plan: sn.Plan = sn.make_plan(path, convention="torch")
    result: sn.PassResult = sn.fold(path, plan=plan, sigma="upper", norm="matrix", bound=2.0, include=["conv"])
    session = sn.StatefulSession(sn.insert(proto, state_layout="packed"))
    again = sn.fold(model, sigma="power", state=session.state())
    arrays = {"w": np.ones(3, np.float32)}
    report: sn.Report = sn.inspect(result, state=arrays)
    parity: sn.ParityResult = sn.compare(model, again)
    parity.raise_if_different()
    record: sn.SiteRecord = report.sites[0]
    sn.lift(result, to="fold").save("out.onnx")
    sn.strip(sn.insert(result))

    def tell(name: str, done: int, total: int) -> None:
        print(name, done / total)

    sn.fold(path, progress=tell)
    sn.compare(path, proto, provider="cuda", dims={"batch": 3}).raise_if_different()
    sn.verify(result, providers=("cpu", "cuda"), steps=3)
    onnxruntimes = sn.StatefulSession(path, providers=["CPUExecutionProvider", ("CUDAExecutionProvider", {})])
    onnxruntimes.load_state(session.state())
    bound: float | None = sn.certify(result, level="lmi", budget=2.0).proven
    named = sn.apply("fold", path, {"sigma": "power"}, convention="keras")
    from sn_graph.frontends import keras, torch
    exported: torch.TorchExport = torch.export(object(), (1,), "out.onnx", as_="insert")
    calls: sn.ParityResult = torch.parity(object(), "out.onnx", steps=3)
    print(bound, named, exported.plan, calls.ok, keras.parity(object(), steps=(1, 10)).ok)
    content: dict[str, object] = result.to_dict()
    print(content, str(result))
    return record.sigma
"""
WRONG = """
import sn_graph as sn
sn.fold("a", sigma="guess")
sn.fold("a", norm="l2")
sn.fold(3)
sn.fold("a", bond=1)
sn.fold("a", convention="pytorch")
sn.fold("a", include="conv", op_types=[3])
sn.inspect("a", sigma="power")
sn.insert("a", state_layout="per_weight")
sn.insert("a", state_mode="optional")
sn.insert("a", scale="output")
sn.lift("a", to="strip")
sn.lift("a", sigma="power")
sn.certify("a", level="sdp")
sn.make_plan("a", norm="frobenius")
sn.verify("a", "b", providers=["gpu"])
sn.verify("a", "b", providers="cpu")
sn.compare("a", "b", provider="CUDAExecutionProvider")
sn.apply("fold", "a", convention="tf")
"""


@pytest.mark.parametrize(("text", "errors"), [(USER, 0), (WRONG, 18)], ids=["right", "wrong"])
def test_a_strict_type_checker_knows_what_fits(
    text: str, errors: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(text, encoding="utf-8")
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\n[mypy-onnx.*]\nignore_missing_imports = True\n")
    root, cache = str(MODEL.parents[1]), tmp_path_factory.getbasetemp() / "mypy"
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(cache), "user.py"]
    environment = {"MYPYPATH": "", "PYTHONPATH": root, "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    found = {
        line.split(":")[1] for line in done.stdout.splitlines() if line.startswith("user.py") and ": error:" in line
    }
    assert len(found) == errors, done.stdout
