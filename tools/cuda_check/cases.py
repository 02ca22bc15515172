"""Cases: the models to run on both providers, in the order of what is worth most while time lasts.

Each model of models/ and each kind of weight-bearing operator (`tools/op_models.py`) is run as it is, folded, inserted
in both layouts and modes and for the operator norm, and in float16; lifted too where there is something to lift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

import sn_graph
from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.passes import PassResult
from tools.op_models import op_models

STEPS = 10  # of an inserted model, whose u and σ are compared at each
Form = Callable[[onnx.ModelProto], onnx.ModelProto]


@dataclass(frozen=True)
class Case:
    """A model in one form.

    Attributes:
        name: The source, such as "models/x.onnx", or the kind of operator.
        form: What is done to it, a key of `FORMS`.
        load: Returns the source.
        op: The operator that has to run on the provider under test, if any.
    """

    name: str
    form: str
    load: Callable[[], onnx.ModelProto]
    op: str | None = None

    @property
    def key(self) -> str:
        """What the record calls it."""
        return f"{self.name}, {self.form}"

    @property
    def steps(self) -> int:
        """How many runs are compared."""
        return STEPS if self.form.startswith("inserted") else 1

    def model(self) -> Model:
        """Return the model to run.

        Raises:
            ModelError: There is no such form of it.
        """
        return Model.open(FORMS[self.form](self.load()))


def inserted(**options: str) -> Form:
    """Return what inserts with these options."""

    def apply(proto: onnx.ModelProto) -> onnx.ModelProto:
        result = sn_graph.insert(proto, force=True, **options)  # type: ignore[arg-type]
        return _changed(result, "inserted")

    return apply


def folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the folded model."""
    return _changed(sn_graph.fold(proto, force=True), "folded")


def lifted(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with exporters' spectral norm folded."""
    return _changed(sn_graph.lift(proto), "lifted")


def halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in float16, inputs and outputs too.

    Raises:
        ModelError: It is not of float32.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if not any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in proto.graph.initializer):
        raise ModelError("no weight of it is float32")
    half: onnx.ModelProto = convert_float_to_float16(proto, keep_io_types=False)
    return half


def _changed(result: PassResult, status: str) -> onnx.ModelProto:
    if not any(site.status == status for site in result.sites):
        raise ModelError("it holds no weight to normalize")
    return result.to_proto()


FORMS: dict[str, Form] = {
    "as it is": lambda proto: proto,
    "inserted": inserted(),
    "folded": folded,
    "inserted, per-weight, required": inserted(state_layout="per-weight", state_mode="required"),
    "inserted, operator norm": inserted(norm="operator"),
    "float16": halved,
    "inserted, float16": lambda proto: inserted()(halved(proto)),
    "lifted": lifted,
}
FIRST = ("as it is", "inserted")


def sources(models: Path) -> Iterator[tuple[str, Callable[[], onnx.ModelProto], str | None]]:
    """Yield name, source and decisive operator of each model of a folder, and of each kind of operator."""
    for path in sorted(models.glob("*.onnx")):
        yield f"models/{path.name}", lambda path=path: Model.open(path).to_proto(), None  # type: ignore[misc]
    for name, op, proto in op_models():
        yield name, lambda proto=proto: proto, op  # type: ignore[misc]


def cases(models: Path, *, quick: bool) -> Iterator[Case]:
    """Yield every case: first all sources in the two forms that count most, then in the others.

    Args:
        models: A folder of .onnx files.
        quick: Take one source in eight, for a trial.
    """
    taken = [*sources(models)][:: 8 if quick else 1]
    for forms in (FIRST, tuple(form for form in FORMS if form not in FIRST)):
        for name, load, op in taken:
            for form in forms:
                if not ("float16" in name and "float16" in form):
                    yield Case(name, form, load, op)
