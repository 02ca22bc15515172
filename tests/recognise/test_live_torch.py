"""PyTorch itself: what it exports is lifted, and goes on as the module does in train mode.

Skipped where torch and onnxscript are not installed, which take several GB: pip install -e '.[torch]'.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sn_graph as sn
from sn_graph.model import Model
from sn_graph.proofs import save
from sn_graph.sites import find_sites

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytestmark = pytest.mark.filterwarnings("default")

STEPS = 10
CLOSE = 1e-5  # of the largest value, after ten steps in float32
EXPORTERS: dict[str, dict[str, Any]] = {
    "dynamo": {"dynamo": True, "optimize": False},
    "script": {"dynamo": False},
    "unfolded": {"dynamo": False, "do_constant_folding": False},
}
LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "conv": (lambda: torch.nn.Conv2d(6, 8, 3), (2, 6, 9, 9)),
    "grouped": (lambda: torch.nn.Conv2d(6, 8, 3, groups=2), (2, 6, 9, 9)),
    "transposed": (lambda: torch.nn.ConvTranspose2d(6, 8, 3), (2, 6, 9, 9)),
    "linear": (lambda: torch.nn.Linear(6, 8), (2, 6)),
    "sequence": (lambda: torch.nn.Linear(6, 8), (2, 5, 6)),
    "one": (lambda: torch.nn.Linear(6, 1), (2, 6)),
    "large": (lambda: torch.nn.Linear(128, 96), (2, 128)),
}


def hook(layer: Any, **options: Any) -> Any:
    made = torch.nn.utils.spectral_norm(layer, **options)
    made.train()
    return made


def parametrization(layer: Any, **options: Any) -> Any:
    return torch.nn.utils.parametrizations.spectral_norm(layer, **options)


def exported(module: Any, x: Any, path: Path, exporter: str, *, train: bool = False) -> Path:
    module.train(train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), str(path), input_names=["x"], output_names=["y"], **EXPORTERS[exporter])
    return path


def run(path: Path, x: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x.numpy()})[0]


def cases() -> list[Any]:
    ways = [(hook, exporter) for exporter in EXPORTERS] + [(parametrization, "dynamo")]
    return [
        pytest.param(layer, api, exporter, id=f"{layer}-{api.__name__}-{exporter}")
        for layer in LAYERS
        for api, exporter in ways
    ]


@pytest.mark.parametrize(("layer", "api", "exporter"), cases())
@pytest.mark.parametrize("k", [1, 3])
def test_lifted_folds_and_goes_on(layer: str, api: Any, exporter: str, k: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    make, shape = LAYERS[layer]
    module, x = api(make(), n_power_iterations=k), torch.randn(*shape)
    with torch.no_grad():
        for _ in range(2):
            module.train()(x)
    path = exported(module, x, tmp_path / "export.onnx", exporter)

    lifted = sn.lift(path)
    assert save(lifted, tmp_path / "lifted.onnx").verified == "run"
    assert [site.weight for site in lifted.sites] == ["weight"]
    assert not any(site.is_computed for site in find_sites(Model.open(tmp_path / "lifted.onnx")))
    with torch.no_grad():
        wanted = module.eval()(x).numpy()
    np.testing.assert_allclose(run(tmp_path / "lifted.onnx", x), wanted, atol=CLOSE * np.abs(wanted).max())

    save(sn.lift(path, to="insert", power_iterations=k), tmp_path / "inserted.onnx")
    session = sn.StatefulSession(tmp_path / "inserted.onnx")
    module.train()
    for _ in range(STEPS):
        with torch.no_grad():
            wanted = module(x).numpy()
        (given,) = session.run(["y"], {"x": x.numpy()})
        np.testing.assert_allclose(given, wanted, atol=CLOSE * np.abs(wanted).max())
    vector = module.weight_u if api is hook else module.parametrizations.weight[0]._v
    np.testing.assert_allclose(session.state()["weight"].reshape(-1), vector.numpy(), atol=CLOSE)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("api", [hook, parametrization])
def test_train_mode_exports_say_how_often_they_iterate(api: Any, k: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    module, x = api(torch.nn.Conv2d(6, 8, 3), n_power_iterations=k), torch.randn(2, 6, 9, 9)
    path = exported(module, x, tmp_path / "export.onnx", "dynamo", train=True)
    (site,) = sn.inspect(path).sites
    assert (site.form, site.k) == ("spectral-norm-train", k)
