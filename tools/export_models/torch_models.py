"""Train and export the PyTorch discriminators of models/ (SNGAN, PatchGAN) with both of torch's exporters.

Run through `python -m tools.export_models`, which fixes what must be fixed before Python starts.
"""
# mypy: disallow-subclassing-any=False
# nn.Module is Any where torch is not installed.

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

from tools.export_models.finish import write_model
from tools.export_models.images import CLASSES, fake_images, outlines, real_images

SNGAN_SEED = 20180216
PATCHGAN_SEED = 20161121
STEPS = 60
BATCH = 16

Golden = dict[str, NDArray[np.generic]]
Pair = tuple[Tensor, Tensor]


class ResBlock(nn.Module):
    """Residual block of SNGAN's discriminator; the first one starts without an activation."""

    def __init__(self, channels_in: int, channels: int, *, first: bool = False, down: bool = False) -> None:
        """Make the block; `down` halves the picture's sides."""
        super().__init__()
        self.first, self.down = first, down
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, channels, H, W], or half of H and W, for [N, channels_in, H, W]."""
        h = self.conv2(functional.relu(self.conv1(x if self.first else functional.relu(x))))
        if self.down:
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        return h + self.shortcut(x)


class SNGANDiscriminator(nn.Module):
    """Miyato et al., 2018, https://arxiv.org/abs/1802.05957, table 4 (CIFAR-10), narrower: [N,3,32,32] to [N,1]."""

    def __init__(self, channels: int = 64) -> None:
        """Make it with random weights, as wide as `channels`."""
        super().__init__()
        self.blocks = nn.Sequential(
            ResBlock(3, channels, first=True, down=True),
            ResBlock(channels, channels, down=True),
            ResBlock(channels, channels),
            ResBlock(channels, channels),
        )
        self.dense = nn.Linear(channels, 1)
        for layer in weighted(self):
            nn.init.xavier_uniform_(layer.weight, gain=2**0.5)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, 1] for images [N, 3, 32, 32]."""
        return self.dense(functional.relu(self.blocks(image)).sum(dim=(2, 3)))


class PatchGANDiscriminator(nn.Module):
    """Isola et al., 2016, https://arxiv.org/abs/1611.07004, 70x70 receptive field: [N,6,H,W] to [N,1,H/8-2,W/8-2]."""

    def __init__(self, channels: int = 16) -> None:
        """Make it with random weights, its first layer as wide as `channels`."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(6, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for step, stride in enumerate((2, 2, 1)):
            width = channels * 2**step
            layers += [nn.Conv2d(width, 2 * width, 4, stride, 1), nn.InstanceNorm2d(2 * width), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.Conv2d(8 * channels, 1, 4, 1, 1))
        for layer in weighted(self):
            nn.init.normal_(layer.weight, 0.0, 0.02)

    def forward(self, pair: Tensor) -> Tensor:
        """Return logits [N, 1, H/8-2, W/8-2] for pairs of pictures [N, 6, H, W]."""
        return self.model(pair)


def weighted(model: nn.Module) -> list[nn.Module]:
    """Return the layers that have a weight, in order."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def train(model: nn.Module, batches: Callable[[], Pair], learning_rate: float) -> None:
    """Train by the hinge loss; in training mode spectral norm advances u at each call."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.5, 0.9))
    model.train()
    for _ in range(STEPS):
        real, fake = batches()
        loss = functional.relu(1 - model(real)).mean() + functional.relu(1 + model(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{type(model).__name__}: hinge loss {loss.item():.3f} after {STEPS} steps")
    model.eval()


def to_nchw(images: NDArray[np.float32]) -> Tensor:
    """Return pictures [N, size, size, channels] as a tensor [N, channels, size, size]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def export(model: nn.Module, name: str, x: Tensor, folder: Path, golden: Golden) -> None:
    """Write `<name>.onnx` and `<name>_torchscript.onnx`, and keep the framework's own output."""
    (input_name,) = (key for key in model.forward.__annotations__ if key != "return")
    inputs, outputs = {input_name: x.numpy()}, {"logits": run(model, x)}
    for model_proto, suffix in (
        (export_default(model, x), ""),
        (export_torchscript(model, x, input_name), "_torchscript"),
    ):
        write_model(model_proto, folder / f"{name}{suffix}.onnx", inputs, outputs)
    golden[f"{name}/input/{input_name}"] = inputs[input_name]
    golden[f"{name}/output/logits"] = outputs["logits"]


def export_default(model: nn.Module, x: Tensor) -> onnx.ModelProto:
    """Return what torch's default exporter makes of a model, dynamic batch, opset 18."""
    program = torch.onnx.export(
        model,
        (x,),
        dynamo=True,
        opset_version=18,
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    proto: onnx.ModelProto = program.model_proto
    return proto


def export_torchscript(model: nn.Module, x: Tensor, input_name: str) -> onnx.ModelProto:
    """Return what the TorchScript exporter makes of a model, dynamic batch, opset 17."""
    file = io.BytesIO()
    torch.onnx.export(
        model,
        (x,),
        file,
        dynamo=False,
        opset_version=17,
        input_names=[input_name],
        output_names=["logits"],
        dynamic_axes={input_name: {0: "batch"}, "logits": {0: "batch"}},
    )
    return onnx.load_from_string(file.getvalue())


def run(model: nn.Module, x: Tensor) -> NDArray[np.float32]:
    """Return the logits, float32."""
    with torch.no_grad():
        logits: NDArray[np.float32] = model(x).numpy()
    return logits


def make_sngan(folder: Path, golden: Golden) -> None:
    """Train and write SNGAN's discriminator, plain and with its spectral norm, its u, and its further calls."""
    torch.manual_seed(SNGAN_SEED)
    rng = np.random.default_rng(SNGAN_SEED)
    normalized = SNGANDiscriminator()
    for layer in weighted(normalized):
        spectral_norm(layer)

    def batches() -> Pair:
        labels = rng.integers(0, CLASSES, BATCH)
        return to_nchw(real_images(rng, labels)), to_nchw(fake_images(rng, labels))

    train(normalized, batches, 1e-3)
    state = normalized.state_dict()
    plain = SNGANDiscriminator().eval()
    plain.load_state_dict(
        {key.removesuffix("_orig"): value for key, value in state.items() if not key.endswith(("_u", "_v"))}
    )
    real, fake = batches()
    x = torch.cat((real[:1], fake[:1]))
    export(plain, "torch_sngan_discriminator", x, folder, golden)
    export(normalized, "torch_sngan_spectral_norm", x, folder, golden)
    u = {f"{key.removesuffix('_u')}.u": value.numpy() for key, value in state.items() if key.endswith("_u")}
    (folder / "torch_sngan_discriminator.u.safetensors").write_bytes(save(dict(sorted(u.items()))))
    normalized.train()
    for step in range(1, 11):  # each training-mode call advances every u once
        logits = run(normalized, x)
        if step in (1, 10):
            golden[f"torch_sngan_discriminator/step_{step}/logits"] = logits


def make_patchgan(folder: Path, golden: Golden) -> None:
    """Train and write pix2pix's discriminator."""
    torch.manual_seed(PATCHGAN_SEED)
    rng = np.random.default_rng(PATCHGAN_SEED)
    model = PatchGANDiscriminator()

    def batches() -> Pair:
        labels = rng.integers(0, CLASSES, BATCH)
        real, fake = real_images(rng, labels, 64), fake_images(rng, labels, 64)
        edges = outlines(real)
        return to_nchw(np.concatenate((edges, real), 3)), to_nchw(np.concatenate((edges, fake), 3))

    train(model, batches, 3e-4)
    real, fake = batches()
    export(model, "torch_patchgan_discriminator", torch.cat((real[:1], fake[:1])), folder, golden)


def main(folder: Path) -> None:
    """Make the PyTorch models and golden.npz in `folder`."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    golden: dict[str, Any] = {}  # arrays; to its types savez would take one for its own flag
    make_sngan(folder, golden)
    make_patchgan(folder, golden)
    np.savez(folder / "golden.npz", **golden)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
