"""Discriminators of the shapes that public projects have, small: whose layers, whose spectral norm, which outputs.

Written anew from what the projects' papers and sources describe; each says whose shape it has. Imported behind a skip
where torch is not installed.
"""
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hook

Norm = Callable[[nn.Module], nn.Module]


def unit(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Return x / (‖x‖ + eps), as `_bar` wrappers do."""
    return x / (x.norm() + eps)


class Bar(nn.Module):
    """The wrapper of SAGAN's descendants: it iterates in evaluation too, and leaves W/σ as its child's attribute."""

    def __init__(self, module: nn.Module, power_iterations: int = 1, called: bool = False) -> None:
        super().__init__()
        self.module, self.power_iterations, self.called = module, power_iterations, called
        weight = module.weight
        height, width = weight.shape[0], weight.numel() // weight.shape[0]
        module.register_parameter("weight_u", nn.Parameter(unit(torch.randn(height)), requires_grad=False))
        module.register_parameter("weight_v", nn.Parameter(unit(torch.randn(width)), requires_grad=False))
        module.register_parameter("weight_bar", nn.Parameter(weight.data))
        del module._parameters["weight"]

    def _update(self) -> None:
        module = self.module
        u, v, w = module.weight_u, module.weight_v, module.weight_bar
        height = w.data.shape[0]
        for _ in range(self.power_iterations):
            v.data = unit(torch.mv(torch.t(w.view(height, -1).data), u.data))
            u.data = unit(torch.mv(w.view(height, -1).data, v.data))
        sigma = u.dot(w.view(height, -1).mv(v))
        module.weight = w / sigma.expand_as(w)

    def forward(self, *args: Tensor) -> Tensor:
        """Return the child's output."""
        self._update()
        output: Tensor = self.module(*args) if self.called else self.module.forward(*args)
        return output


class Sagan(nn.Module):
    """SAGAN: `_bar` wrappers everywhere, self-attention between."""

    def __init__(self, power_iterations: int = 1, called: bool = False) -> None:
        super().__init__()
        k = power_iterations
        self.l1 = nn.Sequential(Bar(nn.Conv2d(3, 8, 4, 2, 1), k, called), nn.LeakyReLU(0.1))
        self.l2 = nn.Sequential(Bar(nn.Conv2d(8, 16, 4, 2, 1), k, called), nn.LeakyReLU(0.1))
        self.query, self.key = nn.Conv2d(16, 2, 1), nn.Conv2d(16, 2, 1)
        self.value, self.gamma = Bar(nn.Conv2d(16, 16, 1, bias=False), k, called), nn.Parameter(torch.full((1,), 0.3))
        self.last = nn.Sequential(Bar(nn.Conv2d(16, 1, 4), k, called))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score and the attention."""
        x = self.l2(self.l1(x))
        batch, channels, height, width = x.shape
        query = self.query(x).flatten(2).transpose(1, 2)
        attention = torch.softmax(query @ self.key(x).flatten(2), dim=-1)
        value = self.value(x).flatten(2) @ attention.transpose(1, 2)
        x = x + self.gamma * value.view(batch, channels, height, width)
        return self.last(x).squeeze(), attention


class MimicryNorm:
    """mimicry's mixin: sn_u [1, rows]; it iterates in evaluation too, and stores u in training."""

    weight: Any
    training: bool
    register_buffer: Callable[..., None]
    sn_u: Tensor
    sn_sigma: Tensor

    def init_norm(self, rows: int, k: int) -> None:
        """Register the vector."""
        self.k = k
        self.register_buffer("sn_u", torch.randn(1, rows))
        self.register_buffer("sn_sigma", torch.ones(1))

    def normalized(self) -> Tensor:
        """Return W/σ."""
        w = self.weight.view(self.weight.shape[0], -1)
        u = self.sn_u
        with torch.no_grad():
            for _ in range(self.k):
                v = functional.normalize(torch.matmul(u, w))
                u = functional.normalize(torch.matmul(v, w.t()))
        sigma = torch.mm(u, torch.mm(w, v.t()))
        if self.training:
            with torch.no_grad():
                self.sn_sigma[:] = sigma
                self.sn_u[:] = u
        return (w / sigma).view(self.weight.shape)


class MimicryConv(nn.Conv2d, MimicryNorm):
    """A convolution."""

    def __init__(self, *args: Any, k: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.init_norm(self.out_channels, k)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        return functional.conv2d(
            x, self.normalized(), self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups,
        )  # fmt: skip


class MimicryLinear(nn.Linear, MimicryNorm):
    """A dense layer."""

    def __init__(self, *args: Any, k: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.init_norm(self.out_features, k)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        return functional.linear(input=x, weight=self.normalized(), bias=self.bias)


class Residual(nn.Module):
    """A residual block of SNGAN."""

    def __init__(self, before: int, after: int, k: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.c1, self.c2 = MimicryConv(before, after, 3, 1, 1, k=k), MimicryConv(after, after, 3, 1, 1, k=k)
        self.c_sc = MimicryConv(before, after, 1, k=k)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        hidden = self.c2(torch.relu(self.c1(torch.relu(x))))
        shortcut = self.c_sc(x)
        if self.down:
            hidden, shortcut = functional.avg_pool2d(hidden, 2), functional.avg_pool2d(shortcut, 2)
        return hidden + shortcut


class Sngan(nn.Module):
    """SNGAN's ResNet discriminator, with mimicry's classes."""

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.block1, self.block2 = Residual(3, 8, k, down=True), Residual(8, 8, k, down=False)
        self.l5 = MimicryLinear(8, 1, k=k)

    def forward(self, x: Tensor) -> Tensor:
        """Return the score."""
        return self.l5(torch.relu(self.block2(self.block1(x))).sum((2, 3)))


class BigNorm:
    """BigGAN's mixin: rows u0 …, each taken out of the next; `transpose` turns the matrix; evaluation iterates."""

    weight: Any
    training: bool
    register_buffer: Callable[..., None]
    sv0: Tensor

    def init_norm(self, svs: int, itrs: int, outputs: int, transpose: bool = False, eps: float = 1e-12) -> None:
        """Register the vectors."""
        self.svs, self.itrs, self.transpose, self.eps = svs, itrs, transpose, eps
        for number in range(svs):
            self.register_buffer(f"u{number}", torch.randn(1, outputs))
            self.register_buffer(f"sv{number}", torch.ones(1))

    def w_(self) -> Tensor:
        """Return W/σ."""
        matrix = self.weight.view(self.weight.size(0), -1)
        if self.transpose:
            matrix = matrix.t()
        for _ in range(self.itrs):
            us: list[Tensor] = []
            vs: list[Tensor] = []
            svs: list[Tensor] = []
            for number in range(self.svs):
                u = getattr(self, f"u{number}")
                with torch.no_grad():
                    v = functional.normalize(_without(torch.matmul(u, matrix), vs), eps=self.eps)
                    vs.append(v)
                    u = functional.normalize(_without(torch.matmul(v, matrix.t()), us), eps=self.eps)
                    us.append(u)
                    if self.training:
                        getattr(self, f"u{number}")[:] = u
                svs.append(torch.squeeze(torch.matmul(torch.matmul(v, matrix.t()), u.t())))
        if self.training:
            with torch.no_grad():
                self.sv0[:] = svs[0]
        weight: Tensor = self.weight / svs[0]
        return weight


def _without(x: Tensor, others: list[Tensor]) -> Tensor:
    for other in others:
        x = x - torch.mm(x, other.t()) / torch.mm(other, other.t()) * other
    return x


class BigConv(nn.Conv2d, BigNorm):
    """A convolution."""

    def __init__(self, *args: Any, svs: int = 1, itrs: int = 1, eps: float = 1e-12, **options: Any) -> None:
        super().__init__(*args, **options)
        self.init_norm(svs, itrs, self.out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        return functional.conv2d(x, self.w_(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class BigLinear(nn.Linear, BigNorm):
    """A dense layer."""

    def __init__(self, *args: Any, svs: int = 1, itrs: int = 1, eps: float = 1e-12, **options: Any) -> None:
        super().__init__(*args, **options)
        self.init_norm(svs, itrs, self.out_features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        return functional.linear(x, self.w_(), self.bias)


class BigEmbedding(nn.Embedding, BigNorm):
    """A table."""

    def __init__(self, *args: Any, svs: int = 1, itrs: int = 1, eps: float = 1e-12, **options: Any) -> None:
        super().__init__(*args, **options)
        self.init_norm(svs, itrs, self.num_embeddings, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows."""
        return functional.embedding(x, self.w_())


class BigGan(nn.Module):
    """BigGAN's discriminator: residual blocks, projection of a label."""

    def __init__(self, svs: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        own: dict[str, Any] = {"svs": svs, "eps": eps}
        self.first = BigConv(3, 8, 3, padding=1, **own)
        self.second = BigConv(8, 8, 3, padding=1, **own)
        self.shortcut = BigConv(3, 8, 1, **own)
        self.linear = BigLinear(8, 1, **own)
        self.embed = BigEmbedding(10, 8, **own)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the score."""
        h = functional.avg_pool2d(self.second(torch.relu(self.first(x))) + self.shortcut(x), 2)
        h = torch.relu(h).sum((2, 3))
        return self.linear(h) + torch.sum(self.embed(y) * h, 1, keepdim=True)


class UNet(nn.Module):
    """Real-ESRGAN's UNet discriminator: plain stem and head, eight normalized convolutions without bias."""

    def __init__(self, norm: Norm = hook, features: int = 8) -> None:
        super().__init__()
        f = features
        self.conv0 = nn.Conv2d(3, f, 3, 1, 1)
        self.conv1 = norm(nn.Conv2d(f, f * 2, 4, 2, 1, bias=False))
        self.conv2 = norm(nn.Conv2d(f * 2, f * 4, 4, 2, 1, bias=False))
        self.conv3 = norm(nn.Conv2d(f * 4, f * 2, 3, 1, 1, bias=False))
        self.conv4 = norm(nn.Conv2d(f * 2, f, 3, 1, 1, bias=False))
        self.conv5 = norm(nn.Conv2d(f, f, 3, 1, 1, bias=False))
        self.conv6 = nn.Conv2d(f, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each pixel."""
        x0 = functional.leaky_relu(self.conv0(x), 0.2)
        x1 = functional.leaky_relu(self.conv1(x0), 0.2)
        x2 = functional.interpolate(
            functional.leaky_relu(self.conv2(x1), 0.2), scale_factor=2, mode="bilinear", align_corners=False
        )
        x3 = functional.interpolate(
            functional.leaky_relu(self.conv3(x2), 0.2) + x1, scale_factor=2, mode="bilinear", align_corners=False
        )
        x4 = functional.leaky_relu(self.conv4(x3), 0.2) + x0
        return self.conv6(functional.leaky_relu(self.conv5(x4), 0.2))


class Scale(nn.Module):
    """One scale of HiFi-GAN's multi-scale discriminator: grouped convolutions of sound."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                norm(nn.Conv1d(1, 8, 15, 1, padding=7)),
                norm(nn.Conv1d(8, 16, 41, 2, groups=4, padding=20)),
                norm(nn.Conv1d(16, 16, 5, 1, padding=2)),
            ]
        )
        self.post = norm(nn.Conv1d(16, 1, 3, 1, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the scores and the features."""
        features = []
        for conv in self.convs:
            x = functional.leaky_relu(conv(x), 0.1)
            features.append(x)
        x = self.post(x)
        features.append(x)
        return torch.flatten(x, 1, -1), features


class Period(nn.Module):
    """One period of HiFi-GAN's multi-period discriminator."""

    def __init__(self, period: int, norm: Norm) -> None:
        super().__init__()
        self.period = period
        self.convs = nn.ModuleList(
            [norm(nn.Conv2d(1, 8, (5, 1), (3, 1), (2, 0))), norm(nn.Conv2d(8, 8, (5, 1), 1, (2, 0)))]
        )
        self.post = norm(nn.Conv2d(8, 1, (3, 1), 1, (1, 0)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the scores and the features."""
        batch, channels, length = x.shape
        more = -length % self.period
        x = functional.pad(x, (0, more), "reflect").view(batch, channels, (length + more) // self.period, self.period)
        features = []
        for conv in self.convs:
            x = functional.leaky_relu(conv(x), 0.1)
            features.append(x)
        return torch.flatten(self.post(x), 1, -1), features


class HifiGan(nn.Module):
    """HiFi-GAN's discriminators: the first scale is spectrally normalized, all others by weight norm."""

    def __init__(self, norm: Norm = hook) -> None:
        super().__init__()
        other = parametrizations.weight_norm
        self.scales = nn.ModuleList([Scale(norm), Scale(other)])
        self.periods = nn.ModuleList([Period(2, norm), Period(3, other)])
        self.pool = nn.AvgPool1d(4, 2, padding=2)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Return the scores and the features of every discriminator."""
        found = [period(x) for period in self.periods]
        for scale in self.scales:
            found.append(scale(x))
            x = self.pool(x)
        return [one for one, _ in found], [features for _, features in found]


class Spade(nn.Module):
    """SPADE's multi-scale PatchGAN: instance norm behind each normalized convolution, features of every layer."""

    def __init__(self, norm: Norm = hook) -> None:
        super().__init__()

        def patches() -> nn.ModuleList:
            layers = [nn.Sequential(nn.Conv2d(4, 8, 4, 2, 2), nn.LeakyReLU(0.2))]
            for before, after, stride in ((8, 16, 2), (16, 24, 1)):
                conv = norm(nn.Conv2d(before, after, 4, stride, 2, bias=False))
                layers.append(nn.Sequential(nn.Sequential(conv, nn.InstanceNorm2d(after)), nn.LeakyReLU(0.2)))
            return nn.ModuleList([*layers, nn.Sequential(nn.Conv2d(24, 1, 4, 1, 2))])

        self.discriminators = nn.ModuleList([patches(), patches()])

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Return the features of every layer, at two scales."""
        found = []
        for layers in self.discriminators:
            features = [x]
            for layer in layers:
                features.append(layer(features[-1]))
            found.append(features[1:])
            x = functional.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False)
        return found


class SoftCapHook:
    """DUE's hook: W / max(1, σ/c), from stored vectors in evaluation; it iterates in training."""

    def __init__(self, coefficient: float, k: int = 1) -> None:
        self.coefficient, self.k = coefficient, k

    def __call__(self, module: Any, _: Any) -> None:
        """Put the normalized weight in its place."""
        weight, u, v = module.weight_orig, module.weight_u, module.weight_v
        matrix = weight.reshape(weight.size(0), -1)
        if module.training:
            with torch.no_grad():
                for _ in range(self.k):
                    v.copy_(functional.normalize(torch.mv(matrix.t(), u), dim=0))
                    u.copy_(functional.normalize(torch.mv(matrix, v), dim=0))
        sigma = torch.dot(u, torch.mv(matrix, v))
        module.weight = weight / torch.max(torch.ones(1, dtype=weight.dtype), sigma / self.coefficient)

    @classmethod
    def on(cls, module: Any, coefficient: float) -> Any:
        """Normalize a module's weight."""
        weight = module._parameters.pop("weight")
        module.register_parameter("weight_orig", weight)
        rows = weight.shape[0]
        module.register_buffer("weight_u", unit(torch.randn(rows)))
        module.register_buffer("weight_v", unit(torch.randn(weight.numel() // rows)))
        module.weight = weight.data
        module.register_forward_pre_hook(cls(coefficient))
        return module


class Due(nn.Module):
    """DUE's residual features: soft caps above and below σ."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SoftCapHook.on(nn.Conv2d(3, 8, 3, padding=1), 0.4)
        self.second = SoftCapHook.on(nn.Conv2d(8, 8, 3, padding=1), 30.0)
        self.head = SoftCapHook.on(nn.Linear(8, 4), 0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        x = torch.relu(self.first(x))
        return self.head((x + torch.relu(self.second(x))).mean((2, 3)))


def trained(module: nn.Module, args: tuple[Tensor, ...], steps: int = 2) -> nn.Module:
    """Return a module behind some calls in training mode, in evaluation."""
    module.train()
    with torch.no_grad():
        for _ in range(steps):
            module(*args)
    return module.eval()
