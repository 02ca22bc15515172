"""`sn-graph certify`: a proven Lipschitz constant of a whole network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sn_graph.choices import LevelChoice
from sn_graph.cli import options as o
from sn_graph.cli.app import command_of
from sn_graph.cli.console import Settings
from sn_graph.cli.declare import Option
from sn_graph.cli.files import Files
from sn_graph.cli.table import Table, print_tables
from sn_graph.errors import VerificationFailed

if TYPE_CHECKING:
    from sn_graph.certify import Certificate


@command_of(Files((".onnx",)))
def certify(
    model: o.ModelArgument,
    input: Annotated[
        tuple[str, ...],
        Option("The input whose changes count; given again: several, jointly. [default: the only float input]", "NAME"),
    ] = (),
    output: Annotated[str | None, Option("The output. [default: the only one]", "NAME")] = None,
    level: Annotated[
        LevelChoice,
        Option("How far to go: the product of the nodes' constants, affine chains fused, or matrix inequalities."),
    ] = "auto",
    budget: Annotated[float, Option("Seconds that it may take; the product is always finished.", "SECONDS")] = 60.0,
    at_most: Annotated[
        float | None, Option("End with exit code 1 unless the constant is proven to be at most C.", "C", minimum=0)
    ] = None,
    dim: Annotated[
        tuple[str, ...],
        Option("The size of a dynamic dimension, INPUT[AXIS]=N for one without a name; repeatable.", "NAME=N"),
    ] = (),
    witness: Annotated[
        Path | None, Option("Write the two inputs that attain the lower end, x0 and x1, as .npz.", "FILE", writes=True)
    ] = None,
    html: o.Html = None,
    *,
    settings: Settings,
) -> None:
    """Prove how much the network MODEL can stretch a change of its input: its Lipschitz constant.

    The answer is a bracket. The lower end is attained by two inputs, measured in onnxruntime; the upper end is proven,
    the rounding of the proof included. Below it each node between input and output: the rule that it counts by, its own
    constant, and the bound up to it. Where a node has no constant (a product of two activations, a step function) the
    answer is "unbounded" with the node, the reason, and what would change it.

    Norms are Euclidean, of all elements of a sample; a batch needs no size where each sample goes its own way. What is
    proven holds for the function in exact arithmetic; floats round.

    Ends with exit code 0 whatever the answer, unless --at-most asks for one.

    \b
    sn-graph certify disc.onnx
    sn-graph certify disc.onnx --at-most 1.0001             in CI: 1 unless it is proven
    sn-graph certify models/ --at-most 1.0001 --jsonl certified.jsonl --junit results.xml
    sn-graph certify disc.onnx --level product --budget 5   quickly
    sn-graph certify disc.onnx --witness pair.npz --json
    sn-graph certify unet.onnx --input image --dim height=64 --dim width=64
    """
    from sn_graph import api
    from sn_graph.cli.paging import Paging
    from sn_graph.model import require_writable

    settings.tell(model=str(model))
    paging = Paging.to(html, witness, model=model)
    if witness is not None:
        o.require_apart(witness, data_of=model, model=model)
        require_writable(witness)
    with settings.progress() as progress:
        found = api.certify(
            model,
            input=input,
            output=output,
            level=level,
            budget=budget,
            at_most=at_most,
            dims=o.dimensions(dim),
            progress=progress,
        )
    settings.tell(**{**found.to_json(), "model": str(model)})
    if not settings.json:
        _print(found)
    if witness is not None:
        _write_witness(settings, found, witness)
    if paging is not None:
        paging.write_certified(found, model)
    for note in found.notes:
        settings.say(note)
    if found.ok is False:
        raise VerificationFailed(*_excess(found))


def _excess(found: "Certificate") -> tuple[str, str, str]:
    """Return what is said where a constant is not proven to be as small as it was asked to be."""
    from sn_graph.certify import upwards

    wanted = f"{found.at_most:g}"
    if found.unbounded is not None:
        return f"no constant is proven, where at most {wanted} was asked", found.unbounded.reason, found.unbounded.do
    what = f"the constant is proven to be at most {upwards(found.proven or 0.0)}, where at most {wanted} was asked"
    if found.attained is not None and found.at_most is not None and found.attained > found.at_most:
        return what, f"and {found.attained:.6g} is attained", "scale the weights, as fold does"
    return what, "", "give more time with --budget, or another --level"


def _print(found: "Certificate") -> None:
    from sn_graph.certify import upwards

    parts: list[Table | str] = [found.sentence]
    if found.unbounded is not None and found.unbounded.do:
        parts.append(f"what to do: {found.unbounded.do}")
    if found.levels:
        levels = ", ".join(f"{name} {upwards(value)}" for name, value in found.levels.items())
        parts.append(f"by level: {levels}")
    if found.nodes:
        parts.append(_table(found))
    print_tables(*parts)


def _table(found: "Certificate") -> Table:
    from sn_graph.certify import upwards

    remarks = ("remarks",) if any(node.note for node in found.nodes) else ()
    titles = ("node", "op", "rule", "constant", "bound", *remarks)
    table = Table(*titles, wrapped=("node", "remarks"), least_wanted=("op", "rule", "remarks"))
    for node in found.nodes:
        ends = ("" if one is None else upwards(one) for one in (node.constant, node.bound))
        cells = [node.node, node.op_type, node.rule, *ends]
        table.add((*cells, *((node.note,) if remarks else ())))
    return table


def _write_witness(settings: Settings, found: "Certificate", path: Path) -> None:
    """Write the two inputs: x0 and x1, of several inputs x0.NAME and x1.NAME, and the model's others by their names."""
    import io
    import zipfile

    import numpy as np

    from sn_graph.model import write_file

    if found.witness is None:
        settings.say(f"no two inputs were found whose outputs differ, so {path} is not written")
        return
    arrays = dict(found.witness.parameters)
    for end, inputs in (("x0", found.witness.x0), ("x1", found.witness.x1)):
        several = len(inputs) > 1
        arrays.update({f"{end}.{name}" if several else end: array for name, array in inputs.items()})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # np.savez takes no array of the name "file"
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    write_file(path, buffer.getvalue())
