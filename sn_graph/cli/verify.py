"""`sn-graph verify`: two models, one model run in two ways, or a model and its Keras original; or a state is alive."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sn_graph.cli import options as o
from sn_graph.cli.app import command_of
from sn_graph.cli.console import Settings, number, on_terminal
from sn_graph.cli.declare import Argument, Option
from sn_graph.cli.files import Files
from sn_graph.cli.table import Table, print_tables
from sn_graph.errors import UsageError

if TYPE_CHECKING:
    from sn_graph.runtime import Comparison, ParityResult


@command_of(Files((".onnx",), paired=True))
def verify(
    a: Annotated[Path, Argument("A", "An ONNX model file.")],
    b: Annotated[Path | None, Argument("[B]", "The model to compare it with: ONNX or Keras.")] = None,
    providers: Annotated[str, Option("Execution providers: cpu, cuda.", "P,P")] = "cpu",
    steps: Annotated[int, Option("How many runs to compare.", "N", minimum=1)] = 1,
    inputs: o.InputsFile = None,
    dim: o.Dim = (),
    seed: Annotated[int, Option("Of the random inputs.", "S", minimum=0)] = 0,
    *,
    tolerances: o.Tolerances,
    state: Annotated[
        bool,
        Option("Instead of comparing, find out whether a tool has frozen the state that insert wrote."),
    ] = False,
    html: o.Html = None,
    settings: Settings,
) -> None:
    """Compare the outputs of A and B on every provider.

    A alone is compared across the providers; on one provider, with onnxruntime's optimizations off against on.
    An output agrees where max|a-b| <= atol + rtol * max|b|. TF32 is off on CUDA. Ends with exit code 1 where one does
    not. Remarks tell of outputs whose agreement proves little: all NaN, constant, empty, or beside far larger ones.

    B may be the Keras file that A was exported from (.keras, .h5, a SavedModel folder). An inserted A is then compared
    call by call with Keras's normalizing calls (outputs, kernels, u, and the inference after each); any other A with
    Keras's inference: kernels as stored, after one normalize_weights(), or over their exact norms, what is nearest.

    --state runs an inserted model A from different u: its u.next and σ must move with them. Ends with exit code 1 where
    a tool made constants of them.

    Three files or more, folders and globs are verified each by itself.

    \b
    sn-graph verify disc.onnx
    sn-graph verify disc.onnx disc.optimized.onnx --steps 3 --dim batch=8
    sn-graph verify disc.onnx --providers cpu,cuda
    sn-graph verify disc.sn.onnx disc.keras --steps 10
    sn-graph verify disc.sn.slim.onnx --state
    """
    from sn_graph import runtime
    from sn_graph.cli.paging import Paging
    from sn_graph.proofs import verify_state

    paging = Paging.to(html, model=a, the_other_model=b, inputs=inputs)
    used, sizes = runtime.parse_providers(providers), o.dimensions(dim)
    if state:
        given = (b, tolerances.rtol, tolerances.atol, html)
        _refuse_comparison(steps > 1, *(one is not None for one in given))
        alive = verify_state(a, providers=used, inputs=inputs, seed=seed, dims=sizes)
        settings.tell(**alive.to_json())
        if not settings.json:
            print_tables(_state_table(alive))
        alive.raise_if_different()
        return
    compared = partial(
        _verify_keras(settings) if b is not None and _is_keras(b) else runtime.verify,
        providers=used,
        inputs=inputs,
        seed=seed,
        dims=sizes,
        rtol=tolerances.rtol,
        atol=tolerances.atol,
        steps=steps,
    )
    result = compared(a, b)
    settings.tell(**result.to_json())
    if paging is not None:
        paging.write_compared(result, a, b)
    if not settings.json:
        print_tables(*(_by_sides(result) if on_terminal() else [_table(result.comparisons, sides=True)]))
    for note in result.notes:
        settings.say(note)
    result.raise_if_different()


def _is_keras(path: Path) -> bool:
    from sn_graph.frontends.keras import is_keras_file

    return is_keras_file(path) or path.suffix in (".keras", ".h5", ".hdf5")


def _verify_keras(settings: Settings) -> "Callable[..., ParityResult]":
    """Return `verify_keras`, which keeps the terminal free of what TensorFlow writes to it."""
    from sn_graph.cli.native import quiet_libraries
    from sn_graph.proofs.keras import verify_keras

    def quietly(*arguments: Any, **options: Any) -> "ParityResult":
        with quiet_libraries(settings):
            return verify_keras(*arguments, **options)

    return quietly


def _refuse_comparison(*given: bool) -> None:
    for name, there in zip(("--steps", "a second model", "--rtol", "--atol", "--html"), given, strict=True):
        if there:
            raise UsageError("--state compares nothing", f"so {name} has no meaning beside it", "leave one of them out")


def _state_table(result: "ParityResult") -> Table:
    titles = ("provider", "output", "moves by", "relative", "alive")
    table = Table(*titles, wrapped=("output",), least_wanted=("relative", "provider"))
    for row in result.comparisons:
        cells = (row.provider, row.output, number(row.max_abs), number(row.max_rel_norm), "yes" if row.ok else "NO")
        table.add(cells)
    return table


def _by_sides(result: "ParityResult") -> Iterator[Table | str]:
    """Yield, for each two sides, what they are and a table narrow enough for a terminal."""
    for (left, right), rows in groupby(result.comparisons, key=lambda row: (row.left, row.right)):
        yield f"a: {left}"
        yield f"b: {right}"
        yield _table(rows, sides=False)


def _table(rows: Iterable["Comparison"], sides: bool) -> Table:
    named = ("left", "right") if sides else ()
    rows = list(rows)
    remarks = ("remarks",) if any(row.notes for row in rows) else ()
    titles = (*named, "provider", "step", "output", "max |a-b|", "relative", "allowed", "ok", *remarks)
    wrapped = ("left", "right", "output", "remarks")
    table = Table(*titles, wrapped=wrapped, least_wanted=("allowed", "remarks", "relative", "provider"))
    for row in rows:
        numbers = (number(row.max_abs), number(row.max_rel_norm), f"{row.atol:g} + {row.rtol:g}·max|b|")
        names = (row.left, row.right) if sides else ()
        cells = (*names, row.provider, str(row.step), row.output, *numbers, "yes" if row.ok else "NO")
        table.add((*cells, *("; ".join(row.notes) for _ in remarks)))
    return table
