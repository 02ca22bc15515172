"""Saved models of both generations, and tf_keras models exported in a process of their own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sn_graph.errors import EnvironmentUnavailable, ModelError
from sn_graph.frontends import keras as frontend
from sn_graph.frontends.keras.files import is_keras_file, written_by
from sn_graph.frontends.keras.frameworks import Generation
from tests.support import keras_models
from tests.support.keras_models import LAYERS, require_keras
from tests.support.places import ROOT

# Keras's own, when it saves or converts a variable under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.fixture(scope="session")
def keras() -> ModuleType:
    return require_keras()


@pytest.fixture(scope="session")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What keras_legacy.py measured, and the folder of models that it saved."""
    for name in ("tf_keras", "tf2onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; pip install --no-deps tf-keras beside the extra keras")
    folder = tmp_path_factory.mktemp("legacy")
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.keras_legacy", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


BATCHNORM, TRAPS = ("batchnorm-True", "batchnorm-False"), ("twins", "called-again", "nested")


@pytest.mark.parametrize("case", [*(case.name for case in LAYERS if case.legacy), *BATCHNORM, *TRAPS])
def test_tf_keras_models(case: str, legacy: tuple[Path, dict[str, Any]]) -> None:
    """Inference, and five training calls: outputs within the issue's 5e-6 + 1e-5·|b|, u within 1e-5."""
    measured = legacy[1][case]
    assert list(measured["sites"]) == measured["wrappers"]
    assert measured["unchanged"]
    assert measured["inference"] <= 5e-6
    assert measured["output"] <= 5e-6
    assert measured["u"] <= 1e-5
    if "way back" in measured:
        assert max(measured["way back"]) <= 1e-6


def test_the_sites_of_tf_keras_models(legacy: tuple[Path, dict[str, Any]]) -> None:
    assert legacy[1]["called-again"]["sites"] == {"shared/kernel": [True, 3], "score/kernel": [False, 1]}
    assert legacy[1]["nested"]["sites"]["block/sn_conv/kernel"] == [True, 2]
    assert legacy[1]["twins"]["sites"].keys() == {"sn_a/kernel", "sn_b/kernel", "sn_zero/kernel"}


@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize("name", ["legacy.keras", "legacy.h5", "legacy_saved"])
def test_legacy_files_are_told(name: str, legacy: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask for an environment variable that this process, which has Keras 3, can't set any more."""
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)  # a test before may have set it, in time
    assert is_keras_file(legacy[0] / name)
    assert written_by(legacy[0] / name) is Generation.LEGACY
    with pytest.raises(EnvironmentUnavailable, match="TF_USE_LEGACY_KERAS=1 in the environment before tensorflow"):
        frontend.load(legacy[0] / name)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_files_of_keras_3(name: str, keras: ModuleType, tmp_path: Path) -> None:
    model = keras_models.convolution_and_batchnorm(keras, use_bias=True)
    model.save(tmp_path / name)
    assert is_keras_file(tmp_path / name)
    assert written_by(tmp_path / name) is Generation.KERAS_3
    exported = frontend.export(tmp_path / name)
    direct = frontend.export(model)
    assert exported.model.to_proto() == direct.model.to_proto()
    np.testing.assert_array_equal(exported.state.u["sn/kernel"], direct.state.u["sn/kernel"])


def test_an_unpacked_keras_file(keras: ModuleType, tmp_path: Path) -> None:
    LAYERS[0].model(keras).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        archive.extractall(tmp_path / "folder")
    assert is_keras_file(tmp_path / "folder")
    assert frontend.wrappers(frontend.load(tmp_path / "folder"))[0].weight == "sn/kernel"


def test_weights_without_a_model(keras: ModuleType, tmp_path: Path) -> None:
    LAYERS[0].model(keras).save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(ModelError, match="holds weights without their model; save the whole model"):
        frontend.load(tmp_path / "x.weights.h5")


def test_a_model_that_holds_code(keras: ModuleType, tmp_path: Path) -> None:
    x = keras.Input((4,))
    keras.Model(x, keras.layers.Lambda(lambda value: value + 1)(x)).save(tmp_path / "code.keras")
    with pytest.raises(ModelError, match=r"Keras 3 can't load it: .*[Ll]ambda") as refusal:
        frontend.load(tmp_path / "code.keras")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read: No such file or directory; give a saved Keras model"),
        (b"", "is an empty file, not a Keras model; give a .keras file, a .h5 file or a SavedModel folder"),
        (b"\x08\x09", "is not a Keras model"),
        (b"PK\x03\x04 no end", r"is not a whole \.keras file: the archive has no end"),
    ],
)
def test_files_that_are_none(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=said):
        frontend.load(path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "is a folder without a SavedModel"),
        ({"saved_model.pb": b""}, "is a SavedModel without Keras's layers"),
        ({"metadata.json": b"{}"}, "its metadata.json names no Keras version"),
    ],
)
def test_folders_that_are_none(files: dict[str, bytes], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        frontend.load(tmp_path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match=r"is not a whole \.keras file: .*metadata\.json"):
        frontend.load(tmp_path / "model.keras")
