"""The files of models/: what their README says of them, and the outputs their own frameworks gave."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import load_file

from tests.support.oracle import power_iteration
from tests.support.places import GOLDEN, MODELS
from tests.support.runs import run_by_name

ROW = re.compile(r"^\| `(?P<name>[^`]+)` \|.* (?P<size>[\d,]+) \| `(?P<sha256>[0-9a-f]{64})` \|$", re.MULTILINE)
ROWS = {row["name"]: row for row in ROW.finditer((MODELS / "README.md").read_text(encoding="utf-8"))}
ONNX_FILES = sorted(name for name in ROWS if name.endswith(".onnx"))
MAX_BYTES = 3_000_000
# float32 summed in another order: the largest difference seen is 6e-6 of an output's largest value
RTOL = 2e-5

Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def golden() -> Arrays:
    """Inputs and outputs written by tools/export_models, from torch and Keras themselves."""
    with np.load(GOLDEN / "models.npz") as arrays:
        return dict(arrays)


def part(golden: Arrays, file: str, kind: str) -> Arrays:
    prefix = f"{file.removesuffix('.onnx').removesuffix('_torchscript')}/{kind}/"
    found = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    assert found, f"no golden arrays under {prefix}"
    return found


def assert_close(actual: Arrays, expected: Arrays) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=RTOL * np.abs(value).max(), err_msg=name)


def test_readme_lists_every_file() -> None:
    assert set(ROWS) == {path.name for path in MODELS.iterdir()} - {"README.md"}
    assert len(ONNX_FILES) == 8


@pytest.mark.parametrize("file", sorted(ROWS))
def test_size_and_hash_are_those_of_the_readme(file: str) -> None:
    data = (MODELS / file).read_bytes()
    assert len(data) == int(ROWS[file]["size"].replace(",", "")) <= MAX_BYTES
    assert hashlib.sha256(data).hexdigest() == ROWS[file]["sha256"]


@pytest.mark.parametrize("file", ONNX_FILES)
def test_model_is_valid_and_carries_nothing_of_the_machine_that_made_it(file: str) -> None:
    model = onnx.load(MODELS / file)
    onnx.checker.check_model(model, full_check=True)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    skeleton = model.SerializeToString()
    assert not re.search(rb"\.py\b|site-packages|stack_trace|/home/|/Users/|[A-Z]:\\", skeleton)
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("file", ONNX_FILES)
def test_outputs_are_those_of_the_framework(file: str, batch: int, golden: Arrays) -> None:
    inputs = {name: value[:batch] for name, value in part(golden, file, "input").items()}
    expected = {name: value[:batch] for name, value in part(golden, file, "output").items()}
    assert_close(run_by_name(onnx.load(MODELS / file), inputs), expected)


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize(
    "file", ["keras_sn_mixed.onnx", "torch_sngan_discriminator.onnx", "torch_sngan_discriminator_torchscript.onnx"]
)
def test_state_files_continue_as_the_framework_does(file: str, steps: int, golden: Arrays) -> None:
    """The textbook iteration from the stored u gives what the framework gave after as many training calls."""
    model = onnx.load(MODELS / file)
    state = load_file(MODELS / f"{file.removesuffix('.onnx').removesuffix('_torchscript')}.u.safetensors")
    convention = file.partition("_")[0]
    for tensor in model.graph.initializer:
        if (u := state.pop(f"{tensor.name}.u", None)) is not None:
            weight = numpy_helper.to_array(tensor)
            sigma, _ = power_iteration(matrix(weight, convention), u, steps)
            tensor.CopyFrom(numpy_helper.from_array((weight / sigma).astype(np.float32), tensor.name))
    assert not state, f"u without a weight: {sorted(state)}"
    assert_close(run_by_name(model, part(golden, file, "input")), part(golden, file, f"step_{steps}"))


def matrix(weight: NDArray[np.float32], convention: str) -> NDArray[np.float64]:
    """Return M with u on its rows: as stored, but for the [in, out] kernels of Keras, whose u is on the columns."""
    kernel = weight.T if convention == "keras" and weight.ndim == 2 else weight
    return kernel.reshape(len(kernel), -1).astype(np.float64)
