"""`python -m tools.export_spectral FOLDER`: write the exports and, in `expected.json`, what each should be found as.

Needs torch and onnxscript. Each entry: {"file", "form", "exporter", "mode"}; exports that PyTorch can't make are left
out with the exporter's reason on stderr.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tools.export_spectral import layers

EXPORTERS: dict[str, dict[str, Any]] = {
    "dynamo": {"dynamo": True},
    "dynamo_raw": {"dynamo": True, "optimize": False},
    "script": {"dynamo": False},
    "script_unfolded": {"dynamo": False, "do_constant_folding": False},
    "script_inputs": {"dynamo": False, "keep_initializers_as_inputs": True},
}


def write(module: nn.Module, shape: tuple[int, ...], path: Path, exporter: str, train: bool) -> None:
    """Export a module in one mode by one exporter."""
    module.train(train)
    x = torch.randint(0, 5, shape) if isinstance(module, nn.Embedding) else torch.randn(*shape)
    options = dict(EXPORTERS[exporter])
    if not options["dynamo"] and train:
        options["training"] = torch.onnx.TrainingMode.TRAINING
    torch.onnx.export(module, (x,), str(path), input_names=["x"], output_names=["y"], verbose=False, **options)


def cases() -> Any:
    """Yield (name, factory, shape, form in eval, form in train or None)."""
    for layer, (make, shape) in layers.plain().items():
        for api, wrap in layers.apis(layer).items():
            yield (
                f"{layer}-{api}",
                (lambda make=make, wrap=wrap: wrap(make())),
                shape,
                "spectral-norm",
                "spectral-norm-train",
            )
    for name, module, shape, form in layers.own():
        yield name, (lambda module=module: module), shape, form, None


def _wrapped(make: Any, wrap: Any) -> Any:
    return wrap(make())


def main(folder: Path) -> None:
    """Write all exports."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = []
    for name, make, shape, form, train_form in cases():
        for exporter in EXPORTERS:
            for mode, wanted in (("eval", form), ("train", train_form)):
                if wanted is None or (mode == "train" and exporter != "dynamo" and exporter != "dynamo_raw"):
                    continue
                torch.manual_seed(sum(map(ord, name)))
                path = folder / f"{name}-{exporter}-{mode}.onnx"
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        write(make(), shape, path, exporter, mode == "train")
                except Exception as error:
                    print(f"{path.name}: {type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
                    continue
                expected.append({"file": path.name, "form": wanted, "exporter": exporter, "mode": mode})
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
