"""The norms of nodes, against the SVD of the matrix that onnxruntime makes of each, a column an input."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import sn_graph as sn
from sn_graph.choices import ConventionChoice, SigmaChoice
from sn_graph.errors import ModelError
from sn_graph.model import Model, Shapes
from sn_graph.norms.operator import Enclosure, Operators
from sn_graph.plan import make_plan
from sn_graph.rewrite import emit
from sn_graph.spectral.convolution import adjoint
from tests.support.builders import Array, constant, drawn, model_of, network, node, value
from tests.support.certified import one_node
from tests.support.oracle import sigma_max
from tests.support.places import MODELS
from tests.support.runs import Feeds, check, session


def columns(model: onnx.ModelProto, shape: tuple[int, ...]) -> Array:
    """The matrix of a model without bias: one run for each unit vector of its input `x`, of this shape."""
    running, size = session(model), math.prod(shape)
    found = [running.run(["y"], {"x": unit.reshape(shape)})[0].ravel() for unit in np.eye(size, dtype=np.float32)]
    return np.array(found, np.float64).T


def conv(
    weight: Array, shape: tuple[int | str, ...], op_type: str = "Conv", opset: int = 17, **attributes: Any
) -> onnx.ModelProto:
    return network([node(op_type, ["x", "w"], ["y"], **attributes)], {"w": weight}, {"x": shape}, opset=opset)


def enclosed(model: onnx.ModelProto, convention: ConventionChoice = "keras") -> tuple[float, float]:
    (record,) = sn.inspect(model, norm="operator", convention=convention).sites
    assert record.sigma_operator is not None
    assert record.sigma_operator_upper is not None
    return record.sigma_operator, record.sigma_operator_upper


CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((3, 2, 3), (1, 2, 9), {}),
    ((3, 2, 3), (1, 2, 9), {"strides": [2], "pads": [1, 0]}),
    ((4, 2, 3, 2), (1, 2, 6, 5), {"pads": [1, 0, 2, 1], "strides": [1, 2]}),
    ((4, 1, 3, 3), (1, 2, 5, 6), {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((4, 2, 2, 2), (1, 2, 6, 6), {"auto_pad": "SAME_LOWER"}),
    ((4, 2, 2, 2), (1, 2, 6, 6), {"auto_pad": "VALID", "dilations": [2, 3]}),
    ((2, 2, 2, 2, 2), (1, 2, 3, 4, 3), {"pads": [1, 1, 0, 0, 1, 0]}),
]
TRANSPOSED: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 3), (1, 2, 5), {"strides": [2], "output_padding": [1]}),
    ((2, 3, 3, 3), (1, 2, 4, 3), {"strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ((4, 2, 3, 3), (1, 4, 3, 3), {"group": 2, "dilations": [2, 1]}),
    ((2, 3, 3, 3), (1, 2, 4, 4), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((2, 3, 4, 4), (1, 2, 3, 3), {"strides": [2, 2], "output_shape": [5, 4], "auto_pad": "VALID"}),
    ((2, 3, 3), (1, 2, 4), {"output_shape": [3], "auto_pad": "VALID"}),
    ((2, 3, 2), (1, 2, 3), {"strides": [3], "output_shape": [10], "auto_pad": "VALID"}),
    ((2, 3, 4, 4), (1, 2, 3, 3), {"strides": [2, 2], "output_shape": [6, 6]}),
]
CASES = [("Conv", *case) for case in CONVOLUTIONS] + [("ConvTranspose", *case) for case in TRANSPOSED]


@pytest.mark.parametrize(("op_type", "weight", "shape", "attributes"), CASES)
def test_a_convolution_at_its_size(
    op_type: str, weight: tuple[int, ...], shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    model = conv(drawn(*weight), shape, op_type, **attributes)
    lower, upper = enclosed(model)
    truth = sigma_max(columns(model, shape))
    assert abs(lower - truth) <= 1e-5 * truth
    assert upper >= truth * (1 - 1e-6)  # float32 sums of onnxruntime


@pytest.mark.parametrize(("op_type", "weight", "shape", "attributes"), CASES)
@pytest.mark.parametrize("k", [1, 3])
def test_the_iteration_through_a_convolution(
    op_type: str, weight: tuple[int, ...], shape: tuple[int, ...], attributes: dict[str, Any], k: int
) -> None:
    """u, σ and y of steps 1, 10 and 100, against the dense matrix."""
    model = conv(drawn(*weight), shape, op_type, **attributes)
    matrix = columns(model, shape)
    check(model, {"w": matrix}, {"x": drawn(*shape, seed=1)}, k=k, norm="operator")


@pytest.mark.parametrize(("op_type", "weight", "shape", "attributes"), [CASES[3], CASES[-1]])
def test_long_norms_go_by_rows(
    op_type: str, weight: tuple[int, ...], shape: tuple[int, ...], attributes: dict[str, Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(emit, "LONG_SUM", 5)
    model = conv(drawn(*weight), shape, op_type, **attributes)
    made = check(model, {"w": columns(model, shape)}, {"x": drawn(*shape, seed=1)}, norm="operator")
    assert sum(one.name.endswith("_by_row") for one in made.graph.node) == 3  # u, v and σ


@pytest.mark.parametrize("opset", [7, 10, 11, 13])
@pytest.mark.parametrize("layout", ["packed", "per-weight"])
def test_every_opset_and_layout(opset: int, layout: str) -> None:
    shape = (1, 2, 7, 6)
    model = conv(drawn(3, 2, 3, 3), shape, opset=opset, strides=[2, 2], pads=[1] * 4)
    feeds: Feeds = {"x": drawn(*shape, seed=1)}
    check(model, {"w": columns(model, shape)}, feeds, norm="operator", state_layout=layout)


def test_a_dynamic_size_gives_the_supremum_and_no_iteration() -> None:
    weight = drawn(3, 2, 3, 3)
    lower, upper = enclosed(conv(weight, (1, 2, "h", "w"), pads=[1] * 4))
    sizes = [sigma_max(columns(conv(weight, (1, 2, n, n), pads=[1] * 4), (1, 2, n, n))) for n in (4, 8, 12)]
    assert sizes == sorted(sizes)
    assert sizes[-1] <= upper
    assert lower >= sizes[-1]
    (record,) = sn.insert(conv(weight, (1, 2, "h", "w")), norm="operator").sites
    assert record.status == "skipped"
    assert "dynamic" in str(record.reason)


def test_the_batch_may_be_dynamic() -> None:
    weight = drawn(3, 2, 3, 3)
    assert enclosed(conv(weight, ("n", 2, 6, 6))) == enclosed(conv(weight, (1, 2, 6, 6)))


ZEROS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("Conv", (2, 2, 5), (1, 2, 3), {}),  # longer than its input: the output is empty
    ("Conv", (2, 2, 1), (1, 2, 1), {"pads": [2, 0], "strides": [3]}),  # its one output reads padding
    ("ConvTranspose", (2, 2, 1, 2), (1, 2, 2, 3), {"strides": [2, 1], "output_shape": [1, 4]}),
    ("Gemm", (3, 4), (2, 3), {"alpha": 0.0}),
]


@pytest.mark.parametrize(("op_type", "weight", "shape", "attributes"), ZEROS)
@pytest.mark.parametrize("sigma", ["exact", "power", "upper"])
def test_what_makes_zeros_of_every_input_stays_as_it_was(
    op_type: str, weight: tuple[int, ...], shape: tuple[int, ...], attributes: dict[str, Any], sigma: SigmaChoice
) -> None:
    model = conv(drawn(*weight), shape, op_type, **attributes)
    for result in (sn.fold(model, norm="operator", sigma=sigma), sn.insert(model, norm="operator", sigma=sigma)):
        (record,) = result.sites
        assert (record.status, record.sigma_used) == ("unchanged", None)
        assert "make 0 of every input" in str(record.reason)
        assert result.to_proto().graph == model.graph
    assert sn.strip(result.to_proto()).to_proto() == model
    if (op_type, weight, shape, attributes) != ZEROS[0]:  # which onnxruntime does not run
        assert not columns(model, shape).any()


def test_gemm_counts_alpha() -> None:
    weight = drawn(5, 4)
    model = network([node("Gemm", ["x", "w"], ["y"], alpha=-0.25)], {"w": weight}, {"x": (1, 5)})
    lower, upper = enclosed(model)
    truth = sigma_max(columns(model, (1, 5)))
    assert lower == pytest.approx(truth, rel=1e-5)
    assert truth * (1 - 1e-6) <= upper <= truth * (1 + 1e-5)
    check(model, {"w": -0.25 * weight.T}, {"x": drawn(1, 5)}, norm="operator")


@pytest.mark.parametrize("factor", [0.16, 0.9, 1e-9, 1e-30])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_an_upper_end_times_alpha_is_not_rounded_down(count: int, factor: float) -> None:
    least = 2.0**-1074
    found = Enclosure(count * least, count * least).times(factor)
    assert Fraction(found.upper) >= Fraction(count) * Fraction(least) * Fraction(factor)
    assert Enclosure(0.0, 0.0).times(factor).upper == 0.0
    assert Enclosure(1.0, 2.0).times(0.0).upper == 0.0


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3, 4), (3, 4)])
def test_a_stack_of_matrices(shape: tuple[int, ...]) -> None:
    """A block for each of x's parts; side by side where x is the same for all."""
    model = network([node("MatMul", ["x", "w"], ["y"])], {"w": drawn(2, 4, 5)}, {"x": shape})
    lower, upper = enclosed(model)
    truth = sigma_max(columns(model, shape))
    assert lower == pytest.approx(truth, rel=1e-5)
    assert truth * (1 - 1e-6) <= upper <= truth * (1 + 1e-5)
    (record,) = sn.insert(model, norm="operator").sites
    assert "a norm of its own" in str(record.reason)


def test_a_kernel_behind_a_chain() -> None:
    weight = drawn(3, 3, 2, 4)  # as TensorFlow keeps it
    nodes = [node("Transpose", ["w"], ["t"], perm=[3, 2, 0, 1]), node("Conv", ["x", "t"], ["y"], pads=[1] * 4)]
    model = network(nodes, {"w": weight}, {"x": (1, 2, 5, 5)})
    matrix = columns(model, (1, 2, 5, 5))
    assert enclosed(model)[0] == pytest.approx(sigma_max(matrix), rel=1e-5)
    check(model, {"w": matrix}, {"x": drawn(1, 2, 5, 5)}, norm="operator")


def test_the_largest_of_several_consumers_counts() -> None:
    weight = drawn(3, 2, 3, 3)
    nodes = [
        node("Conv", ["x", "w"], ["a"], strides=[2, 2]),
        node("Conv", ["x", "w"], ["b"], pads=[1] * 4),
        node("Flatten", ["a"], ["fa"]),
        node("Flatten", ["b"], ["fb"]),
        node("Concat", ["fa", "fb"], ["y"], axis=1),
    ]
    model = network(nodes, {"w": weight}, {"x": (1, 2, 6, 6)})
    apart = [enclosed(conv(weight, (1, 2, 6, 6), strides=[2, 2])), enclosed(conv(weight, (1, 2, 6, 6), pads=[1] * 4))]
    assert enclosed(model)[0] == max(lower for lower, _ in apart)
    (record,) = sn.insert(model, norm="operator").sites
    assert "different convolutions" in str(record.reason)


@pytest.mark.parametrize("groups", [(4, 1), (1, 4), (2, 4), (2, 2)])
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_each_reader_counts_by_its_own_groups(op_type: str, groups: tuple[int, int]) -> None:
    """A kernel of ones, whose |W| is W: what bounds its rounding must not lie below its norm at any reader."""
    weight = np.ones((8, 2, 3, 3), np.float32)
    inputs = [8 if op_type == "ConvTranspose" else 2 * group for group in groups]
    nodes = [
        node(op_type, [f"x{index}", "w"], [f"y{index}"], group=group, pads=[1] * 4)
        for index, group in enumerate(groups)
    ]
    proto = network(nodes, {"w": weight}, {f"x{index}": (1, size, 6, 6) for index, size in enumerate(inputs)})
    model = Model.open(proto)
    (target,) = make_plan(model).targets()
    operators = Operators(model)
    assert operators.magnitude(target) >= operators.enclose(target).lower


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("method", ["exact", "upper"])
def test_folded_by_the_operator_norm(method: SigmaChoice, dtype: str) -> None:
    shape = (1, 2, 6, 6)
    model = network(
        [node("Conv", ["x", "w"], ["y"], pads=[1] * 4)],
        {"w": drawn(3, 2, 3, 3).astype(dtype)},
        {"x": shape},
        dtype=dtype,
    )
    result = sn.fold(model, norm="operator", sigma=method, bound=2.0)
    (weight,) = result.to_proto().graph.initializer
    stored = onnx.numpy_helper.to_array(weight).astype(np.float32)
    reached = sigma_max(columns(conv(stored, shape, pads=[1] * 4), shape))
    if method == "upper":
        assert reached <= 2.0 * (1 + 1e-7)  # the proof is exact, the columns are float32
    # 0.5 % between the bound and the norm of this small image, and float16's own rounding
    assert reached == pytest.approx(2.0, rel=1e-5 if method == "exact" and dtype == "float32" else 2e-2)


def test_power_by_fold_needs_a_size() -> None:
    with pytest.raises(sn.errors.ModelError, match=r"input size .* dynamic"):
        sn.fold(conv(drawn(3, 2, 3, 3), (1, 2, "h", "w")), norm="operator", sigma="power")


def test_exact_starts_converged() -> None:
    shape = (1, 2, 6, 6)
    model = conv(drawn(3, 2, 3, 3), shape, pads=[1] * 4)
    result = sn.insert(model, norm="operator", sigma="exact")
    truth = sigma_max(columns(model, shape))
    (record,) = result.sites
    assert record.sigma_operator == pytest.approx(truth, rel=1e-5)
    *_, sigma = session(result.to_proto()).run(None, {"x": drawn(*shape)})
    assert sigma[0] == pytest.approx(truth, rel=2e-5)


def test_constants_in_bodies() -> None:
    """A weight that a branch owns is hoisted, and iterated at the size of the branch's node."""
    inner = helper.make_graph(
        [constant("w", drawn(3, 2, 3, 3)), node("Conv", ["x", "w"], ["a"])], "then", [], [value("a", None)]
    )
    other = helper.make_graph([node("Conv", ["x", "v"], ["b"])], "else", [], [value("b", None)])
    nodes = [constant("c", np.array(True)), node("If", ["c"], ["y"], then_branch=inner, else_branch=other, name="if")]
    model = network(nodes, {"v": drawn(3, 2, 3, 3, seed=4)}, {"x": (1, 2, 5, 5)})
    found = {record.id: record.status for record in sn.insert(model, norm="operator").sites}
    assert set(found.values()) == {"inserted"}


@pytest.mark.parametrize("bound", [1.0, 0.5])
def test_no_attack_on_a_layer_of_a_folded_discriminator_exceeds_the_bound(bound: float) -> None:
    """Ascent on ‖f(x) − f(y)‖ / ‖x − y‖ for each layer by itself, bias and all, run by onnxruntime."""
    path = MODELS / "keras_dcgan_discriminator.onnx"
    folded = Model.open(sn.fold(path, norm="operator", sigma="upper", bound=bound).to_proto())
    operators, shapes = Operators(folded), Shapes(folded)
    targets = make_plan(folded).targets()
    for target in targets:
        (use,) = target.uses
        one = use.node.proto
        shape = [1, *(size or 0 for size in (shapes.of(use.node.scope, one.input[0]) or ())[1:])]
        constants = [tensor for tensor in folded.to_proto().graph.initializer if tensor.name in one.input]
        graph = helper.make_graph([one], "layer", [value(one.input[0], shape)], [value(one.output[0], None)], constants)
        layer = session(model_of(graph))
        base, step = drawn(*shape, seed=1), drawn(*shape, seed=2)
        best = 0.0
        for _ in range(50):
            x, y = base + step, base - step
            ends = [layer.run(None, {one.input[0]: end})[0].astype(np.float64) for end in (x, y)]
            difference = ends[0] - ends[1]
            best = max(best, norm_of(difference) / norm_of(x.astype(np.float64) - y))
            if one.op_type == "Conv":  # the gradient of the ratio's numerator, through the layer
                back = adjoint(operators.convolution(target, use), difference[0])[None]
            else:
                back = difference @ target.array(folded).astype(np.float64).T
            step = (10.0 * back / norm_of(back)).astype(np.float32)
        assert 0.9 * bound < best <= bound * (1 + 1e-6)  # float32 sums of the layer itself
    assert len(targets) == 4


def norm_of(x: Array) -> float:
    return float(np.linalg.norm(x.ravel()))


@pytest.mark.parametrize(
    ("op_type", "attributes", "said"),
    [
        ("Conv", {"group": 10**9}, "1000000000 groups"),
        ("Conv", {"group": 2}, "2 groups"),
        ("ConvTranspose", {"strides": [10**9] * 2}, "elements are measured"),
    ],
)
def test_convolutions_that_nothing_runs_are_refused(op_type: str, attributes: dict[str, Any], said: str) -> None:
    made = one_node(op_type, (1, 3, 8, 8), drawn(3, 3, 2, 2), **attributes)
    with pytest.raises(ModelError, match=said) as caught:
        sn.fold(made, norm="operator")
    assert "--exclude" in str(caught.value)


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"strides": [2]}, "'strides' of node 'n' has 1 numbers, where its weight asks for 2"),
        ({"dilations": [1, 1, 1]}, "'dilations' of node 'n' has 3 numbers"),
        ({"pads": [1, 1]}, "'pads' of node 'n' has 2 numbers, where its weight asks for 4"),
    ],
)
@pytest.mark.parametrize("size", [8, "H"])
def test_attributes_that_do_not_fit_the_axes_are_refused(
    op_type: str, attributes: dict[str, Any], said: str, size: int | str
) -> None:
    """As fuzzing found it, with a dynamic size: of a fixed one the runtime's shapes were asked first."""
    made = one_node(op_type, (1, 3, size, size), drawn(3, 3, 2, 2), **attributes)
    made.graph.node[0].name = "n"
    with pytest.raises(ModelError, match=re.escape(said)):
        sn.inspect(made, norm="operator")


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_kernels_of_more_axes_than_anything_convolves_over_are_refused(op_type: str) -> None:
    made = one_node(op_type, (1, 3, *["H"] * 32), drawn(3, 3, 2, 2, *[1] * 30))
    with pytest.raises(ModelError, match="convolves over 32 axes, where at most 8 are read"):
        sn.fold(made, norm="operator", sigma="upper")


def test_a_small_file_does_not_fill_memory_with_a_large_input() -> None:
    """A size costs nothing to declare: 147 kB took 12 GB."""
    made = one_node("Conv", (1, 64, 4096, 4096), drawn(64, 64, 3, 3))
    for sigma in ("exact", "upper"):
        with pytest.raises(ModelError, match="8,388,608 elements are measured") as caught:
            sn.inspect(made, norm="operator", sigma=sigma)
        assert "--exclude" in str(caught.value)
    with pytest.raises(ModelError, match="elements are measured"):
        sn.insert(made, norm="operator")
    assert sn.inspect(one_node("Conv", (1, 8, 64, 64), drawn(8, 8, 3, 3)), norm="operator").sites[0].sigma_operator
