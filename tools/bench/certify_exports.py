"""Networks that libraries of 1-Lipschitz layers export, for the certify benchmark: deel-torchlip and orthogonium."""

import importlib
import io
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import onnx

from tools.bench.certify_nets import Net


def exports() -> list[Net]:
    """Return the networks; making one raises ImportError where its library or torch is missing."""
    return [
        Net("deel-torchlip, dense", None, _deel_dense, 1.0),
        Net("deel-torchlip, convolutional", None, _deel_convolutional, 1.0),
        Net("orthogonium, circular", None, lambda: _orthogonium("circular"), 1.0),
        Net("orthogonium, zero padding", None, lambda: _orthogonium("zeros"), 1.0),
    ]


def _deel_dense() -> onnx.ModelProto:
    def make(nn: Any, lip: Any) -> Any:
        del nn
        sizes = (64, 64, 32, 8)
        layers = [lip.SpectralLinear(a, b) for a, b in pairwise(sizes)]
        return lip.Sequential(layers[0], lip.GroupSort2(), layers[1], lip.GroupSort2(), layers[2])

    return _deel(make, (1, 64))


def _deel_convolutional() -> onnx.ModelProto:
    def make(nn: Any, lip: Any) -> Any:
        first, second = lip.SpectralConv2d(3, 8, 3, padding=1), lip.SpectralConv2d(8, 16, 3, padding=1)
        head = (lip.ScaledL2NormPool2d(2), nn.Flatten(), lip.SpectralLinear(16 * 4 * 4, 10))
        return lip.Sequential(first, lip.GroupSort2(), lip.ScaledAvgPool2d(2), second, lip.GroupSort2(), *head)

    return _deel(make, (1, 3, 16, 16))


def _deel(make: Callable[[Any, Any], Any], shape: tuple[int, ...]) -> onnx.ModelProto:
    """Export what deel-torchlip gives for deployment: plain layers of the normalized weights."""
    torch: Any = importlib.import_module("torch")
    lip: Any = importlib.import_module("deel.torchlip")
    torch.manual_seed(0)
    module = make(torch.nn, lip)
    module(torch.randn(shape))
    return _exported(torch, module.vanilla_export(), shape)


def _orthogonium(padding: str) -> onnx.ModelProto:
    """Export two orthogonal convolutions, the second of stride 2, with their parametrizations taken off."""
    torch: Any = importlib.import_module("torch")
    convolution: Any = importlib.import_module("orthogonium.layers.conv.AOC").AdaptiveOrthoConv2d
    parametrize: Any = importlib.import_module("torch.nn.utils.parametrize")
    torch.manual_seed(0)
    first = convolution(8, 8, 3, padding=1, padding_mode=padding)
    second = convolution(8, 16, 3, stride=2, padding=1, padding_mode=padding)
    module = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    shape = (1, 8, 16, 16)
    module.eval()(torch.randn(shape))
    for part in module.modules():
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    return _exported(torch, module, shape)


def _exported(torch: Any, module: Any, shape: tuple[int, ...]) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(module.eval(), (torch.randn(shape),), buffer, opset_version=17, dynamo=False, input_names=["x"])
    return onnx.load_from_string(buffer.getvalue())
