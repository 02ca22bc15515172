"""`sn-graph verify OUT.onnx MODEL.keras`: what is compared with what, the JSON, the exit codes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sn_graph as sn
from sn_graph.frontends.keras import export
from tests.support.command_line import Cli, one_line

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tensorflow's own imports warn of each other
    pytest.importorskip("tf2onnx", reason="needs the extra keras")
    keras = pytest.importorskip("keras", minversion="3", reason="needs Keras 3, of the extra keras")
    pytest.importorskip("tensorflow", reason="needs the extra keras")

layers = keras.layers
SN = layers.SpectralNormalization
ROW = {"left", "right", "provider", "step", "output", "max_abs", "max_rel_norm", "rtol", "atol", "ok"}


def save(model: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras's own use of numpy, and that .h5 is old
        model.save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras model as .keras and .h5, and what becomes of it: plain, inserted (required too) and folded both ways."""
    folder = tmp_path_factory.mktemp("verify")
    keras.utils.set_random_seed(21)
    image = keras.Input((6, 6, 3), name="image")
    x = layers.Dropout(0.5)(SN(layers.Conv2D(4, 3, 2), name="conv")(image))
    model = keras.Model(image, SN(layers.Dense(3), power_iterations=2, name="dense")(layers.Flatten()(x)))
    save(model, folder / "disc.keras")
    save(model, folder / "disc.h5")
    export(model).save(folder / "plain.onnx")
    plan, source = folder / "plain.plan.json", folder / "plain.onnx"
    sn.insert(source, plan=plan).save(folder / "inserted.onnx")
    sn.insert(source, plan=plan, state_mode="required", state_layout="per-weight").save(folder / "required.onnx")
    sn.fold(source, plan=plan, sigma="power").save(folder / "folded.onnx")
    sn.fold(source, plan=plan).save(folder / "exact.onnx")
    return folder


NORMALIZING = "training=True"
INFERENCE = {
    "plain": "training=False",
    "folded": "normalize_weights() once, training=False",
    "exact": "kernels over their exact norms, training=False",
}


@pytest.mark.parametrize("file", ["disc.keras", "disc.h5"])
@pytest.mark.parametrize("name", ["inserted", "required"])
def test_inserted_beside_normalizing_calls(name: str, file: str, cli: Cli, folder: Path) -> None:
    a, b = folder / f"{name}.onnx", folder / file
    ended = cli("verify", a, b, "--steps", 3, "--json")
    assert ended.code == 0
    assert ended.json.keys() == {"ok", "comparisons", "notes"}
    rows = ended.json["comparisons"]
    assert all(row.keys() == ROW and row["ok"] for row in rows)
    expected = [
        (str(a), f"{b} ({NORMALIZING})", output)
        for output in ("dense", "conv/kernel", "conv/kernel.u", "dense/kernel", "dense/kernel.u")
    ]
    expected.append((f"{a} (baked)", f"{b} (training=False)", "dense"))
    assert [(row["left"], row["right"], row["output"]) for row in rows] == 3 * expected
    assert [row["step"] for row in rows] == [step for step in range(3) for _ in expected]


@pytest.mark.parametrize("name", INFERENCE)
def test_a_file_without_state_beside_inference(name: str, cli: Cli, folder: Path) -> None:
    a, b = folder / f"{name}.onnx", folder / "disc.keras"
    ended = cli("verify", a, b, "--steps", 2, "--json")
    assert ended.code == 0
    rows = [(row["left"], row["right"], row["output"], row["step"]) for row in ended.json["comparisons"]]
    assert rows == [(str(a), f"{b} ({INFERENCE[name]})", "dense", step) for step in range(2)]


def test_inputs_tolerances_and_the_table(cli: Cli, folder: Path) -> None:
    inputs = folder / "x.npz"
    np.savez(inputs, image=np.ones((5, 6, 6, 3), np.float32))
    ended = cli("verify", folder / "inserted.onnx", folder / "disc.keras", "--inputs", inputs)
    assert (ended.code, ended.err) == (0, "")
    heading, *lines = ended.out.splitlines()
    assert heading.split()[:6] == ["left", "right", "provider", "step", "output", "max"]
    assert len(lines) == 6
    ended = cli("verify", folder / "inserted.onnx", folder / "disc.keras", "--rtol", 0, "--atol", 0, "--json")
    assert ended.code == 1
    assert {(row["rtol"], row["atol"]) for row in ended.json["comparisons"]} == {(0.0, 0.0)}


def scaled(folder: Path, source: str, factor: float, weight: str = "conv/kernel") -> Path:
    proto = onnx.load(folder / source)
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), weight))
    onnx.save(proto, folder / "scaled.onnx")
    return folder / "scaled.onnx"


@pytest.mark.parametrize("source", ["plain.onnx", "folded.onnx", "exact.onnx"])
def test_another_weight_is_seen(source: str, cli: Cli, folder: Path) -> None:
    """A file that is none of the three fails, and stderr says so in a line beside the error's."""
    ended = cli("verify", scaled(folder, source, 1.01), folder / "disc.keras")
    assert ended.code == 1
    note, error = ended.err.splitlines()
    assert "agrees with none of: training=False; normalize_weights() once" in note
    assert error.startswith("sn-graph: error: 1 of 1 outputs differ between")


def test_a_u_that_is_not_the_models_is_seen(cli: Cli, folder: Path) -> None:
    """Kernels alone would not tell: after many steps they agree from any u."""
    seeded = folder / "seeded.onnx"
    sn.insert(folder / "plain.onnx", include=["/kernel$"]).save(seeded)
    ended = cli("verify", seeded, folder / "disc.keras", "--json")
    assert ended.code == 1
    assert not [row for row in ended.json["comparisons"] if row["output"].endswith(".u") and row["ok"]]


def test_a_layer_that_was_left_out_is_named(cli: Cli, folder: Path) -> None:
    part = folder / "part.onnx"
    sn.insert(folder / "plain.onnx", plan=folder / "plain.plan.json", exclude=["^dense/"]).save(part)
    ended = cli("verify", part, folder / "disc.keras", "--json")
    assert ended.code == 1
    failed = {row["output"]: row["max_abs"] for row in ended.json["comparisons"] if not row["ok"]}
    assert failed.keys() == {"dense", "dense/kernel", "dense/kernel.u"}
    assert failed["dense/kernel"] is None
    assert ended.json["notes"] == [
        "layer 'dense' has no site in the ONNX model, neither of its name nor with its u",
    ]


def test_sites_of_other_names_are_found_by_their_u(cli: Cli, folder: Path) -> None:
    """As where the model went through an exporter that knows nothing of the layers."""
    proto = onnx.load(folder / "plain.onnx")
    for tensor in proto.graph.initializer:
        for node in proto.graph.node:
            node.input[:] = [f"w_{name}" if name == tensor.name else name for name in node.input]
        tensor.name = f"w_{tensor.name}"
    u = {f"w_{name}.u": value for name, value in vectors(folder / "plain.u.safetensors").items()}
    from safetensors.numpy import save_file

    save_file(u, folder / "other.u.safetensors")
    onnx.save(proto, folder / "other.onnx")
    for iterations, layer in ((1, "conv"), (2, "dense")):  # each layer alone, for they differ in power_iterations
        made = sn.insert(
            folder / "other.onnx",
            include=[f"^w_{layer}/kernel$"],
            state=folder / "other.u.safetensors",
            power_iterations=iterations,
        )
        made.save(folder / "renamed.onnx")
        rows = cli("verify", folder / "renamed.onnx", folder / "disc.keras", "--json").json["comparisons"]
        own = [row for row in rows if row["output"].startswith(f"{layer}/")]
        assert len(own) == 2
        assert all(row["ok"] for row in own)


def vectors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors.numpy import load_file

    return {name.removesuffix(".u"): value for name, value in load_file(path).items()}


def test_other_inputs_end_with_3(cli: Cli, folder: Path) -> None:
    x, y = keras.Input((6, 6, 3)), keras.Input((2,))
    save(keras.Model([x, y], [layers.Flatten()(x), y]), folder / "two.keras")
    error = one_line(cli("verify", folder / "plain.onnx", folder / "two.keras"), 3)
    assert "1 inputs (image), and the Keras model 2" in error
    save(keras.Model(x, [x, x]), folder / "outputs.keras")
    assert "1 outputs (dense), and the Keras model 2" in one_line(
        cli("verify", folder / "plain.onnx", folder / "outputs.keras"), 3
    )
    narrow = keras.Input((6, 6, 4), name="image")
    save(keras.Model(narrow, layers.Conv2D(2, 3)(narrow)), folder / "narrow.keras")
    error = one_line(cli("verify", folder / "plain.onnx", folder / "narrow.keras"), 3)
    assert "the Keras model can't be called on image [2, 6, 6, 3]" in error


def test_a_file_that_is_not_there_ends_with_3(cli: Cli, folder: Path) -> None:
    for name in ("missing.keras", "missing.h5"):
        assert name in one_line(cli("verify", folder / "plain.onnx", folder / name), 3)
    (folder / "torn.keras").write_bytes(b"PK\x03\x04 and no more")
    assert "torn.keras" in one_line(cli("verify", folder / "plain.onnx", folder / "torn.keras"), 3)


def test_state_and_steps(cli: Cli, folder: Path) -> None:
    inserted, original = folder / "inserted.onnx", folder / "disc.keras"
    assert "no meaning" in " ".join(cli("verify", inserted, original, "--state").err.split())
    assert cli("verify", inserted, original, "--steps", 0).code == 2
    assert cli("verify", inserted, original, "--providers", "tpu").code == 2


def test_as_a_program_nothing_but_the_table_is_written(program: Cli, folder: Path) -> None:
    """TensorFlow writes to stderr below Python, which only a process of its own shows."""
    ended = program("verify", folder / "inserted.onnx", folder / "disc.keras")
    assert (ended.code, ended.err) == (0, "")


LEGACY = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from sn_graph.frontends.keras import export, parity
import sn_graph as sn

folder, layers = Path(sys.argv[1]), tf.keras.layers
assert layers.Layer.__module__.startswith("tf_keras")
tf.keras.utils.set_random_seed(3)
x = tf.keras.Input((6, 6, 3), name="image")
h = layers.SpectralNormalization(layers.Conv2D(4, 3), name="conv")(x)
h = layers.Dropout(0.5)(layers.BatchNormalization()(h))
shared = layers.SpectralNormalization(layers.Dense(4), name="shared")
model = tf.keras.Model(x, shared(shared(layers.GlobalAveragePooling2D()(h))))
result = parity(model, (1, 10, 100), rtol=1e-5, atol=5e-6)
assert result.ok, [one for one in result.comparisons if not one.ok]
assert all(one.max_abs <= 1e-5 for one in result.comparisons if one.output.endswith(".u"))
model.save(folder / "saved", save_format="tf")
model.save(folder / "disc.h5")
export(model).save(folder / "disc.onnx")
sn.insert(folder / "disc.onnx", plan=folder / "disc.plan.json").save(folder / "disc.sn.onnx")
"""


def test_tf_keras_and_its_files(program: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation before, with its .h5 and SavedModel; chosen before tensorflow is imported, so in processes."""
    pytest.importorskip("tf_keras", reason="needs tf_keras: pip install --no-deps tf-keras, beside tensorflow-cpu")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    command = [sys.executable, "-c", LEGACY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for original in ("disc.h5", "saved"):
        ended = program("verify", tmp_path / "disc.sn.onnx", tmp_path / original, "--steps", 3, "--json")
        assert (ended.code, ended.err) == (0, ""), ended.err
        assert len(ended.json["comparisons"]) == 3 * 6


def test_dynamic_sizes_are_ones_that_keras_takes(cli: Cli, tmp_path: Path) -> None:
    """A kernel of 5 does not fit the usual size of 2."""
    keras.utils.set_random_seed(3)
    image = keras.Input((None, None, 3), name="image")
    x = SN(layers.Conv2D(4, 5), name="conv")(image)
    model = keras.Model(image, SN(layers.Dense(2), name="dense")(layers.GlobalAveragePooling2D()(x)))
    save(model, tmp_path / "m.keras")
    export(model).save(tmp_path / "m.onnx")
    sn.insert(tmp_path / "m.onnx", plan=tmp_path / "m.plan.json").save(tmp_path / "sn.onnx")
    for name in ("m.onnx", "sn.onnx"):
        ended = cli("verify", tmp_path / name, tmp_path / "m.keras", "--steps", 2, "--json")
        assert (ended.code, ended.json["ok"]) == (0, True)
        assert all(row["max_abs"] is not None for row in ended.json["comparisons"])
