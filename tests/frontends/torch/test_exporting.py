"""PyTorch modules with spectral normalization: exported, run, and brought back; only where torch is installed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import sn_graph as sn
from sn_graph.errors import ModelError, UsageError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch onnxscript")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install torch onnxscript")

from sn_graph.frontends import torch as frontend  # noqa: E402  # behind the skips

pytestmark = pytest.mark.filterwarnings("ignore")

HOOK = torch.nn.utils.spectral_norm
PARAMETRIZATION = torch.nn.utils.parametrizations.spectral_norm


def discriminator(norm: Callable[..., Any], **options: Any) -> Any:
    """A small discriminator with every kind of layer; one of its layers is plain."""
    torch.manual_seed(0)
    nn = torch.nn

    class Discriminator(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.features = nn.Sequential(
                norm(nn.Conv2d(8, 12, 4, 2, 1), **options), nn.BatchNorm2d(12), nn.LeakyReLU(0.2)
            )
            self.up = norm(nn.ConvTranspose2d(12, 6, 2, 2, groups=2), **options)
            self.table = norm(nn.Embedding(10, 6), **options)
            self.head = norm(nn.Linear(6, 5, bias=False), **options)
            self.last = norm(nn.Linear(5, 1), **options)

        def forward(self, image: Any, label: Any) -> Any:
            hidden = self.up(self.features(torch.relu(self.first(image)))).mean((2, 3))
            return self.last(torch.tanh(self.head(hidden + self.table(label))))

    return stepped(Discriminator())


def stepped(module: Any) -> Any:
    """Make one step of every normalized layer, without a forward of the module."""
    for one in frontend.normalized_layers(module):
        left, right = one.vectors() if one.begins == "rows" else one.vectors()[::-1]
        matrix, u = one.matrix(), left.array()
        for _ in range(3):
            v = matrix.T @ u / np.linalg.norm(matrix.T @ u)
            u = matrix @ v / np.linalg.norm(matrix @ v)
        with torch.no_grad():
            left.tensor.copy_(torch.from_numpy(u))
            right.tensor.copy_(torch.from_numpy(v))
    return module.eval()


ARGS = (torch.zeros(2, 3, 8, 8), torch.tensor([1, 2]))
INPUTS = {
    "image": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32),
    "label": np.array([3, 7]),
}
WAYS = [
    pytest.param(HOOK, {}, id="hook"),
    pytest.param(PARAMETRIZATION, {}, id="parametrization"),
    pytest.param(HOOK, {"n_power_iterations": 3}, id="hook, k = 3"),
    pytest.param(PARAMETRIZATION, {"n_power_iterations": 2}, id="parametrization, k = 2"),
    pytest.param(HOOK, {"dim": 1}, id="hook, dim 1"),
]
NORMALIZED = {"features.0.weight", "up.weight", "table.weight", "head.weight", "last.weight"}


@pytest.mark.parametrize(("norm", "options"), WAYS)
def test_plain_has_the_state_dicts_names(norm: Any, options: dict[str, Any], tmp_path: Path) -> None:
    module = discriminator(norm, **options)
    exported = frontend.export(module, ARGS, tmp_path / "d.onnx")
    eligible = {site.id: site for site in exported.plan.sites if site.status == "eligible"}
    assert eligible.keys() == NORMALIZED
    held = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "d.onnx").graph.initializer
    }
    for one in frontend.normalized_layers(module):
        np.testing.assert_array_equal(held[one.name], one.original.detach().numpy())
        target = eligible[one.name].target
        assert target is not None
        matrix = target.matrix(exported.model)
        np.testing.assert_array_equal(matrix, one.matrix().astype(np.float32))
    skipped = [site for site in exported.plan.sites if site.id == "first.weight"]
    assert [site.reason for site in skipped] == ["not spectrally normalized in the module"]
    assert (tmp_path / "d.plan.json").exists()
    # The plan and state beside it are what the command line takes.
    result = sn.insert(tmp_path / "d.onnx", plan=tmp_path / "d.plan.json")
    assert {site.id for site in result.sites if site.status == "inserted"} == NORMALIZED


@pytest.mark.parametrize(("norm", "options"), WAYS)
def test_folded_is_evaluation(norm: Any, options: dict[str, Any], tmp_path: Path) -> None:
    module = discriminator(norm, **options)
    frontend.export(module, ARGS, tmp_path / "d.onnx", as_="fold")
    result = frontend.parity(module, tmp_path / "d.onnx", inputs=INPUTS)
    assert result.ok
    assert max(one.max_rel_norm for one in result.comparisons) <= 1e-5


@pytest.mark.parametrize(("norm", "options"), WAYS)
def test_inserted_is_training(norm: Any, options: dict[str, Any], tmp_path: Path) -> None:
    module = discriminator(norm, **options)
    frontend.export(module, ARGS, tmp_path / "d.onnx", as_="insert")
    result = frontend.parity(module, tmp_path / "d.onnx", steps=10, inputs=INPUTS)
    assert result.ok
    assert max(one.max_rel_norm for one in result.comparisons) <= 1e-5
    assert len(result.comparisons) == 10 * (1 + len(NORMALIZED))
    frontend.assert_parity(module, tmp_path / "d.onnx", steps=2)


@pytest.mark.parametrize(("norm", "options"), WAYS)
def test_the_state_goes_there_and_back(norm: Any, options: dict[str, Any], tmp_path: Path) -> None:
    module = discriminator(norm, **options)
    frontend.export(module, ARGS, tmp_path / "d.onnx", as_="insert")
    session = sn.StatefulSession(tmp_path / "d.onnx")
    for _ in range(4):
        session.run(None, INPUTS)
    session.save_state(tmp_path / "u.safetensors")
    frontend.load_state(module, tmp_path / "u.safetensors")
    for one in frontend.normalized_layers(module):
        np.testing.assert_allclose(one.state(), session.state()[one.name], rtol=1e-6, atol=1e-7)
    session.run(None, INPUTS)
    for one in frontend.normalized_layers(module):
        one.layer.train()
    images, labels = (torch.from_numpy(array) for array in INPUTS.values())
    with torch.no_grad():
        module(images, labels)
    for one in frontend.normalized_layers(module):
        assert one.sigma() == pytest.approx(session.sigma[one.name], rel=1e-6)
    frontend.save_state(module, tmp_path / "back.safetensors")
    session.load_state(tmp_path / "back.safetensors")
    for one in frontend.normalized_layers(module):
        np.testing.assert_allclose(one.state(), session.state()[one.name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("norm", [HOOK, PARAMETRIZATION])
@pytest.mark.parametrize("training", [False, True])
def test_the_module_stays_as_it_was(norm: Any, training: bool, tmp_path: Path) -> None:
    module = discriminator(norm).train(training)
    module(*ARGS)  # behind it, a hook's W/σ is an attribute with a history
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = [layer.training for layer in module.modules()]
    hooks = [len(layer._forward_pre_hooks) for layer in module.modules()]
    numbers = torch.random.get_rng_state()
    frontend.export(module, ARGS, tmp_path / "d.onnx", as_="insert")
    frontend.parity(module, tmp_path / "d.onnx", steps=2)
    assert torch.equal(torch.random.get_rng_state(), numbers)
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [layer.training for layer in module.modules()] == modes
    assert [len(layer._forward_pre_hooks) for layer in module.modules()] == hooks


def test_a_layer_that_is_called_twice(tmp_path: Path) -> None:
    nn = torch.nn

    class Twice(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self, norm: Any) -> None:
            super().__init__()
            self.layer = norm(nn.Linear(6, 6))

        def forward(self, x: Any) -> Any:
            return self.layer(torch.tanh(self.layer(x)))

    for norm in (HOOK, PARAMETRIZATION):
        torch.manual_seed(1)
        module = stepped(Twice(norm))
        args = (torch.zeros(2, 6),)
        frontend.export(module, args, tmp_path / "d.onnx", as_="insert")
        assert frontend.parity(module, tmp_path / "d.onnx", steps=5).ok
        frontend.export(module, args, tmp_path / "d.onnx", as_="fold")
        assert frontend.parity(module, tmp_path / "d.onnx").ok


def test_dynamic_shapes(tmp_path: Path) -> None:
    module = discriminator(HOOK)
    batch = torch.export.Dim("batch", min=2)
    shapes = {"image": {0: batch}, "label": {0: batch}}
    frontend.export(module, ARGS, tmp_path / "d.onnx", as_="insert", dynamic_shapes=shapes)
    inputs: dict[str, np.ndarray[Any, Any]] = {"image": np.zeros((5, 3, 8, 8), np.float32), "label": np.arange(5)}
    assert frontend.parity(module, tmp_path / "d.onnx", steps=3, inputs=inputs).ok


def test_a_difference_is_found(tmp_path: Path) -> None:
    module = discriminator(HOOK)
    frontend.export(module, ARGS, tmp_path / "d.onnx", as_="insert")
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.last.bias.add_(0.01)
    assert not frontend.parity(other, tmp_path / "d.onnx", inputs=INPUTS).ok


def test_a_module_that_was_never_trained(tmp_path: Path) -> None:
    """Its u and v are random: u·(M v) may be negative, and is no norm."""
    for seed in range(20):
        torch.manual_seed(seed)
        module = HOOK(torch.nn.Linear(5, 4)).eval()
        (one,) = frontend.normalized_layers(module)
        if one.sigma() < 0:
            break
    with pytest.raises(ModelError, match="never called in training mode"):
        frontend.export(module, (torch.zeros(1, 5),), tmp_path / "d.onnx", as_="fold")
    frontend.export(module, (torch.zeros(1, 5),), tmp_path / "d.onnx", as_="insert")
    assert frontend.parity(module, tmp_path / "d.onnx", steps=3).ok


def test_refusals(tmp_path: Path) -> None:
    module = discriminator(HOOK)
    with pytest.raises(UsageError, match="no form"):
        frontend.export(module, ARGS, tmp_path / "d.onnx", as_="baked")
    with pytest.raises(UsageError, match="tuple"):
        frontend.export(module, ARGS[0], tmp_path / "d.onnx")
    with pytest.raises(ModelError, match="can't be called"):
        frontend.export(module, (torch.zeros(2, 4, 8, 8), ARGS[1]), tmp_path / "d.onnx")
    with pytest.raises(ModelError, match="no spectrally normalized weight"):
        frontend.save_state(torch.nn.Linear(2, 2), tmp_path / "u.safetensors")
    layer = PARAMETRIZATION(torch.nn.Linear(3, 3))
    torch.nn.utils.parametrizations.weight_norm(layer)
    with pytest.raises(ModelError, match="several parametrizations"):
        frontend.normalized_layers(layer)
    frontend.save_state(module, tmp_path / "u.safetensors")
    with pytest.raises(ModelError, match=r"holds no 'weight\.u'"):
        frontend.load_state(HOOK(torch.nn.Linear(3, 3)), tmp_path / "u.safetensors")
    assert list(tmp_path.iterdir()) == [tmp_path / "u.safetensors"]
