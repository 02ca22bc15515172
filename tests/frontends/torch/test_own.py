"""Own spectral norm classes, and the shapes of public discriminators: exported, run, and brought back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

import sn_graph as sn
from sn_graph.errors import ModelError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch onnxscript")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install torch onnxscript")

from sn_graph.frontends import torch as frontend  # noqa: E402  # behind the skips
from tests.support import torch_discriminators as shapes  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

CLOSE = 1e-5  # of the largest value: ten steps in float32
PARAMETRIZATION = torch.nn.utils.parametrizations.spectral_norm
IMAGE, MAP, SOUND = (2, 3, 16, 16), (2, 4, 32, 32), (2, 1, 64)
CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...], int]] = {
    "SAGAN, _bar": (shapes.Sagan, IMAGE, 4),
    "SAGAN, _bar, k = 2, called": (lambda: shapes.Sagan(2, True), IMAGE, 4),
    "SNGAN, mimicry": (shapes.Sngan, IMAGE, 7),
    "SNGAN, mimicry, k = 3": (lambda: shapes.Sngan(3), IMAGE, 7),
    "BigGAN": (shapes.BigGan, IMAGE, 5),
    "BigGAN, two singular values": (lambda: shapes.BigGan(2), IMAGE, 5),
    "Real-ESRGAN": (shapes.UNet, IMAGE, 5),
    "Real-ESRGAN, parametrization": (lambda: shapes.UNet(PARAMETRIZATION), IMAGE, 5),
    "HiFi-GAN": (shapes.HifiGan, SOUND, 7),
    "HiFi-GAN, parametrization": (lambda: shapes.HifiGan(PARAMETRIZATION), SOUND, 7),
    "SPADE": (shapes.Spade, MAP, 4),
    "SPADE, parametrization": (lambda: shapes.Spade(PARAMETRIZATION), MAP, 4),
    "DUE, soft cap": (shapes.Due, IMAGE, 3),
}


def made(name: str) -> tuple[Any, tuple[Any, ...]]:
    make, shape, _ = CASES[name]
    torch.manual_seed(len(name))
    args: tuple[Any, ...] = (torch.randn(shape),)
    if name.startswith("BigGAN"):
        args = (*args, torch.tensor([1, 7]))
    return shapes.trained(make(), args), args


def largest(result: Any) -> float:
    assert result.ok
    return float(max(one.max_rel_norm for one in result.comparisons))


@pytest.mark.parametrize("name", CASES)
def test_plain_folded_and_inserted(name: str, tmp_path: Path) -> None:
    module, args = made(name)
    count = CASES[name][2]
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}

    exported = frontend.export(module, args, tmp_path / "plain.onnx")
    assert len(exported.plan.eligible()) == count
    held = {site.id: exported.model.array(site.target.tensor) for site in exported.plan.eligible() if site.target}
    for one in frontend.normalized_layers(module):
        np.testing.assert_array_equal(held[one.name], one.original.detach().numpy())
    divided_by_hand(exported, tmp_path)
    assert largest(frontend.parity(module, tmp_path / "by_hand.onnx")) <= CLOSE

    frontend.export(module, args, tmp_path / "fold.onnx", as_="fold")
    assert largest(frontend.parity(module, tmp_path / "fold.onnx")) <= CLOSE
    frontend.export(module, args, tmp_path / "insert.onnx", as_="insert")
    assert largest(frontend.parity(module, tmp_path / "insert.onnx", steps=10)) <= CLOSE

    # What the command line makes of the plain file and its plan is the same.
    result = sn.insert(tmp_path / "plain.onnx", plan=tmp_path / "plain.plan.json")
    assert sum(site.status == "inserted" for site in result.sites) == count
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def divided_by_hand(exported: Any, folder: Path) -> None:
    """Write the plain file with each weight over what its plan and the σ beside it say."""
    sigmas = load_file(folder / "plain.u.safetensors")
    proto = onnx.load(folder / "plain.onnx")
    sites = {site.id: site for site in exported.plan.eligible()}
    for tensor in proto.graph.initializer:
        if tensor.name in sites:
            sigma, bound = float(sigmas[f"{tensor.name}.sigma"]), sites[tensor.name].bound or 1.0
            divisor = max(1.0, sigma / bound) if sites[tensor.name].clip else sigma / bound
            weight = onnx.numpy_helper.to_array(tensor) / np.float32(divisor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    onnx.save(proto, folder / "by_hand.onnx")


def divisors(module: Any, args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Call a module, and return by name what each normalized weight is divided by, as torch's functions read it."""
    read: list[Any] = []
    for name in ("linear", "embedding", "conv1d", "conv2d"):
        function = getattr(torch.nn.functional, name)

        def watched(*given: Any, function: Any = function, **options: Any) -> Any:
            read.append(options["weight"] if "weight" in options else given[1])
            return function(*given, **options)

        monkeypatch.setattr(torch.nn.functional, name, watched)
    with torch.no_grad():
        module(*args)
    monkeypatch.undo()
    found = {}
    for one in frontend.normalized_layers(module):
        weight = one.held.array()
        for array in (tensor.detach().double().numpy() for tensor in read if tensor.shape == weight.shape):
            factor = np.vdot(weight, array) / np.vdot(weight, weight)
            if np.abs(array - factor * weight).max() <= 1e-5 * np.abs(array).max():
                found[one.name] = float(1.0 / factor)
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_state_goes_there_and_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, args = made(name)
    frontend.export(module, args, tmp_path / "d.onnx", as_="insert")
    session = sn.StatefulSession(tmp_path / "d.onnx")
    feeds = {value.name: tensor.numpy() for value, tensor in zip(session.get_inputs(), args, strict=False)}
    for _ in range(3):
        session.run(None, feeds)
    session.save_state(tmp_path / "u.safetensors")
    frontend.load_state(module, tmp_path / "u.safetensors")
    session.run(None, feeds)
    for one in frontend.normalized_layers(module):
        one.train()
    read = divisors(module, args, monkeypatch)
    assert len(read) == CASES[name][2]
    for one in frontend.normalized_layers(module):
        sigma = session.sigma[one.name]
        wanted = max(1.0, sigma / one.bound) if one.clip else sigma / one.bound
        assert read[one.name] == pytest.approx(wanted, rel=1e-6)
    frontend.save_state(module, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    for one in frontend.normalized_layers(module):
        np.testing.assert_allclose(back[f"{one.name}.u"], session.state()[one.name], atol=2e-6)
    session.load_state(tmp_path / "back.safetensors")


class Padded(shapes.BigConv):
    """A layer that does more than its convolution."""

    def forward(self, x: Any) -> Any:
        return torch.relu(super().forward(torch.nn.functional.pad(x, (1, 2, 0, 1), "reflect")))


class Reparametrized(torch.nn.Module):  # type: ignore[name-defined,misc]
    """σReparam with a vector that training moves: γ·W/σ."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gamma = torch.nn.Parameter(torch.randn(6, 9)), torch.nn.Parameter(torch.tensor(1.7))
        self.register_buffer("v", shapes.unit(torch.randn(9)))

    def forward(self, x: Any) -> Any:
        u = shapes.unit(self.weight @ self.v)
        v = shapes.unit(self.weight.t() @ u)
        if self.training:
            self.v.copy_(v)
        return torch.nn.functional.linear(x, self.gamma * self.weight / (u @ self.weight @ v))


class Turned(shapes.BigLinear):
    """BigGAN's `transpose`: u has the length of a row, and is what the other classes call v."""

    def __init__(self) -> None:
        super().__init__(9, 6)
        del self._buffers["u0"]
        self.init_norm(1, 2, 9, transpose=True)


SINGLE: dict[str, tuple[Callable[[], Any], tuple[int, ...], tuple[int, int, str, float]]] = {
    "padded": (lambda: Padded(3, 5, 3), (2, 3, 9, 9), (0, 1, "rows", 1.0)),
    "reparametrized": (Reparametrized, (2, 9), (0, 1, "cols", 1.7)),
    "turned": (Turned, (2, 9), (0, 2, "cols", 1.0)),
    "transposed": (lambda: shapes.Bar(torch.nn.ConvTranspose2d(4, 6, 3, 2, 1)), (2, 4, 7, 7), (0, 1, "rows", 1.0)),
    "grouped": (lambda: shapes.Bar(torch.nn.Conv2d(4, 6, 3, groups=2)), (2, 4, 7, 7), (0, 1, "rows", 1.0)),
    "volume": (lambda: shapes.Bar(torch.nn.Conv3d(2, 4, 2)), (1, 2, 5, 5, 5), (0, 1, "rows", 1.0)),
    "sequence": (lambda: shapes.BigLinear(5, 7, itrs=4), (2, 3, 5), (0, 4, "rows", 1.0)),
    "reshaped": (lambda: torch.nn.Sequential(shapes.Bar(torch.nn.Conv1d(3, 5, 4))), (2, 3, 20), (0, 1, "rows", 1.0)),
}


@pytest.mark.parametrize("name", SINGLE)
def test_single_layers(name: str, tmp_path: Path) -> None:
    make, shape, (dim, k, begins, bound) = SINGLE[name]
    torch.manual_seed(5)
    args = (torch.randn(shape),)
    module = shapes.trained(make(), args)
    (one,) = frontend.normalized_layers(module)
    assert (one.dim, one.iterations, one.begins, one.clip) == (dim, k, begins, False)
    assert one.bound == pytest.approx(bound, rel=1e-6)
    for form in ("fold", "insert"):
        frontend.export(module, args, tmp_path / "d.onnx", as_=form)
        steps = 10 if form == "insert" else 1
        assert largest(frontend.parity(module, tmp_path / "d.onnx", steps=steps)) <= CLOSE


class Other(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Weights that are divided, or made, otherwise."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.weight = kind, torch.nn.Parameter(torch.randn(6, 9))
        self.register_buffer("u", shapes.unit(torch.randn(6)))
        self.register_buffer("scale", torch.full((), 0.3))

    def forward(self, x: Any) -> Any:
        w, u = self.weight, self.u
        v = shapes.unit(w.t() @ u)
        if self.kind == "exact":
            w = w / torch.linalg.matrix_norm(w, 2)
        elif self.kind == "frobenius":
            w = w / w.norm()
        elif self.kind == "equalised":
            w = w * self.scale
        elif self.kind == "forgets":
            w = w / (w @ v).norm()
        elif self.kind == "added eps":
            v = w.t() @ u
            w = w / (w @ (v / (v.norm() + 0.01))).norm()
        elif self.kind == "activation":
            x = x / (w @ v).norm()
        return torch.nn.functional.linear(x, w)


@pytest.mark.parametrize("kind", ["exact", "frobenius", "equalised", "forgets", "added eps", "activation", "plain"])
def test_what_is_no_iteration_is_left(kind: str, tmp_path: Path) -> None:
    """The vector of `forgets` never moves, so that an inserted iteration would go another way."""
    module, args = Other(kind).eval(), (torch.randn(2, 9),)
    assert frontend.normalized_layers(module) == ()
    if kind == "exact":
        with pytest.raises(ModelError, match=r"can't export the module: No ONNX function found for .*svd"):
            frontend.export(module, args, tmp_path / "d.onnx")
        return
    exported = frontend.export(module, args, tmp_path / "d.onnx")
    told = [note for note in exported.notes if "weight: divided" in note]
    assert len(told) == (kind in ("frobenius", "forgets", "added eps"))
    assert frontend.parity(module, tmp_path / "d.onnx").ok


class Raising(shapes.Sagan):
    """A module that no exporter takes."""

    def forward(self, x: Any) -> Any:
        score, _ = super().forward(x)
        return score * 2 if bool((score.sum() > 0).item()) else score.nonzero()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [shapes.Sagan, shapes.Sngan, shapes.BigGan, shapes.Due, Raising])
def test_the_module_stays_as_it_was(kind: Any, training: bool, tmp_path: Path) -> None:
    torch.manual_seed(6)
    args = (torch.randn(IMAGE), torch.tensor([1, 2]))[: 2 if kind is shapes.BigGan else 1]
    module = kind().train(training)
    module(*args)  # behind it, W/σ is an attribute with a history
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    kept = {name: id(tensor) for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    layers = [(type(layer), layer.training, len(layer._forward_pre_hooks)) for layer in module.modules()]
    numbers = torch.random.get_rng_state()
    if kind is Raising:
        with pytest.raises(ModelError, match="can't export"):
            frontend.export(module, args, tmp_path / "d.onnx")
    else:
        frontend.export(module, args, tmp_path / "d.onnx", as_="insert")
        frontend.parity(module, tmp_path / "d.onnx", steps=2)
    assert torch.equal(torch.random.get_rng_state(), numbers)
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {name: id(tensor) for name, tensor in (*module.named_parameters(), *module.named_buffers())} == kept
    assert [(type(layer), layer.training, len(layer._forward_pre_hooks)) for layer in module.modules()] == layers


def test_a_state_that_begins_with_the_other_vector_is_refused(tmp_path: Path) -> None:
    hooked = torch.nn.utils.spectral_norm(torch.nn.Linear(6, 6))
    frontend.save_state(hooked, tmp_path / "u.safetensors")
    with pytest.raises(ModelError, match="begin with the other vector"):
        frontend.load_state(PARAMETRIZATION(torch.nn.Linear(6, 6)), tmp_path / "u.safetensors")
