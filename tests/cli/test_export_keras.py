"""`sn-graph export-keras`: its three forms beside Keras itself, what it writes, says and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file

import sn_graph as sn
from sn_graph.frontends import keras as frontend
from tests.support import keras_models
from tests.support.command_line import Cli, one_line
from tests.support.keras_models import Array, require_keras, set_random

# Keras's own, when it saves or converts a variable under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
OUTPUT: dict[str, Any] = {"rtol": 1e-5, "atol": 5e-6}  # the bounds in float32


@pytest.fixture(scope="session")
def keras() -> ModuleType:
    return require_keras()


@pytest.fixture(scope="session")
def saved(keras: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a saved model of keras_models.py."""
    folder = tmp_path_factory.mktemp("keras")
    makers: dict[str, Callable[[], Any]] = {
        "norm": lambda: keras_models.convolution_and_batchnorm(keras, use_bias=True),
        "again": lambda: keras_models.called_again(keras),
        "twins": lambda: keras_models.twins(keras),
        "none": lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")]),
    }

    def save(name: str) -> Path:
        path = folder / f"{name}.keras"
        if not path.exists():
            model = makers[name]()
            if name == "again":
                set_random(model, np.random.default_rng(0))
            model.save(path)
        return path

    return save


def normalized(path: Path, *, power_iterations: int | None = None) -> Any:
    """The Keras model of a file after one step of every wrapper."""
    model = frontend.load(path)
    for wrapper in frontend.wrappers(model):
        if power_iterations is not None:
            wrapper.layer.power_iterations = power_iterations
        if wrapper.kernel.any():  # Keras leaves a zero kernel alone
            vector, kernel = wrapper.layer.normalized_weights()
            wrapper.layer.vector_u.assign(vector)
            wrapper.variable.assign(kernel)
    return model


def batch_of(model: Any, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((3, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]


def assert_same_outputs(path: Path, model: Any, **tolerance: float) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batch = batch_of(model)
    ours = session.run(None, dict(zip([value.name for value in session.get_inputs()], batch, strict=True)))
    theirs = model(batch[0] if len(batch) == 1 else batch)
    named = theirs if isinstance(theirs, dict) else {session.get_outputs()[0].name: theirs}
    for value, own in zip(session.get_outputs(), ours, strict=True):
        np.testing.assert_allclose(own, named[value.name], **(tolerance or OUTPUT))


def weights(path: Path) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def test_plain(cli: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    source, out = saved("norm"), tmp_path / "out.onnx"
    ended = cli("export-keras", source, "-o", out, "--json")
    assert ended.code == 0, ended.err
    report = ended.json
    assert {key: report[key] for key in ("model", "output", "convention", "verified")} == {
        "model": str(source),
        "output": str(out),
        "convention": "keras",
        "verified": "run",
    }
    assert [(site["id"], site["status"]) for site in report["sites"]] == [
        ("sn/kernel", "eligible"),
        ("plain/kernel", "skipped"),
    ]
    assert report["sites"][1]["reason"] == "in no SpectralNormalization layer of the Keras model"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.plan.json", "out.u.safetensors"]
    model = frontend.load(source)
    (wrapper,) = frontend.wrappers(model)
    np.testing.assert_array_equal(load_file(tmp_path / "out.u.safetensors")["sn/kernel.u"], wrapper.vector_u)
    np.testing.assert_array_equal(weights(out)["sn/kernel"], wrapper.kernel.transpose(3, 2, 0, 1))
    assert_same_outputs(out, model)


@pytest.mark.parametrize("name", ["norm", "again", "twins"])
def test_fold_is_one_step_of_normalize_weights(
    name: str, cli: Cli, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of a layer that is called three times too: normalize_weights() does not know of calls."""
    out = tmp_path / "out.onnx"
    ended = cli("export-keras", saved(name), "-o", out, "--as", "fold", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["verified"] == "run"
    model = normalized(saved(name))
    assert_same_outputs(out, model)
    statuses = {site["id"]: site["status"] for site in ended.json["sites"] if site["status"] != "skipped"}
    assert statuses == {
        wrapper.weight: "folded" if wrapper.kernel.any() else "unchanged" for wrapper in frontend.wrappers(model)
    }


def test_fold_with_other_iterations(cli: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert cli("export-keras", saved("again"), "-o", out, "--as", "fold", "--power-iterations", 7).code == 0
    assert_same_outputs(out, normalized(saved("again"), power_iterations=7))
    other = normalized(saved("again"))
    with pytest.raises(AssertionError):
        assert_same_outputs(out, other)


@pytest.mark.parametrize("sigma", ["exact", "upper"])
def test_fold_exactly(sigma: str, cli: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ended = cli("export-keras", saved("norm"), "-o", out, "--as", "fold", "--sigma", sigma, "--bound", "2", "--json")
    assert ended.code == 0, ended.err
    folded = weights(out)["sn/kernel"].reshape(4, -1).astype(np.float64)
    assert abs(np.linalg.norm(folded, 2) - 2.0) < 4e-6  # 1e-6 of the bound, and float32's rounding of 108 elements


def test_insert_goes_on_as_keras_does(cli: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    """From the layers' own u; Dropout and BatchNormalization stay as in inference."""
    out = tmp_path / "out.onnx"
    ended = cli("export-keras", saved("norm"), "-o", out, "--as", "insert", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["verified"] == "run"
    session, model = sn.StatefulSession(out), frontend.load(saved("norm"))
    (wrapper,) = frontend.wrappers(model)
    for step in range(10):
        vector, kernel = wrapper.layer.normalized_weights()
        wrapper.layer.vector_u.assign(vector)
        wrapper.variable.assign(kernel)
        (batch,) = batch_of(model, step)
        (output,) = session.run(None, {"image": batch})
        np.testing.assert_allclose(output, model(batch, training=False), **OUTPUT)
        np.testing.assert_allclose(session.state()["sn/kernel"], wrapper.vector_u, rtol=0.0, atol=1e-5)


def test_the_plan_does_what_the_forms_do(cli: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    """A plain export with `insert --plan` is --as insert, byte for byte; so are two exports."""
    plain, plan = tmp_path / "plain.onnx", tmp_path / "plain.plan.json"
    assert cli("export-keras", saved("again"), "-o", plain).code == 0
    assert cli("export-keras", saved("again"), "-o", tmp_path / "inserted.onnx", "--as", "insert").code == 0
    assert cli("insert", plain, "--plan", plan, "-o", tmp_path / "by-plan.onnx").code == 0
    assert (tmp_path / "by-plan.onnx").read_bytes() == (tmp_path / "inserted.onnx").read_bytes()
    assert (tmp_path / "inserted.u.safetensors").exists()
    assert cli("strip", tmp_path / "inserted.onnx", "-o", tmp_path / "stripped.onnx").code == 0
    assert onnx.load(tmp_path / "stripped.onnx") == onnx.load(plain)


def test_fewer_weights_and_other_places(cli: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    arguments = ("--as", "fold", "--exclude", "^score", "--save-as-external-data", "--no-verify", "--opset", "13")
    ended = cli("export-keras", saved("twins"), "-o", out, *arguments, "--include", "_b/", "--json")
    assert ended.code == 0, ended.err
    report = ended.json
    assert report["verified"] == "no"
    assert report["opset"][""] == 13
    assert [site["id"] for site in report["sites"] if site["status"] == "folded"] == ["sn_b/kernel"]


def test_nothing_to_do(cli: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    for form in ("fold", "insert"):
        said = one_line(cli("export-keras", saved("none"), "-o", out, "--as", form), 3)
        assert "nothing to do because the Keras model has no SpectralNormalization layer" in said.replace(",", "")
        assert f"export it without --as {form}" in said
        assert not list(tmp_path.iterdir())
    assert cli("export-keras", saved("none"), "-o", out, "--as", "fold", "--force").code == 0
    assert_same_outputs(out, frontend.load(saved("none")))
    ended = cli("export-keras", saved("none"), "-o", out)
    assert ended.code == 0
    assert "skipped" not in ended.err
    assert "exported as it is, without a SpectralNormalization layer to plan for: " in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--as", "plain", "--sigma", "exact"), "--sigma is of --as fold"),
        (("--as", "insert", "--sigma", "power"), "--sigma is of --as fold"),
        (("--as", "baked"), "'baked' is not one of"),
        (("--opset", "99"), "tf2onnx has no opset 99; choose one from 9 to"),
        (("--as", "fold", "--power-iterations", "0"), "power-iterations"),
        (("--as", "fold", "--exclude", "("), "is not a regular expression"),
    ],
)
def test_usage(arguments: tuple[str, ...], said: str, cli: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    ended = cli("export-keras", saved("none"), "-o", tmp_path / "out.onnx", *arguments)
    assert ended.code == 2
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_refused(cli: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert "can't be read" in one_line(cli("export-keras", tmp_path / "nowhere.keras", "-o", out), 3)
    (tmp_path / "text.keras").write_text("hello")
    assert "not a Keras model" in one_line(cli("export-keras", tmp_path / "text.keras", "-o", out), 3)
    assert "can't be written" in one_line(cli("export-keras", saved("none"), "-o", tmp_path / "no" / "out.onnx"), 4)
    ended = cli("export-keras", saved("none"), "-o", saved("none"))
    assert ended.code == 2
    assert "would overwrite the Keras model" in " ".join(ended.err.split())
    assert not out.exists()


def test_an_export_that_differs_is_not_written(
    cli: Cli, saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sn_graph.proofs.keras import export as keras_proof

    honest = keras_proof.keras_outputs

    def shifted(*arguments: Any) -> dict[str, Array]:
        return {name: value + 1e-3 for name, value in honest(*arguments).items()}

    monkeypatch.setattr(keras_proof, "keras_outputs", shifted)
    out = tmp_path / "out.onnx"
    said = one_line(cli("export-keras", saved("none"), "-o", out), 1)
    assert "differ between the exported model and the Keras model" in said
    assert not list(tmp_path.iterdir())
    assert cli("export-keras", saved("none"), "-o", out, "--atol", "0.01").code == 0
    out.unlink()
    assert cli("export-keras", saved("none"), "-o", out, "--force").code == 1
    assert out.exists()


@pytest.mark.parametrize("form", ["plain", "fold", "insert"])
def test_a_dynamic_size_is_one_that_keras_takes(form: str, keras: ModuleType, cli: Cli, tmp_path: Path) -> None:
    """An image of 2×2 pixels, as `verify` takes by default, has no place for a kernel of 5×5."""
    image = keras.Input((None, None, 3), name="image")
    model = keras.Model(image, keras.layers.SpectralNormalization(keras.layers.Conv2D(4, 5), name="sn")(image))
    model.save(tmp_path / "any.keras")
    ended = cli("export-keras", tmp_path / "any.keras", "-o", tmp_path / "out.onnx", "--as", form, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["verified"] == "run"


def test_a_size_taken_for_another_shows(keras: ModuleType, cli: Cli, tmp_path: Path) -> None:
    """Keras's TimeDistributed does as many steps as the batch has samples, in a graph: sizes of 2 and 2 hide it."""
    series = keras.Input((None, 4), name="series")
    time = keras.layers.TimeDistributed(keras.layers.Dense(3))
    keras.Model(series, time(series)).save(tmp_path / "time.keras")
    said = one_line(cli("export-keras", tmp_path / "time.keras", "-o", tmp_path / "out.onnx"), 1)
    assert "differ between the exported model and the Keras model" in said
    assert not (tmp_path / "out.onnx").exists()


def test_nothing_of_tensorflow_on_the_terminal(program: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ended = program("export-keras", saved("again"), "-o", out, "--as", "insert")
    assert ended.code == 0, ended.err
    assert ended.err == f"2 inserted: {out}, verified by running it\n"


@pytest.mark.parametrize("name", ["tensorflow", "tf2onnx"])
def test_a_package_that_is_missing(name: str, program: Cli, saved: Callable[[str], Path], tmp_path: Path) -> None:
    before = f"import sys; sys.modules[{name!r}] = None"
    ended = program("export-keras", saved("none"), "-o", tmp_path / "out.onnx", before=before)
    said = one_line(ended, 4)
    assert "pip install" in said
    assert not list(tmp_path.iterdir())


def test_a_layer_whose_u_is_gone(keras: ModuleType, cli: Cli, tmp_path: Path) -> None:
    """Keras gives NaN from there on; inference as stored has no need of u."""
    model, out = keras_models.LAYERS[0].model(keras), tmp_path / "out.onnx"
    model.get_layer("sn").vector_u.assign(np.zeros((1, 4), np.float32))
    model.save(tmp_path / "gone.keras")
    for form in ("fold", "insert"):
        said = one_line(cli("export-keras", tmp_path / "gone.keras", "-o", out, "--as", form), 3)
        assert "the u of 'sn/kernel' is zero or not finite" in said
        assert not out.exists()
    assert cli("export-keras", tmp_path / "gone.keras", "-o", out).code == 0
