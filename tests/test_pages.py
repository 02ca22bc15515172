"""Pages: what a command found or did, against numpy's SVD of what is in the files."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sn_graph as sn
from sn_graph import api, pages
from sn_graph.errors import EnvironmentUnavailable
from sn_graph.passes import PassResult
from sn_graph.plan import PlanOptions, build_plan
from sn_graph.report import Certificate, CertifiedNode, Page, render
from sn_graph.runtime import verify
from tests.support.builders import drawn, network, node
from tests.support.places import MODELS

WEIGHT = drawn(4, 6)
PROTO = network([node("MatMul", ["x", "w"], name="/head")], {"w": WEIGHT}, {"x": (1, 4)})
SIGMA = float(np.linalg.norm(WEIGHT.astype(np.float64), 2))


def changed(result: PassResult, verified: str = "run", failure: str | None = None) -> Page:
    report = replace(result.report, output="out.onnx", verified=verified)  # type: ignore[arg-type]
    return pages.changed(result, report, invocation="sn-graph …", failure=failure)


@pytest.mark.parametrize("bound", [1.0, 3.0])
def test_a_fold_is_measured_before_and_after(bound: float) -> None:
    page = changed(sn.fold(PROTO, bound=bound))
    assert page.drawn["w"].sigma == pytest.approx(SIGMA, rel=1e-6)
    assert page.drawn["w"].after == pytest.approx(bound, rel=1e-6)
    assert page.bound == bound
    assert page.ok
    assert page.summary == "1 folded; out.onnx is verified by running it."


@pytest.mark.parametrize("given_out", [False, True])
def test_weights_that_became_copies_are_measured_too(given_out: bool) -> None:
    """Another node reads the weight, or its scale, so that fold divides a copy under another name."""
    integers = (np.arange(24) % 17 - 8).astype(np.int8).reshape(4, 6)
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Cast", ["w2"], ["wide"], to=1),
        node("MatMul", ["x", "wide"], ["b"]),
        node("DequantizeLinear", ["q", "s"], ["d"]),
        node("MatMul", ["x", "d"], ["c"]),
        node("Add", ["a", "w"], ["e"]),
        node("Mul", ["b", "s"], ["f"]),
        node("Add", ["e", "f"], ["g"]),
        node("Add", ["g", "c"], ["y"]),
    ]
    weights = {"w": WEIGHT, "w2": drawn(4, 6, seed=5).astype(np.float16), "q": integers, "s": np.array(0.1, np.float32)}
    model = network(nodes, weights, {"x": (4, 4)}, outputs=("y", "w2") if given_out else ("y",))
    page = changed(sn.fold(model))
    assert set(page.drawn) == {"w", "w2", "q"}
    assert page.drawn["w"].sigma == pytest.approx(SIGMA, rel=1e-6)
    for one in page.drawn.values():
        assert one.after == pytest.approx(1.0, abs=2e-3)  # float16 rounds


def test_an_insertion_shows_what_its_first_run_leaves() -> None:
    page = changed(sn.insert(PROTO))
    u = sn.insert(PROTO).starts[0].u.astype(np.float64)
    v = WEIGHT.astype(np.float64) @ u
    estimate = np.linalg.norm(WEIGHT.T.astype(np.float64) @ (v / np.linalg.norm(v)))
    assert page.drawn["w"].after == pytest.approx(SIGMA / estimate, rel=1e-6)


def test_a_lift_shows_the_norm_of_what_is_stored() -> None:
    page = changed(sn.lift(MODELS / "torch_sngan_spectral_norm_torchscript.onnx"))
    assert page.bound is None
    for site in page.report.sites if page.report is not None else ():
        assert site.sigma is not None
        assert site.sigma_graph is not None
        assert page.drawn[site.id].after == pytest.approx(site.sigma / site.sigma_graph, rel=1e-5)  # float32 weights


def test_a_failure_is_said() -> None:
    page = changed(sn.fold(PROTO), "no", "outputs differ")
    assert page.ok is False
    assert page.summary == "1 folded; outputs differ."


def test_an_inspection() -> None:
    opened = api.Opened.of(PROTO)
    plan = build_plan(opened.model, **PlanOptions(norm="operator"))
    report = api.examine(opened, plan, sigma="upper", seed=0, progress=lambda *_: None)
    page = pages.inspected(report, opened.model, plan, invocation="sn-graph inspect")
    assert page.summary == "1 of 1 weight can be normalized."
    text = render(page, str)
    assert "1 step" in text
    assert "proven" in text
    assert page.versions["numpy"] == np.__version__


def test_a_comparison() -> None:
    page = pages.compared(verify(PROTO, sn.fold(PROTO).to_proto()), "a and b", invocation="sn-graph verify")
    assert page.ok is False
    assert page.summary == "1 of 1 outputs differ."
    assert "NO" in render(page, str)


def test_a_certificate_is_drawn_when_there_is_one() -> None:
    nodes = (
        CertifiedNode("/a", "Conv", "operator norm", 2.0, 2.0),
        CertifiedNode("/b", "Exp", "none", None, None, "no"),
    )
    made = Certificate(1.0, None, {"product": None}, nodes, "The network has no proven constant.")
    text = render(pages.certified(made, "m.onnx", invocation="sn-graph certify", ok=False), str)
    assert "unbounded" in text
    assert '<td data-label="rule">operator norm</td>' in text


def test_the_time_can_be_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert changed(sn.fold(PROTO)).facts["when"] == "1970-01-01 00:00 UTC"


def test_without_jinja2_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda *name: None if name[0] == "jinja2" else found(*name))
    with pytest.raises(EnvironmentUnavailable, match=r"pip install 'sn-graph\[report\]'"):
        pages.write_page(changed(sn.fold(PROTO)), tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
