"""Take an insertion out again: the model before `insert`, equal as a proto."""

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.passes.base import Pass, PassResult
from sn_graph.plan import Plan
from sn_graph.progress import Progress, silent
from sn_graph.rewrite import restore
from sn_graph.state import Inserted, read_inserted


class Strip(Pass[None]):
    """Restore the skeleton that insert kept; the weights are those of the inserted model, which are the original's."""

    name = "strip"

    def __init__(self, options: None = None) -> None:
        super().__init__(options)

    def __call__(self, source: Model, plan: Plan | None = None, progress: Progress = silent) -> PassResult:  # noqa: ARG002
        """Return the model before the insertion; there is nothing to plan.

        Raises:
            ModelError: The model holds no insertion, or was changed since.
        """
        restored = restore(source, _metadata(source))
        return PassResult(restored, None, (), source=source, name=self.name)

    def apply(self, model: Model, plan: Plan | None = None, progress: Progress = silent) -> PassResult:  # noqa: ARG002
        """Change `model` into what it was before the insertion. Raises as a call does."""
        model.proto.CopyFrom(restore(model, _metadata(model)).proto)
        model.edited()
        return PassResult(model, None, (), name=self.name)


def _metadata(model: Model) -> Inserted:
    inserted = read_inserted(model)
    if inserted is None:
        raise ModelError(f"{model.name} holds nothing that insert wrote", "so there is nothing to strip")
    return inserted
