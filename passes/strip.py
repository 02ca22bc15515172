"""Take an insertion out again: the model before `insert`, equal as a proto."""

from dataclasses import dataclass

from sn_graph.errors import ModelError
from sn_graph.inserted import drop_inserted, read_inserted, unpack_original
from sn_graph.model import Model
from sn_graph.passes.base import Pass, PassResult
from sn_graph.plan import Plan
from sn_graph.progress import Progress, silent
from sn_graph.state import skeleton_hash


@dataclass(frozen=True)
class StripOptions:
    """Strip has none."""


class Strip(Pass[StripOptions]):
    """Restore the skeleton that insert kept; the weights are those of the inserted model, which are the original's."""

    name = "strip"

    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> PassResult:
        """Change `model` into what it was before the insertion; `plan` does not count.

        Raises:
            ModelError: The model holds no insertion, or was changed since.
        """
        inserted = read_inserted(model)
        if inserted is None:
            raise ModelError(f"{model.name} holds nothing that insert wrote, so there is nothing to strip")
        bare = model.copy()
        drop_inserted(bare.proto)
        if skeleton_hash(bare) != inserted.result:
            raise ModelError(
                f"{model.name} was changed by another tool since the insertion, and strip would lose that change; "
                "take the model from before the insertion"
            )
        model.proto.CopyFrom(unpack_original(inserted, model))
        return PassResult(model, plan, ())
