"""Commands of a case: each that reads a model, plain or with options that are drawn."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Options = tuple[str, ...]

# Of each command what it may be given beside the model and the output.
_ANYWHERE: tuple[Options, ...] = (
    ("--json",),
    ("--json",),
    ("--verbose",),
    ("--include", "w|k"),
    ("--exclude", "^w"),
    ("--op-type", "LSTM", "--op-type", "GRU", "--op-type", "RNN", "--op-type", "MatMul"),
    ("--convention", "keras"),
    ("--convention", "torch"),
    ("--convention", "torch-parametrization"),
)
_OPTIONS: dict[str, tuple[Options, ...]] = {
    "inspect": (
        *_ANYWHERE,
        ("--norm", "operator"),
        ("--norm", "operator", "--sigma", "upper"),
        ("--sigma", "upper"),
        ("--assert", "sigma <= 1 and stable_rank > 0"),
        ("--against", "CASE"),
        ("--state", "STATE"),
        ("--html", "PAGE"),
    ),
    "fold": (
        *_ANYWHERE,
        ("--sigma", "upper"),
        ("--sigma", "power", "--power-iterations", "3", "--seed", "7"),
        ("--sigma", "power", "--state", "STATE"),
        ("--norm", "operator"),
        ("--norm", "operator", "--sigma", "upper"),
        ("--clip", "--bound", "2"),
        ("--bound", "1e-30"),
        ("--save-as-external-data",),
        ("--force",),
        ("--strict",),
        ("--html", "PAGE"),
        ("--plan", "PLAN"),
    ),
    "insert": (
        *_ANYWHERE,
        ("--state-layout", "per-weight"),
        ("--state-mode", "required"),
        ("--state", "STATE"),
        ("--scale", "weight"),
        ("--norm", "operator"),
        ("--sigma", "exact"),
        ("--sigma", "upper", "--clip", "--bound", "0.5"),
        ("--power-iterations", "3"),
        ("--save-as-external-data",),
        ("--force",),
        ("--plan", "PLAN"),
    ),
    "lift": (
        ("--json",),
        ("--to", "insert"),
        ("--to", "insert", "--state-layout", "per-weight"),
        ("--sigma", "exact"),
        ("--include", "w|k"),
        ("--exclude", "^w"),
    ),
    "strip": (("--json",), ("--verbose",)),
    "verify": (("--json",), ("--steps", "2"), ("--state",), ("--dim", "N=3")),
    "certify": (
        ("--json",),
        ("--json",),
        ("--json",),
        ("--level", "product"),
        ("--level", "fused"),
        ("--level", "lmi"),
        ("--at-most", "10"),
        ("--dim", "N=3"),
        ("--witness", "WITNESS"),
        ("--html", "PAGE"),
    ),
}
_WRITES = frozenset({"fold", "insert", "strip", "lift"})
_PROVES = frozenset({"fold", "insert", "lift"})
BUDGET = 1.0
"""Seconds that certify gets."""


@dataclass(frozen=True)
class Call:
    """A command line.

    Attributes:
        arguments: What follows `sn-graph`.
        runs: Whether onnxruntime runs the model.
        output: The model that is written; None for none.
        reads: The plan and the state that are read.
    """

    arguments: tuple[str, ...]
    runs: bool
    output: Path | None = None
    reads: frozenset[Path] = frozenset()

    @property
    def command(self) -> str:
        """The name of the command."""
        return self.arguments[0]

    @property
    def json(self) -> bool:
        """Whether one JSON object is promised on stdout."""
        return "--json" in self.arguments


def calls(folder: Path, draw: random.Random, prove: bool) -> Iterator[Call]:
    """Yield the calls of the case in `case.onnx` of a folder: each command plain, or with some options in its place.

    Args:
        folder: Where everything is read and written.
        draw: Draws the options, and whether certify is called, which takes longer than all others.
        prove: Whether onnxruntime may run the model: for verify, and for the proofs of what is written.
    """
    plan = folder / "plan.json"
    for command in ("inspect", "fold", "insert", "strip", "lift", "verify", "certify"):
        if (command == "verify" and not prove) or (command == "certify" and draw.random() > (0.4 if prove else 0.04)):
            continue
        options = [*draw.choice(_OPTIONS[command])] if draw.random() < 0.6 else []
        if options and draw.random() < 0.3:
            options += draw.choice(_OPTIONS[command])
        if command == "inspect":
            options += ["--plan", str(plan)]
        if command == "certify":
            options += ["--budget", str(BUDGET)]
        if command in _PROVES and not prove:
            options.append("--no-verify")
        written = folder / "output.onnx" if command in _WRITES else None
        read = {"PLAN": folder / "changed.json", "STATE": folder / "state.safetensors"}
        places = {
            **read,
            "PAGE": folder / "page.html",
            "WITNESS": folder / "pair.npz",
            "CASE": folder / "case.onnx",
        }
        given = [str(places.get(option, option)) for option in options]
        output = () if written is None else ("-o", str(written))
        runs = command in ("verify", "certify") or (command in _PROVES and prove)
        yield Call(
            (command, str(folder / "case.onnx"), *output, *given),
            runs,
            written,
            frozenset(read[one] for one in options if one in read),
        )
