"""Exports: what a frontend makes of a model of its framework, whichever it is."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, Unpack

from sn_graph.model import Model, Storage
from sn_graph.plan import Plan, PlanOptions, build_plan, save_plan
from sn_graph.progress import Progress, silent
from sn_graph.state import State, save_state, skeleton_hash


@dataclass(frozen=True, eq=False)
class Exported:
    """A model of a framework, brought to ONNX.

    Attributes:
        model: Inference as stored, with plain weights, each normalized one an initializer of its own.
        plan: Only the weights that the framework normalizes are eligible, each with its matrix, power_iterations and,
            where its layer is called several times, per_use.
        state: `<id>.u` from the framework's own vectors, [n].
        notes: Where the framework does what a user may not expect.
    """

    model: Model
    plan: Plan
    state: State
    notes: tuple[str, ...] = ()

    def planned(self, **options: Unpack[PlanOptions]) -> Self:
        """Return the same export with other parameters, or fewer weights, in its plan.

        Raises:
            UsageError: An option is not valid.
        """
        chosen = options.copy()
        chosen["plan"] = self.plan
        return replace(self, plan=build_plan(self.model, **chosen))

    def save(self, path: str | os.PathLike[str], storage: Storage = Storage.KEEP, progress: Progress = silent) -> None:
        """Write the model to `path`, and beside it its plan and state: out.onnx, out.plan.json, out.u.safetensors.

        Each file is complete before it takes its place; the model does so last.

        Raises:
            EnvironmentUnavailable: The folder can't be written.
        """
        with self.model.stage(path, storage, progress) as staged:
            self.save_beside(path)
            staged.commit()

    def save_beside(self, path: str | os.PathLike[str]) -> None:
        """Write the plan and state that belong beside a model file, without the model. Errors as of `save`."""
        plan, state = sidecars(path)
        save_state(state, self.state, skeleton_hash(self.model), str(self.plan.convention))
        save_plan(replace(self.plan, model=Path(path).name, state=state), plan)


def sidecars(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return where the plan and the state of a model file stand: out.onnx has out.plan.json and out.u.safetensors."""
    path = Path(path)
    stem = path.name.removesuffix(".onnx")
    return path.with_name(f"{stem}.plan.json"), path.with_name(f"{stem}.u.safetensors")
