"""Options: those that several commands share, alone and in groups."""

import json as jsons
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from sn_graph.choices import ConventionChoice, NormChoice
from sn_graph.cli.declare import Argument, Option
from sn_graph.errors import UsageError

if TYPE_CHECKING:
    from sn_graph.model import Storage
    from sn_graph.plan import PlanOptions

ModelArgument = Annotated[Path, Argument("MODEL", "An ONNX model file.")]
Output = Annotated[
    Path,
    Option(
        "The file to write; may be MODEL itself. Of many models, the folder. - is stdout.",
        "OUT",
        ("--output", "-o"),
        writes=True,
    ),
]
Convention = Annotated[
    ConventionChoice | None,
    Option("The framework whose matrix of a weight is taken. [default: auto, by the model's origin]"),
]
Include = Annotated[
    tuple[str, ...], Option("Only weights in whose name this is found; repeatable. [default: all]", "REGEX")
]
Exclude = Annotated[
    tuple[str, ...], Option("No weights in whose name this is found; repeatable. [default: none]", "REGEX")
]
OpType = Annotated[
    tuple[str, ...],
    Option("Only weights of these operators; repeatable. [default: all but LSTM, GRU, RNN]", "T"),
]
PlanFile = Annotated[
    Path | None,
    Option("Do what this plan says (inspect --plan writes one); other options override it.", "FILE", ("--plan",)),
]
PowerIterations = Annotated[int | None, Option("Iterations of --sigma power. [default: 1]", "K", minimum=1)]
StateFile = Annotated[
    Path | None,
    Option(
        "A safetensors file with the u of each weight that --sigma power starts from. [default: random u]",
        "FILE",
        ("--state",),
    ),
]
Seed = Annotated[int, Option("Of the random u that --sigma power starts from.", "S", minimum=0)]
Bound = Annotated[float | None, Option("The norm that a normalized weight gets. [default: 1.0]", "C")]
Norm = Annotated[
    NormChoice | None,
    Option(
        "The norm: of the weight as a matrix, as Miyato, Keras and PyTorch take it, or of what the node does to its "
        "input (strides, padding, dilation, groups and size counted). [default: matrix]"
    ),
]
Clip = Annotated[
    bool | None,
    Option("Leave weights alone whose norm is at most the bound. [default: no]", flags=("--clip/--no-clip",)),
]
SaveExternal = Annotated[
    bool | None,
    Option(
        "Put tensors into OUT.data, or into OUT itself. [default: as in MODEL]",
        flags=("--save-as-external-data/--save-inline",),
    ),
]
NoVerify = Annotated[bool, Option("Do not verify what was written; needs no onnxruntime.")]
NoSync = Annotated[bool, Option("Do not wait until the disk has OUT; faster, and a power cut may tear it.")]
InputsFile = Annotated[Path | None, Option("Inputs by name, as .npz. [default: random]", "FILE", ("--inputs",))]
Dim = Annotated[
    tuple[str, ...],
    Option("The size of a dynamic dimension. Repeatable. [default: 2, or what fits the weights]", "NAME=N"),
]
DryRun = Annotated[bool, Option("Do and prove everything, and write nothing.")]
Strict = Annotated[
    bool, Option("End with exit code 1, and write nothing, where a weight is skipped that no option chose.")
]
Rtol = Annotated[float | None, Option("Relative tolerance of outputs. [default: by type]", "R", minimum=0)]
Atol = Annotated[float | None, Option("Absolute tolerance of outputs. [default: by type]", "A", minimum=0)]
Force = Annotated[bool, Option("Write OUT even where nothing is to do or the verification fails.")]
Html = Annotated[
    Path | None,
    Option(
        "Write a report to look at, as one web page that needs no network; needs sn-graph[report].", "FILE", writes=True
    ),
]


@dataclass(frozen=True)
class Estimate:
    """How the power iteration starts, and how long it goes on."""

    heading: ClassVar[str] = "The power iteration"

    power_iterations: PowerIterations = None
    seed: Seed = 0
    state: StateFile = None


@dataclass(frozen=True)
class Normalization:
    """Which norm a weight gets, which weights do, and by whose matrices."""

    heading: ClassVar[str] = "What is normalized, and how"

    bound: Bound = None
    clip: Clip = None
    norm: Norm = None
    convention: Convention = None
    include: Include = ()
    exclude: Exclude = ()
    op_type: OpType = ()
    plan: PlanFile = None

    def plan_options(self, estimate: Estimate) -> "PlanOptions":
        """Return them as the API takes them."""
        from sn_graph.plan import PlanOptions

        return PlanOptions(
            plan=self.plan,
            convention=self.convention,
            include=self.include,
            exclude=self.exclude,
            op_types=self.op_type,
            norm=self.norm,
            state=estimate.state,
            power_iterations=estimate.power_iterations,
            bound=self.bound,
            clip=self.clip,
        )


@dataclass(frozen=True)
class Selection:
    """Which weights, and by whose matrices."""

    heading: ClassVar[str] = "Which weights"

    convention: Convention = None
    include: Include = ()
    exclude: Exclude = ()
    op_type: OpType = ()

    def plan_options(self, norm: NormChoice | None, state: Path | None) -> "PlanOptions":
        """Return them as the API takes them, with which norm and from which state."""
        from sn_graph.plan import PlanOptions

        return PlanOptions(
            norm=norm,
            state=state,
            convention=self.convention,
            include=self.include,
            exclude=self.exclude,
            op_types=self.op_type,
        )


@dataclass(frozen=True)
class Tolerances:
    """What outputs may differ by."""

    heading: ClassVar[str] = "Verification"

    rtol: Rtol = None
    atol: Atol = None


@dataclass(frozen=True)
class Runs:
    """What the models are run on to verify OUT."""

    heading: ClassVar[str] = "Verification"

    inputs: InputsFile = None
    dim: Dim = ()


@dataclass(frozen=True)
class Writing:
    """How OUT is written."""

    heading: ClassVar[str] = "The file that is written"

    save_as_external_data: SaveExternal = None
    no_verify: NoVerify = False
    no_sync: NoSync = False
    dry_run: DryRun = False
    strict: Strict = False

    @property
    def sync(self) -> bool:
        """Whether OUT is on the disk before it takes its place."""
        return not self.no_sync

    @property
    def storage(self) -> "Storage":
        """Where the tensors go."""
        return storage_of(self.save_as_external_data)


def require_apart(output: Path, *, data_of: Path | None = None, **inputs: Path | None) -> None:
    """Raise UsageError where a file to be written is one of the files to be read, which would be lost.

    Args:
        output: The file to be written.
        data_of: A model none of whose data files it may be; the model's own file it may.
        **inputs: Files that are read, by what they are.
    """
    from sn_graph.model import data_files, same_file

    files = [(f"the {name.replace('_', ' ')} that is read", path) for name, path in inputs.items()]
    files.append(("the state that the plan names", _state_named_by(inputs.get("plan"))))
    if data_of is not None and os.path.exists(output):
        files += [("the weights that are read", path) for path in data_files(data_of) or ()]
    for name, path in files:
        if path is not None and same_file(output, path):
            raise UsageError(f"{output} would overwrite {name}", do="give another file")


def _state_named_by(plan: Path | None) -> Path | None:
    """Return the state file that a plan names; None where it names none or can't be read, as is said when it is."""
    from sn_graph.model import read_ordinary

    try:
        named = None if plan is None else jsons.loads(read_ordinary(plan)).get("state")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return plan.parent / named if plan is not None and isinstance(named, str) else None


def dimensions(given: Iterable[str]) -> dict[str, int]:
    """Return the sizes of dynamic dimensions that options NAME=N give. Raises UsageError for another form."""
    return dict(_dimension(text) for text in given)


def _dimension(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition("=")
    if not name or not size.isdecimal() or int(size) < 1:
        raise UsageError(f"--dim {text} is not NAME=N with N at least 1")
    return name, int(size)


def storage_of(external: bool | None) -> "Storage":
    """Return what the storage flags ask for."""
    from sn_graph.model import Storage

    if external is None:
        return Storage.KEEP
    return Storage.EXTERNAL if external else Storage.INLINE
