"""Options: those that several commands share, alone and in groups."""

import json as jsons
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sn_graph.errors import UsageError
from sn_graph.model import Storage, data_files, same_file
from sn_graph.plan import PlanOptions


class ConventionChoice(StrEnum):
    """The values of --convention: "auto", and those of `sites.Convention`."""

    AUTO = "auto"
    KERAS = "keras"
    TORCH = "torch"
    TORCH_PARAMETRIZATION = "torch-parametrization"


class NormChoice(StrEnum):
    """The values of --norm: those of `plan.NORMS`."""

    MATRIX = "matrix"
    OPERATOR = "operator"


ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An ONNX model file.", show_default=False, readable=False)
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="The file to write; may be MODEL itself.",
        show_default=False,
        readable=False,
    ),
]
Convention = Annotated[
    ConventionChoice | None,
    typer.Option(
        help="The framework whose matrix of a weight is taken. [default: auto, by the model's origin]",
        show_default=False,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="REGEX", help="Only weights in whose name this is found; repeatable. [default: all]", show_default=False
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="REGEX", help="No weights in whose name this is found; repeatable. [default: none]", show_default=False
    ),
]
OpType = Annotated[
    list[str] | None,
    typer.Option(
        metavar="T",
        help="Only weights of these operators; repeatable. [default: all but LSTM, GRU, RNN]",
        show_default=False,
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="Do what this plan says (inspect --plan writes one); other options override it.",
        show_default=False,
        readable=False,
    ),
]
PowerIterations = Annotated[
    int | None, typer.Option(metavar="K", min=1, help="Iterations of --sigma power. [default: 1]", show_default=False)
]
StateFile = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        help="A safetensors file with the u of each weight that --sigma power starts from. [default: random u]",
        show_default=False,
        readable=False,
    ),
]
Seed = Annotated[int, typer.Option(metavar="S", min=0, help="Of the random u that --sigma power starts from.")]
Bound = Annotated[
    float | None,
    typer.Option(metavar="C", help="The norm that a normalized weight gets. [default: 1.0]", show_default=False),
]
Norm = Annotated[
    NormChoice | None,
    typer.Option(
        help="The norm: of the weight as a matrix, as Miyato, Keras and PyTorch take it, or of what the node does to "
        "its input (strides, padding, dilation, groups and size counted). [default: matrix]",
        show_default=False,
    ),
]
Clip = Annotated[
    bool | None,
    typer.Option(
        "--clip/--no-clip",
        help="Leave weights alone whose norm is at most the bound. [default: no]",
        show_default=False,
    ),
]
SaveExternal = Annotated[
    bool | None,
    typer.Option(
        "--save-as-external-data/--save-inline",
        help="Put tensors into OUT.data, or into OUT itself. [default: as in MODEL]",
        show_default=False,
    ),
]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Do not verify what was written; needs no onnxruntime.")]
NoSync = Annotated[
    bool, typer.Option("--no-sync", help="Do not wait until the disk has OUT; faster, and a power cut may tear it.")
]
Rtol = Annotated[
    float | None,
    typer.Option(metavar="R", min=0, help="Relative tolerance of outputs. [default: by type]", show_default=False),
]
Atol = Annotated[
    float | None,
    typer.Option(metavar="A", min=0, help="Absolute tolerance of outputs. [default: by type]", show_default=False),
]
Force = Annotated[
    bool, typer.Option("--force", help="Write OUT even where nothing is to do or the verification fails.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


@dataclass(frozen=True)
class Estimate:
    """How the power iteration starts, and how long it goes on."""

    power_iterations: PowerIterations = None
    seed: Seed = 0
    state: StateFile = None


@dataclass(frozen=True)
class Normalization:
    """Which norm a weight gets, which weights do, and by whose matrices."""

    bound: Bound = None
    clip: Clip = None
    norm: Norm = None
    convention: Convention = None
    include: Include = None
    exclude: Exclude = None
    op_type: OpType = None
    plan: PlanFile = None

    def plan_options(self, estimate: Estimate) -> PlanOptions:
        """Return them as the API takes them."""
        return PlanOptions(
            plan=self.plan,
            convention=self.convention,
            include=self.include or (),
            exclude=self.exclude or (),
            op_types=self.op_type or (),
            norm=self.norm,
            state=estimate.state,
            power_iterations=estimate.power_iterations,
            bound=self.bound,
            clip=self.clip,
        )


@dataclass(frozen=True)
class Selection:
    """Which weights, and by whose matrices."""

    convention: Convention = None
    include: Include = None
    exclude: Exclude = None
    op_type: OpType = None

    def plan_options(self, norm: NormChoice | None, state: Path | None) -> PlanOptions:
        """Return them as the API takes them, with which norm and from which state."""
        return PlanOptions(
            norm=norm,
            state=state,
            convention=self.convention,
            include=self.include or (),
            exclude=self.exclude or (),
            op_types=self.op_type or (),
        )


@dataclass(frozen=True)
class Tolerances:
    """What outputs may differ by."""

    rtol: Rtol = None
    atol: Atol = None


@dataclass(frozen=True)
class Writing:
    """How OUT is written."""

    save_as_external_data: SaveExternal = None
    no_verify: NoVerify = False
    no_sync: NoSync = False

    @property
    def sync(self) -> bool:
        """Whether OUT is on the disk before it takes its place."""
        return not self.no_sync

    @property
    def storage(self) -> Storage:
        """Where the tensors go."""
        return storage_of(self.save_as_external_data)


def require_apart(output: Path, *, data_of: Path | None = None, **inputs: Path | None) -> None:
    """Raise UsageError where a file to be written is one of the files to be read, which would be lost.

    Args:
        output: The file to be written.
        data_of: A model none of whose data files it may be; the model's own file it may.
        **inputs: Files that are read, by what they are.
    """
    files = [(f"the {name.replace('_', ' ')} that is read", path) for name, path in inputs.items()]
    files.append(("the state that the plan names", _state_named_by(inputs.get("plan"))))
    if data_of is not None and output.exists():
        files += [("the weights that are read", path) for path in data_files(data_of) or ()]
    for name, path in files:
        if path is not None and same_file(output, path):
            raise UsageError(f"{output} would overwrite {name}", do="give another file")


def _state_named_by(plan: Path | None) -> Path | None:
    """Return the state file that a plan names; None where it names none or can't be read, as is said when it is."""
    try:
        named = None if plan is None else jsons.loads(plan.read_bytes()).get("state")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return plan.parent / named if plan is not None and isinstance(named, str) else None


def storage_of(external: bool | None) -> Storage:
    """Return what the storage flags ask for."""
    if external is None:
        return Storage.KEEP
    return Storage.EXTERNAL if external else Storage.INLINE
