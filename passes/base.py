"""What a pass is: a name, options, and `apply(model, plan) -> PassResult`.

Third parties register theirs under the entry point group `sn_graph.passes`.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, TypeVar

import onnx

from sn_graph.errors import UsageError
from sn_graph.model import Model, Storage
from sn_graph.plan import Plan
from sn_graph.progress import Progress, silent
from sn_graph.report import Report, SiteRecord

Options = TypeVar("Options")


@dataclass(frozen=True)
class Rescaled:
    """One tensor that a pass multiplied by a number.

    Attributes:
        scope, name: The tensor of the result: the scope's path, and the initializer or the Constant node's output.
        original: The name of the tensor in the source whose elements it holds times `factor`.
        factor: The number.
    """

    scope: str
    name: str
    original: str
    factor: float


@dataclass(frozen=True)
class PassResult:
    """A changed model and what was done.

    Attributes:
        model: The result; nothing is written yet.
        plan: What was asked for.
        sites: One record a weight, in graph order.
        rescaled: The tensors that were multiplied, for whoever wants to check.
    """

    model: Model
    plan: Plan
    sites: tuple[SiteRecord, ...]
    rescaled: tuple[Rescaled, ...] = ()

    @property
    def report(self) -> Report:
        """The result as `--json` prints it, before anything is written."""
        opset = {entry.domain: entry.version for entry in self.model.proto.opset_import}
        return Report.of(self.model.name, opset, self.plan, self.sites)

    def save(self, path: str | os.PathLike[str], storage: Storage = Storage.KEEP, progress: Progress = silent) -> None:
        """Write the model to `path`, atomically, without running it; see `sn_graph.runtime.save_verified`."""
        self.model.save(path, storage, progress)

    def to_proto(self) -> onnx.ModelProto:
        """Return the complete ModelProto."""
        return self.model.to_proto()


class Pass(ABC, Generic[Options]):
    """A transformation of a model by a plan. Subclasses set `name` and say in their docstring what stays as it was."""

    name: ClassVar[str]

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> PassResult:
        """Change `model` in place as `plan` says, and report on every site of the plan."""


def load_pass(name: str) -> type[Pass[Any]]:
    """Return a registered pass. Raises UsageError where no package offers one of that name."""
    found = entry_points(group="sn_graph.passes")
    for entry in found:
        if entry.name == name:
            loaded: type[Pass[Any]] = entry.load()
            return loaded
    raise UsageError(f"no pass '{name}' is installed; there are: {', '.join(sorted(found.names))}")
