"""Conventions: whose matrices a model gets, asked for or by its origin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import sn_graph as sn
from sn_graph.errors import UsageError
from sn_graph.plan import make_plan
from tests.support.builders import drawn, model, network, node
from tests.support.networks import every_kind


def test_bad_convention() -> None:
    with pytest.raises(UsageError, match="auto, keras, torch, torch-parametrization"):
        make_plan(every_kind(), convention="jax")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("producer", "weight", "convention", "reason"),
    [
        ("pytorch", "w", "torch", "the producer is pytorch"),
        ("tf2onnx", "w", "keras", "tf2onnx"),
        ("", "w", "keras", "not named"),
        ("onnx-simplifier", "conv1.weight", "torch", "'conv1.weight'"),
        ("", "conv1.weight_orig", "torch", "'conv1.weight_orig'"),
        ("", "conv1.parametrizations.weight.original", "torch", "parametrizations"),
        ("", "conv1/weight", "keras", "not named"),
        ("", "weighted.sum", "keras", "not named"),
        ("onnx.quantize", "net.5.weight_quantized", "torch", "what a tool added ('net.5.weight_quantized')"),
        ("", "net.5.weight_DequantizeLinear_Output", "torch", "what a tool added"),
        ("", "net.5.weight_transposed_1", "torch", "what a tool added"),
        ("", "InsertedPrecisionFreeCast_net.5.weight", "torch", "weights are named like PyTorch's"),
        ("onnx.quantize", "d/conv_1/convolution_ReadVariableOp_0_quantized", "keras", "named like Keras's"),
        ("onnx.quantize", "onnx::Conv_28_quantized", "torch", "exporter names them ('onnx::Conv_28_quantized')"),
        ("keras", "onnx::Conv_28", "keras", "the producer is keras"),
        ("", "quantized", "keras", "not named"),
    ],
)
def test_auto_convention(producer: str, weight: str, convention: str, reason: str) -> None:
    plan = make_plan(model([node("MatMul", ["x", weight])], {weight: drawn(3, 4)}, producer=producer))
    assert plan.convention == convention
    assert reason in plan.convention_reason
    assert make_plan(every_kind(), convention="torch").convention_reason == "asked for"


def anonymous() -> onnx.ModelProto:
    """A ConvTranspose whose weight is named like nobody's."""
    return network([node("ConvTranspose", ["x", "w"])], {"w": drawn(3, 5, 2, 2)}, {"x": [1, 3, 4, 4]})


def named_node(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].name = "/net/net.5/ConvTranspose"


def name_scopes(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'net', 'net.5']")


def opset(proto: onnx.ModelProto) -> None:
    proto.opset_import.add(domain="pkg.torch.2.14.1", version=1)


def bias(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(5, np.float32), "net.5.bias_quantized_scale"))


@pytest.mark.parametrize("trace", [named_node, name_scopes, opset, bias], ids=lambda one: one.__name__)
def test_what_an_exporter_leaves_behind_tells_of_it(trace: Callable[[onnx.ModelProto], None]) -> None:
    proto = anonymous()
    assert (make_plan(proto).convention, make_plan(proto).guessed) == ("keras", True)
    trace(proto)
    plan = make_plan(proto)
    assert (plan.convention, plan.guessed) == ("torch", False)
    assert "PyTorch" in plan.convention_reason


def test_a_guess_that_counts_is_a_note_with_both_norms() -> None:
    proto = anonymous()
    (guessed,) = sn.inspect(proto).sites
    sigmas = {reading.convention: reading.sigma for reading in guessed.readings}
    (note,) = guessed.notes
    assert f"{sigmas['keras']:.6g} by the matrix of keras" in note
    assert f"{sigmas['torch']:.6g} by that of torch; --convention torch takes the latter" in note
    assert note in sn.fold(proto).sites[0].notes
    assert note in sn.insert(proto, sigma="exact").sites[0].notes
    for known in (sn.inspect(proto, convention="keras"), sn.inspect(proto, convention="torch")):
        assert known.sites[0].notes == ()
    square = network([node("MatMul", ["x", "w"])], {"w": drawn(3, 4)}, {"x": [1, 3]})
    assert sn.inspect(square).sites[0].notes == ()  # read alike by all


# The models of this project behind the tools that people use


class Calibration:
    """Two feeds of a model's only input."""

    def __init__(self, name: str, shape: list[int]) -> None:
        rng = np.random.default_rng(0)
        self._feeds = iter([{name: rng.standard_normal(shape, np.float32)} for _ in range(2)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def static(path: Path, out: Path) -> None:
    from onnxruntime.quantization import quantize_static

    (given,) = onnx.load(path).graph.input
    shape = [dim.dim_value or 2 for dim in given.type.tensor_type.shape.dim]
    quantize_static(path, out, Calibration(given.name, shape))


def dynamic(path: Path, out: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(path, out)


def half(path: Path, out: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path)), out)


def offline(path: Path, out: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(out), 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def slim(path: Path, out: Path) -> None:
    onnx.save(pytest.importorskip("onnxslim").slim(str(path)), out)


def simplified(path: Path, out: Path) -> None:
    onnx.save(pytest.importorskip("onnxsim").simplify(onnx.load(path))[0], out)


MODELS = Path(__file__).parents[2] / "models"
TOOLS = [static, dynamic, half, offline, slim, simplified]


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
@pytest.mark.parametrize(
    "name",
    ["keras_dcgan_discriminator", "torch_patchgan_discriminator", "torch_patchgan_discriminator_torchscript"],
)
def test_a_tool_does_not_change_the_convention(name: str, tool: Callable[[Path, Path], None], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    tool(MODELS / f"{name}.onnx", out)
    before, after = make_plan(MODELS / f"{name}.onnx"), make_plan(out)
    assert after.convention == before.convention == name.partition("_")[0]
    assert not after.guessed
