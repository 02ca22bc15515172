"""Random networks, exported by PyTorch and put to every command; judged by PyTorch, onnxruntime and SVD.

    python -m tools.lift_trials --trials 300 --seed 0              # some 5 s a trial; needs torch and onnxscript
    python -m tools.lift_trials --trials 1 --seed 217 --keep out   # one again, with its files

A trial draws a network (dense, or convolutions over one to three axes; transposed, grouped, dilated; sides of 1 and
sides beyond what exporters fold), for each layer a way to normalize it, and an exporter. Judged is:

    inspect     each weight that is computed has the form and the σ that the module's own buffers give; none is invented
    lift        the outputs of onnxruntime, and the weights, are the export's; no normalization is left
    exact       the SVD of each weight that was lifted is 1, or the cap
    insert      outputs of four runs are those of the module in training mode
    strip       gives W itself back
    verify      agrees about the lifted file
    refused     fold and insert of the export itself end with 3 and write nothing where a chain is left

Ends with 1 where a judge disagrees; prints how many of each agreed.
"""
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import json
import logging
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hook

import sn_graph as sn
from sn_graph.cli.app import COMMANDS, app
from tools.export_spectral.layers import Bar

Array = NDArray[np.float64]
EXPORTERS: dict[str, dict[str, Any]] = {
    "dynamo": {"dynamo": True},
    "dynamo_raw": {"dynamo": True, "optimize": False},
    "script": {"dynamo": False},
    "script_unfolded": {"dynamo": False, "do_constant_folding": False},
}
WAYS = ("hook", "hook", "parametrization", "parametrization", "bar", "cap", "weight norm", "plain")
SLOTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "Gather": 0}
FORMS = {"bar": "spectral-norm-iterated", "weight norm": "weight-norm"}
CLOSE = 1e-6  # of the largest value
STEPS = 4


@dataclass
class Layer:
    """A layer of a drawn network: how it is normalized, and what is known of it."""

    module: Any
    way: str
    dim: int
    k: int
    cap: float

    def weight(self) -> Array:
        """Return W."""
        if self.way == "parametrization":
            return _array(self.module.parametrizations.weight.original)
        if self.way == "bar":
            return _array(self.module.weight_bar)
        return _array(self.module.weight_orig if self.way in ("hook", "cap") else self.module.weight)

    def matrix(self, weight: Array) -> Array:
        """Return M of a weight."""
        return np.moveaxis(weight, self.dim, 0).reshape(weight.shape[self.dim], -1)

    def _iterated(self) -> tuple[Array, Array]:
        """Return u and v of a `_bar` wrapper after its iterations."""
        matrix, u = self.matrix(self.weight()), _array(self.module.u)
        for _ in range(self.k):
            v = _unit(matrix.T @ u)
            u = _unit(matrix @ v)
        return u, v

    def advance(self) -> None:
        """Store the u of a `_bar` wrapper, which this class of it leaves to its caller."""
        with torch.no_grad():
            self.module.u.copy_(torch.from_numpy(self._iterated()[0]))

    def sigma(self) -> float:
        """Return what evaluation takes for σ."""
        matrix = self.matrix(self.weight())
        if self.way == "bar":
            u, v = self._iterated()
        elif self.way == "parametrization":
            own = self.module.parametrizations.weight[0]
            u, v = _array(own._u), _array(own._v)
        else:
            u, v = _array(self.module.weight_u), _array(self.module.weight_v)
        return float(u @ matrix @ v)

    def normalized(self) -> Array:
        """Return what evaluation computes with."""
        if self.way == "weight norm":
            return _array(self.module.weight)
        if self.way == "plain":
            return self.weight()
        return self.weight() / (max(1.0, self.sigma() / self.cap) if self.way == "cap" else self.sigma())


def _array(tensor: Any) -> Array:
    return np.array(tensor.detach().double().numpy())


def _unit(x: Array) -> Array:
    shortened: Array = x / max(float(np.linalg.norm(x)), 1e-12)
    return shortened


class SoftCap:
    """A hook: W / max(1, σ/c); it iterates in training."""

    def __init__(self, cap: float, k: int) -> None:
        self.cap, self.k = cap, k

    def __call__(self, module: Any, _: Any) -> None:
        """Put the normalized weight in its place."""
        weight, u, v = module.weight_orig, module.weight_u, module.weight_v
        matrix = weight.flatten(1)
        if module.training:
            with torch.no_grad():
                for _ in range(self.k):
                    v.copy_(nn.functional.normalize(torch.mv(matrix.t(), u), dim=0))
                    u.copy_(nn.functional.normalize(torch.mv(matrix, v), dim=0))
        sigma = torch.dot(u, torch.mv(matrix, v))
        module.weight = weight / torch.max(torch.ones(1), sigma / self.cap)


class Network(nn.Module):
    """A drawn network."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.axes = int(rng.integers(0, 4))
        self.k = int(rng.choice([1, 1, 2, 3]))  # one for all, because an export in eval does not tell of it
        self.known: list[Layer] = []
        body: list[Any] = []
        channels = self.channels = int(rng.choice([1, 3, 4, 6]))
        for place in range(int(rng.integers(1, 4))):
            large = rng.random() < 0.3
            after = int(rng.choice([64, 96] if large else [1, 2, 5, 8, 12]))
            made, dim = self._layer(rng, channels, after)
            body.append(self._normalized(rng, made, dim))
            if rng.random() < 0.15 and self.axes and place:
                body.append((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[self.axes - 1](after))
            body.append(nn.LeakyReLU(0.2) if rng.random() < 0.7 else nn.Tanh())
            channels = after
        self.body = nn.Sequential(*body)
        self.head = self._normalized(rng, nn.Linear(channels, int(rng.choice([1, 3, 100]))), 0)
        self.pooled = self.axes > 0 and rng.random() < 0.8

    def _layer(self, rng: np.random.Generator, before: int, after: int) -> tuple[Any, int]:
        if not self.axes:
            return nn.Linear(before, after, bias=rng.random() < 0.7), 0
        options: dict[str, Any] = {"bias": rng.random() < 0.7, "stride": int(rng.integers(1, 3))}
        size = int(rng.integers(1, 4))
        common = [n for n in range(1, min(before, after) + 1) if before % n == 0 and after % n == 0]
        if rng.random() < 0.2:
            options["groups"] = int(rng.choice(common))
        if rng.random() < 0.25:
            kind: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[self.axes - 1]
            return kind(before, after, size, **options), 1
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.axes - 1]
        return kind(before, after, size, padding=size, dilation=int(rng.integers(1, 3)), **options), 0

    def _normalized(self, rng: np.random.Generator, layer: Any, dim: int) -> Any:
        way, k = str(rng.choice(WAYS)), self.k
        simple = getattr(layer, "stride", (1,)) == (1,) * max(1, self.axes) and getattr(layer, "groups", 1) == 1
        if way == "bar" and not (isinstance(layer, nn.Linear) or (self.axes == 2 and simple)):
            way = "hook"  # the wrapper passes no options on
        if way == "bar" and getattr(layer, "dilation", (1,)) not in ((1,), (1, 1)):
            way = "hook"
        if way == "bar" and isinstance(layer, nn.Conv2d):
            layer.padding = (0, 0)
        cap = float(rng.choice([0.5, 1.0, 20.0]))
        if way in ("hook", "parametrization") and rng.random() < 0.2:
            dim = int(rng.integers(0, layer.weight.ndim))
        if way == "hook":
            made = hook(layer, n_power_iterations=k, dim=dim)
        elif way == "parametrization":
            made = parametrizations.spectral_norm(layer, n_power_iterations=k, dim=dim)
        elif way == "weight norm":
            made = parametrizations.weight_norm(layer) if rng.random() < 0.5 else nn.utils.weight_norm(layer)
        elif way == "bar":
            k = int(rng.integers(1, 4))  # which it iterates in eval too, so that its export tells of it
            made, dim = Bar(layer, k), 0
        elif way == "cap":
            made, dim = _capped(layer, SoftCap(cap, k)), 0
        else:
            made = layer
        self.known.append(Layer(made, way, dim, k, cap))
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        x = self.body(x)
        if self.axes:
            x = x.flatten(2).mean(2) if self.pooled else x.flatten(2).transpose(1, 2)
        return self.head(x)


def _capped(layer: Any, cap: SoftCap) -> Any:
    weight = layer._parameters.pop("weight")
    layer.register_parameter("weight_orig", weight)
    layer.register_buffer("weight_u", nn.functional.normalize(torch.randn(weight.shape[0]), dim=0))
    layer.register_buffer("weight_v", nn.functional.normalize(torch.randn(weight.numel() // weight.shape[0]), dim=0))
    layer.weight = weight.data
    layer.register_forward_pre_hook(cap)
    return layer


def _training(module: Network) -> None:
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()


class Trial:
    """One network, one export, all commands."""

    def __init__(self, seed: int, folder: Path) -> None:
        rng = np.random.default_rng([16, seed])
        torch.manual_seed(seed)
        self.folder, self.export = folder, folder / "export.onnx"
        self.module = Network(rng)
        shape = (2, self.module.channels, *(int(n) for n in rng.integers(9, 14, self.module.axes)))
        self.x = torch.randn(shape)
        _training(self.module)
        with torch.no_grad():
            for _ in range(int(rng.integers(1, 6))):  # from hardly moved vectors to better ones
                self.module(self.x)
        self.module.eval()
        ways = {one.way for one in self.module.known}
        allowed = [name for name in EXPORTERS if name.startswith("dynamo") or "parametrization" not in ways]
        self.exporter = str(rng.choice(allowed))
        self.train = self.exporter.startswith("dynamo") and not ways & {"bar", "cap"} and rng.random() < 0.3
        self.verdicts: list[tuple[str, str]] = []

    def name(self) -> str:
        """Say what it is."""
        layers = ", ".join(
            f"{one.way} {'×'.join(map(str, one.weight().shape))} dim {one.dim} k {one.k}" for one in self.module.known
        )
        return f"{self.exporter} {'train' if self.train else 'eval'}: {layers}"

    def run(self) -> None:
        """Export the network and put it to all commands."""
        module = copy.deepcopy(self.module) if self.module.known else self.module
        try:
            _exported(module, self.x, self.export, EXPORTERS[self.exporter], self.train)
        except Exception as error:
            self.tell("export", f"not exported: {type(error).__name__}")
            return
        try:
            self.wanted = _run(self.export, self.x)
        except Exception as error:
            self.tell("export", f"not run: {str(error)[-120:]}")
            return
        self.slots = dict(computed_slots(self.export))
        self.inspected()
        self.lifted()
        self.exact()
        self.inserted()
        self.refused()

    def tell(self, what: str, wrong: str | None) -> None:
        """Keep a verdict: None where all agreed, else what is wrong, or why nothing was judged."""
        self.verdicts.append((what, wrong or "right"))

    def command(self, *arguments: object) -> tuple[int, str, str]:
        """Run a command; return its exit code, stdout and stderr."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                app([str(one) for one in arguments], prog_name="sn-graph")
            except SystemExit as end:
                code = int(end.code or 0)
        return code, out.getvalue(), err.getvalue()

    def layer_of(self, array: NDArray[Any]) -> Layer | None:
        """Return the layer whose weight has these numbers, in any order and by any factor."""
        for one in sorted(self.module.known, key=lambda one: one.way == "plain"):  # which of two numbers, if 1×1
            weight = one.weight() if one.way != "weight norm" else one.normalized()
            if weight.size == array.size:
                left, right = _sorted(array), _sorted(weight)
                if np.abs(left - right).max() <= 1e-5 or np.abs(left + right[::-1]).max() <= 1e-5:
                    return one
        return None

    def inspected(self) -> None:
        """Judge inspect."""
        code, out, err = self.command("inspect", self.export, "--json")
        if code:
            self.tell("inspect", f"exit {code}: {err.strip()}")
            return
        sites = {site["weight"]: site for site in json.loads(out)["sites"]}
        self.forms = {name: site["form"] for name, site in sites.items()}
        wrong = [f"{name} is computed and no site" for name in self.slots if name not in sites]
        for name, site in sites.items():
            form = site["form"]
            if name not in self.slots:
                if form not in (None, "folded-by-exporter"):
                    wrong.append(f"{name} is stored and called {form}")
                continue
            layer = self.layer_of(self.slots[name])
            if layer is None:  # scaled by channel, or two things in one
                continue
            spectral = "spectral-norm-train" if self.train else "spectral-norm"
            wanted = FORMS.get(layer.way, spectral) if layer.way != "plain" else "computed"
            if form != wanted:
                wrong.append(f"{name} is {wanted} and called {form}")
            elif not self.train and form != "weight-norm":
                sigma, exact = layer.sigma(), float(np.linalg.norm(layer.matrix(layer.weight()), 2))
                largest = max(abs(sigma), 1e-2 * exact)  # a σ of a bad u cancels in float32
                if not abs(site["sigma_graph"] - sigma) <= CLOSE * largest:
                    wrong.append(f"{name}: σ {site['sigma_graph']} in the graph, {sigma} by the module")
                if not abs(site["sigma"] - exact) <= CLOSE * exact:
                    wrong.append(f"{name}: σ {site['sigma']} exact, {exact} by SVD")
        self.tell("inspect", "; ".join(wrong) or None)

    def lifted(self) -> None:
        """Judge lift --to fold, and verify of what it made."""
        path = self.folder / "lifted.onnx"
        code, out, err = self.command("lift", self.export, "-o", path, "--json")
        if code:
            self.tell("lift", f"exit {code}: {err.strip()}")
            return
        wrong = _differs(_run(path, self.x), self.wanted)
        left = dict(computed_slots(path))
        for name, array in left.items():
            layer = self.layer_of(array)
            if layer is not None and layer.way != "plain":
                wrong = f"{name} is still computed"
        # Ours alone tells which stored weight was which computed one; so all are looked for among the stored.
        stored = [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
        for name, array in self.slots.items():
            if name not in left and not any(_alike(array, one) for one in stored):
                wrong = f"what {name} computed is not stored"
        self.tell("lift", wrong)
        if any(site["status"] == "lifted" for site in json.loads(out)["sites"]):
            code, out, err = self.command("verify", self.export, path, "--json", "--steps", 2)
            self.tell("verify", None if code == 0 else f"exit {code}: {err.strip() or out.strip()[:200]}")

    def exact(self) -> None:
        """Judge lift --sigma exact."""
        path = self.folder / "exact.onnx"
        code, _, err = self.command("lift", self.export, "-o", path, "--sigma", "exact")
        if code:
            self.tell("exact", f"exit {code}: {err.strip()}")
            return
        wrong = []
        before = {one.name for one in onnx.load(self.export).graph.initializer}
        for tensor in onnx.load(path).graph.initializer:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            layer = self.layer_of(array) if array.ndim > 1 and tensor.name not in before else None
            if layer is None or layer.way not in ("hook", "parametrization", "bar", "cap"):
                continue
            weight = layer.weight()
            shaped = array if array.shape == weight.shape else array.T if array.shape == weight.T.shape else None
            if shaped is None:
                continue
            norm, full = (float(np.linalg.norm(layer.matrix(one), 2)) for one in (shaped, weight))
            wanted = min(full, layer.cap) if layer.way == "cap" else 1.0
            if abs(norm - wanted) > 2e-6 * wanted:
                wrong.append(f"{tensor.name} has norm {norm}, not {wanted}")
        self.tell("exact", "; ".join(wrong) or None)

    def inserted(self) -> None:
        """Judge lift --to insert, and strip of what it made."""
        path, back = self.folder / "inserted.onnx", self.folder / "stripped.onnx"
        code, out, err = self.command("lift", self.export, "-o", path, "--to", "insert", "--json", *self.options())
        if code:
            self.tell("insert", f"exit {code}: {err.strip()}")
            return
        sites = [site for site in json.loads(out)["sites"] if site["status"] in ("lifted", "inserted")]
        if not sites:
            self.tell("insert", "nothing to insert")
            return
        spectral = [one for one in self.module.known if one.way not in ("plain", "weight norm")]
        if len(sites) < len(spectral):
            self.tell("insert", "some were folded by the exporter, or scaled by channel")
        else:
            self.tell("insert", self._runs(path))
        code, _, err = self.command("strip", path, "-o", back)
        if code:
            self.tell("strip", f"exit {code}: {err.strip()}")
            return
        stored = [numpy_helper.to_array(one) for one in onnx.load(back).graph.initializer]
        wrong = None
        for name, array in self.slots.items():
            layer = self.layer_of(array)
            if layer in spectral and layer is not None and self.forms.get(name, "").startswith("spectral-norm"):
                whole = layer.weight()
                factors = (1.0, 1.0 / layer.cap) if layer.way == "cap" else (1.0,)
                if not any(_alike(whole * factor, one) for one in stored for factor in factors):
                    wrong = f"W of {name} is not in the stripped file"
        self.tell("strip", wrong)

    def options(self) -> tuple[object, ...]:
        """Return what the export does not tell."""
        return () if self.train else ("--power-iterations", self.module.k)

    def _runs(self, path: Path) -> str | None:
        session = sn.StatefulSession(path)
        (given,) = session.get_inputs()
        module = copy.deepcopy(self.module)
        _training(module)
        for step in range(STEPS):
            x = torch.randn(self.x.shape, generator=torch.Generator().manual_seed(step))
            with torch.no_grad():
                wanted = module(x).numpy()
            for one in module.known:
                if one.way == "bar":
                    one.advance()
            (found,) = session.run(None, {given.name: x.numpy()})
            wrong = _differs(found, wanted, 1e-5)
            if wrong:
                return f"run {step}: {wrong}"
        return None

    def refused(self) -> None:
        """Judge fold and insert of the export itself."""
        chains = any((form or "").startswith("spectral-norm") for form in self.forms.values())
        for name in ("fold", "insert"):
            path = self.folder / f"{name}.onnx"
            code, _, err = self.command(name, self.export, "-o", path)
            if chains and (code != 3 or path.exists()):
                self.tell("refused", f"{name} of a file with chains ends with {code}")
            elif code not in (0, 3):
                self.tell("refused", f"{name} ends with {code}: {err.strip()}")
            else:
                self.tell("refused" if chains else name, None)


def _exported(module: Any, x: Any, path: Path, options: dict[str, Any], train: bool) -> None:
    module.train(train)
    if train:
        _training(module)
    more = {} if options["dynamo"] else {"training": torch.onnx.TrainingMode.EVAL}
    sizes = torch.export.Dim.DYNAMIC if options["dynamo"] else None
    if sizes is not None and not train:
        more["dynamic_shapes"] = ({0: sizes},)
    torch.onnx.export(
        module, (x,), str(path), input_names=["x"], output_names=["y"], verbose=False, external_data=False,
        **options, **more,
    )  # fmt: skip


def computed_slots(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the weight inputs that a main graph computes of constants alone, with their values by onnxruntime."""
    proto = onnx.load(path)
    graph = proto.graph
    given = {one.name for one in graph.input} - {one.name for one in graph.initializer}
    stored = {one.name for one in graph.initializer}
    stored |= {one.output[0] for one in graph.node if one.op_type == "Constant"}
    makers = {name: node for node in graph.node for name in node.output}
    fixed: dict[str, bool] = dict.fromkeys(given, False)
    for node in graph.node:
        still = bool(node.op_type != "Constant" and node.input) and all(fixed.get(name, True) for name in node.input)
        fixed |= dict.fromkeys(node.output, still or node.op_type == "Constant")
    wanted = []
    for node in graph.node:
        place = SLOTS.get(node.op_type)
        if place is None or fixed[node.output[0]] or len(node.input) <= place:
            continue
        name = node.input[place]
        plain = name
        while plain in makers and makers[plain].op_type in ("Identity", "Transpose", "Reshape"):
            plain = makers[plain].input[0]
        if fixed.get(name, True) and plain not in stored:
            wanted.append(name)
    if not wanted:
        return
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(wanted))
    for name in [one.name for one in graph.input if one.name in given]:
        readers = [node for node in graph.node if name in node.input]
        assert readers, "an input that nothing reads"
    session = _session(onnx.utils.Extractor(proto).extract_model([], list(dict.fromkeys(wanted))).SerializeToString())
    yield from zip(dict.fromkeys(wanted), session.run(None, {}), strict=True)


def _session(model: str | bytes) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(path: Path, x: Any) -> NDArray[Any]:
    (found,) = _session(str(path)).run(None, {"x": x.numpy()})
    return np.asarray(found)


def _differs(found: NDArray[Any], wanted: NDArray[Any], close: float = CLOSE) -> str | None:
    if found.shape != wanted.shape:
        return f"shape {found.shape}, not {wanted.shape}"
    far = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    return None if far <= close else f"outputs differ by {far:.2g} of the largest"


def _sorted(array: NDArray[Any]) -> Array:
    flat = np.sort(array.astype(np.float64).reshape(-1))
    shortened: Array = flat / np.linalg.norm(flat)
    return shortened


def _alike(array: NDArray[Any], other: NDArray[Any]) -> bool:
    if array.size != other.size or other.dtype.kind != "f":
        return False
    left, right = np.sort(array.reshape(-1)), np.sort(other.reshape(-1))
    return bool(np.abs(left - right).max(initial=0.0) <= 2e-6 * np.abs(left).max(initial=0.0))


UNJUDGED = ("not exported", "not run", "nothing to insert", "some were folded")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials; return the exit code."""
    parser = argparse.ArgumentParser(prog="lift_trials", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; the next ones follow")
    parser.add_argument("--keep", type=Path, help="a folder for the files")
    options = parser.parse_args(arguments)
    for names in COMMANDS.values():
        for name in names:
            importlib.import_module(f"sn_graph.cli.{name.replace('-', '_')}")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    counts: Counter[tuple[str, str]] = Counter()
    for seed in range(options.seed, options.seed + options.trials):
        with _folder(options.keep, seed) as folder:
            trial = Trial(seed, folder)
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                try:
                    trial.run()
                except Exception as error:
                    trial.tell("trial", f"{type(error).__name__}: {str(error)[-200:]}")
        for what, verdict in trial.verdicts:
            kept = next((one for one in UNJUDGED if verdict.startswith(one)), None)
            bad = verdict != "right" and kept is None
            counts[what, "wrong" if bad else "unjudged" if kept else "right"] += 1
            counts[trial.exporter + (" train" if trial.train else ""), "exports"] += what == "inspect"
            if bad:
                print(f"seed {seed}: {what}: {verdict}\n    {trial.name()}", flush=True)
    for (what, verdict), count in sorted(counts.items()):
        print(f"{what:20} {verdict:10} {count}")
    return int(any(verdict == "wrong" for _, verdict in counts))


@contextlib.contextmanager
def _folder(keep: Path | None, seed: int) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        (keep / str(seed)).mkdir(parents=True, exist_ok=True)
        yield keep / str(seed)


if __name__ == "__main__":
    sys.exit(main())
