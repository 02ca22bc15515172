"""Layers: small modules with one normalized weight each, by every API and by the classes of public projects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hook

Wrap = Callable[[nn.Module], nn.Module]


class Flat(nn.Module):
    """A layer between inputs of one rank."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output."""
        out = self.layer(x)
        return out[0] if isinstance(out, tuple) else out


def plain() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """Return each kind of layer, with its input's shape."""
    return {
        "conv1d": (lambda: nn.Conv1d(6, 8, 3), (2, 6, 9)),
        "conv2d": (lambda: nn.Conv2d(6, 8, 3), (2, 6, 9, 9)),
        "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), (2, 6, 9, 9)),
        "transposed": (lambda: nn.ConvTranspose2d(6, 8, 3), (2, 6, 9, 9)),
        "linear": (lambda: nn.Linear(6, 8), (2, 6)),
        "linear3": (lambda: nn.Linear(6, 8), (2, 5, 6)),
        "one": (lambda: nn.Linear(6, 1), (2, 6)),
        "large": (lambda: nn.Linear(128, 96), (2, 128)),
        "largeconv": (lambda: nn.Conv2d(32, 48, 3), (1, 32, 9, 9)),
        "embedding": (lambda: nn.Embedding(9, 5), (2, 3)),
        "lstm": (lambda: nn.LSTM(6, 5), (3, 2, 6)),
    }


def apis(name: str) -> dict[str, Wrap]:
    """Return PyTorch's ways to normalize a layer."""
    weight = "weight_ih_l0" if name == "lstm" else "weight"
    found: dict[str, Wrap] = {
        "hook": lambda m: hook(m, weight),
        "param": lambda m: parametrizations.spectral_norm(m, weight),
    }
    if name in ("linear", "conv2d"):
        found["hook_dim1"] = lambda m: hook(m, weight, dim=1)
        found["hook_k3"] = lambda m: hook(m, weight, n_power_iterations=3)
        found["param_k3"] = lambda m: parametrizations.spectral_norm(m, weight, n_power_iterations=3)
        found["param_eps"] = lambda m: parametrizations.spectral_norm(m, weight, eps=1e-4)
        found["twice"] = lambda m: Twice(hook(m, weight), name)
    if name == "large":
        found["hook_bias_free"] = lambda _: hook(nn.Linear(128, 96, bias=False), weight)
    return found


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self, layer: nn.Module, name: str) -> None:
        super().__init__()
        self.inner, self.name = layer, name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of two calls."""
        return self.inner(x) + self.inner(2 * x)


def l2normalize(v: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
    """Return v / (‖v‖ + eps), as `_bar` wrappers do."""
    return v / (v.norm() + eps)


class Bar(nn.Module):
    """The `_bar` wrapper of SAGAN and its descendants (christiancosgrove/pytorch-spectral-normalization-gan)."""

    def __init__(self, module: nn.Module, power_iterations: int = 1) -> None:
        super().__init__()
        self.module, self.k = module, power_iterations
        w = module.weight
        self.register_buffer("u", l2normalize(torch.randn(w.shape[0])))
        self.register_buffer("v", l2normalize(torch.randn(w.reshape(w.shape[0], -1).shape[1])))
        self.register_parameter("weight_bar", nn.Parameter(w.data))
        del module._parameters["weight"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output with the weight normalized from u."""
        w, u, v = self.weight_bar, self.u, self.v
        height = w.shape[0]
        for _ in range(self.k):
            v = l2normalize(torch.mv(torch.t(w.view(height, -1)), u))
            u = l2normalize(torch.mv(w.view(height, -1), v))
        sigma = u.dot(w.view(height, -1).mv(v))
        m = self.module
        weight = w / sigma.expand_as(w)
        if isinstance(m, nn.Conv2d):
            return functional.conv2d(x, weight, m.bias)
        if isinstance(m, nn.ConvTranspose2d):
            return functional.conv_transpose2d(x, weight, m.bias)
        return functional.linear(x, weight, m.bias)


def gram_schmidt(x: torch.Tensor, ys: list[torch.Tensor]) -> torch.Tensor:
    """Take the parts along ys out of x, as BigGAN does."""
    for y in ys:
        x = x - torch.mm(x, y.t()) / torch.mm(y, y.t()) * y
    return x


class BigGAN(nn.Module):
    """BigGAN-PyTorch's SN: it iterates in eval too, from row vectors."""

    def __init__(self, kind: str, svs: int = 1, itrs: int = 1, last: bool = False) -> None:
        super().__init__()
        self.kind, self.svs, self.itrs, self.last = kind, svs, itrs, last
        shape = (8, 6, 3, 3) if kind == "conv" else (8, 6)
        self.weight, self.bias = nn.Parameter(torch.randn(*shape) * 0.4), nn.Parameter(torch.randn(8))
        for i in range(svs):
            self.register_buffer(f"u{i}", torch.randn(1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output."""
        w = self.weight.view(8, -1)
        us = [getattr(self, f"u{i}") for i in range(self.svs)]
        for _ in range(self.itrs):
            svs: list[Any] = []
            vs: list[Any] = []
            new: list[Any] = []
            for u in us:
                v = functional.normalize(gram_schmidt(torch.matmul(u, w), vs), eps=1e-12)
                vs.append(v)
                u = functional.normalize(gram_schmidt(torch.matmul(v, w.t()), new), eps=1e-12)
                new.append(u)
                svs.append(torch.squeeze(torch.matmul(torch.matmul(v, w.t()), u.t())))
            us = new
        weight = self.weight / svs[-1 if self.last else 0]
        return (
            functional.conv2d(x, weight, self.bias) if self.kind == "conv" else functional.linear(x, weight, self.bias)
        )


class SoftCap(nn.Module):
    """DUE's soft cap: W / max(1, σ / c)."""

    def __init__(self, cap: float, kind: str = "linear", eps: float = 0.0) -> None:
        super().__init__()
        shape = (8, 6, 3, 3) if kind == "conv" else (8, 6)
        self.kind, self.cap, self.eps = kind, cap, eps
        self.weight_orig, self.bias = nn.Parameter(torch.randn(*shape) * 0.4), nn.Parameter(torch.randn(8))
        u, _, v = torch.linalg.svd(self.weight_orig.detach().reshape(8, -1))
        self.register_buffer("weight_u", u[:, 0] + 0.01)
        self.register_buffer("weight_v", v[0] + 0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output."""
        w = self.weight_orig
        sigma = torch.dot(self.weight_u, torch.mv(w.view(8, -1), self.weight_v))
        weight = w / (torch.max(torch.ones(1), sigma / self.cap) + self.eps)
        return (
            functional.conv2d(x, weight, self.bias) if self.kind == "conv" else functional.linear(x, weight, self.bias)
        )


class SigmaReparam(nn.Module):
    """σReparam: γ / σ · W, with σ = uᵀWv."""

    def __init__(self, gamma: float = 1.7, einsum: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self.einsum = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8)), einsum
        self.gamma = nn.Parameter(torch.full((1,), gamma))
        u, _, v = torch.linalg.svd(self.weight.detach())
        self.register_buffer("u", u[:, 0])
        self.register_buffer("v", v[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output."""
        sigma = torch.einsum("c,cd,d->", self.u, self.weight, self.v) if self.einsum else self.u @ self.weight @ self.v
        return functional.linear(x, self.gamma * (self.weight / sigma), self.bias)


class EqualisedUnder(nn.Module):
    """An equalised learning rate under spectral norm: c·W / σ(c·W)."""

    def __init__(self, normalized: bool = True) -> None:
        super().__init__()
        self.weight_orig, self.bias = nn.Parameter(torch.randn(8, 6, 3, 3)), nn.Parameter(torch.randn(8))
        self.normalized, self.c = normalized, 0.1361
        u, _, v = torch.linalg.svd(self.weight_orig.detach().reshape(8, -1))
        self.register_buffer("weight_u", u[:, 0])
        self.register_buffer("weight_v", v[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output."""
        w = self.weight_orig * self.c
        if self.normalized:
            w = w / torch.dot(self.weight_u, torch.mv(w.flatten(1), self.weight_v))
        return functional.conv2d(x, w, self.bias)


class Other(nn.Module):
    """Divisors that are scalars and depend on W, and are no σ of its matrix; and other computed weights."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight, self.bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8))
        self.register_buffer("mask", (torch.rand(8, 6) > 0.5).float())
        self.a, self.b = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 6))
        u, _, v = torch.linalg.svd(self.weight.detach())
        for i in (0, 1):
            self.register_buffer(f"u{i}", u[:, i])
            self.register_buffer(f"v{i}", v[i])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output."""
        w, kind = self.weight, self.kind
        first = self.u0 @ w @ self.v0
        if kind == "second":
            w = w / (self.u1 @ w @ self.v1)
        elif kind == "l1linf":
            w = w / torch.sqrt(w.abs().sum(0).max() * w.abs().sum(1).max())
        elif kind == "frobenius":
            w = w / w.norm()
        elif kind == "mask":
            w = w * self.mask
        elif kind == "lora":
            w = w + 0.5 * self.a @ self.b
        elif kind == "deflation":
            w = w - first * torch.outer(self.u0, self.v0)
        elif kind == "activation":
            return functional.linear(x, w, self.bias) / first
        elif kind == "standard":
            w = (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True) + 1e-5)
        return functional.linear(x, w, self.bias)


def own() -> Iterator[tuple[str, nn.Module, tuple[int, ...], str]]:
    """Yield (name, module, input shape, the form that it is to be found as)."""
    yield "bar_conv", Bar(nn.Conv2d(6, 8, 3)), (2, 6, 9, 9), "spectral-norm-iterated"
    yield "bar_tconv", Bar(nn.ConvTranspose2d(6, 8, 3)), (2, 6, 9, 9), "spectral-norm-iterated"
    yield "bar_linear", Bar(nn.Linear(6, 8)), (2, 6), "spectral-norm-iterated"
    yield "bar_eval", Bar(nn.Linear(6, 8), 0), (2, 6), "spectral-norm"
    yield "biggan_conv", BigGAN("conv"), (2, 6, 9, 9), "spectral-norm-iterated"
    yield "biggan_linear", BigGAN("linear"), (2, 6), "spectral-norm-iterated"
    yield "biggan_k2", BigGAN("conv", itrs=2), (2, 6, 9, 9), "spectral-norm-iterated"
    yield "biggan_svs2", BigGAN("conv", svs=2), (2, 6, 9, 9), "spectral-norm-iterated"
    yield "mmgen_svs2", BigGAN("conv", svs=2, last=True), (2, 6, 9, 9), "normalized-otherwise"
    yield "cap_above", SoftCap(0.9), (2, 6), "spectral-norm"
    yield "cap_below", SoftCap(9.0), (2, 6), "spectral-norm"
    yield "cap_conv_eps", SoftCap(0.95, "conv", 1e-5), (2, 6, 9, 9), "spectral-norm"
    yield "reparam", SigmaReparam(), (2, 6), "spectral-norm"
    yield "reparam_einsum", SigmaReparam(einsum=True), (2, 6), "spectral-norm"
    yield "equalised_sn", EqualisedUnder(), (2, 6, 9, 9), "spectral-norm"
    yield "equalised", EqualisedUnder(False), (2, 6, 9, 9), "computed"
    for kind, form in (("second", "normalized-otherwise"), ("l1linf", "normalized-otherwise")):
        yield kind, Other(kind), (2, 6), form
    for kind in ("frobenius", "mask", "lora", "deflation", "standard"):
        yield kind, Other(kind), (2, 6), "computed"
    yield "activation", Other("activation"), (2, 6), "plain"
    for name, dim in (("wn", 0), ("wn_none", None)):
        yield f"{name}_hook", nn.utils.weight_norm(nn.Conv2d(6, 8, 3), dim=dim), (2, 6, 9, 9), "weight-norm"
        layer: Any = nn.utils.parametrizations.weight_norm(nn.Linear(6, 8), dim=dim)
        yield f"{name}_param", layer, (2, 6), "weight-norm"
