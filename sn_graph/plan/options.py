"""Options: what a plan is made from, as keywords that every function of the API passes on."""

from collections.abc import Sequence
from os import PathLike
from typing import TypedDict

from sn_graph.choices import ConventionChoice, NormChoice
from sn_graph.plan.plan import Plan
from sn_graph.state import StateSource

PathName = str | PathLike[str]


class PlanOptions(TypedDict, total=False):
    """The keywords of `build_plan`; one that is absent or None leaves what the plan or the model says.

    Attributes:
        plan: A plan file, or a Plan of this very model, whose parameters hold where no other keyword is given.
        convention: "auto" (the default), "keras", "torch" or "torch-parametrization".
        include, exclude: Regular expressions, searched in weight names.
        op_types: Only these consumers.
        norm: "matrix" (the default), or "operator" for what the consumers do to their input: strides, padding, dilation
            and groups of convolutions counted, at their input's size.
        state: A safetensors file with the u of each weight, or arrays u [n] by the ids of the weights.
        power_iterations: Iterations of the estimate, or of each run (1).
        bound: The spectral norm that the weights get (1.0).
        clip: Leave weights alone whose norm is at most `bound`.
    """

    plan: PathName | Plan | None
    convention: ConventionChoice | None
    include: Sequence[str]
    exclude: Sequence[str]
    op_types: Sequence[str]
    norm: NormChoice | None
    state: StateSource | None
    power_iterations: int | None
    bound: float | None
    clip: bool | None
