"""`sn-graph strip`: the model before insert, identical."""

from pathlib import Path
from typing import Annotated

import typer

from sn_graph import api
from sn_graph.cli import options as o
from sn_graph.cli.app import Debug, Quiet, Verbose, app, command
from sn_graph.cli.console import Settings
from sn_graph.model.files import require_writable


@app.command()
@command
def strip(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model that insert wrote.", show_default=False, readable=False)
    ],
    output: o.Output,
    save_as_external_data: o.SaveExternal = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Settings,
) -> None:
    """Write the model that MODEL was before insert: equal as a proto, weights untouched.

    A model that another tool has changed since is refused, for that change would be lost.

    \b
    sn-graph strip disc.sn.onnx -o disc.onnx
    """
    require_writable(output)
    with settings.progress() as progress:
        api.strip(model).save(output, o.storage_of(save_as_external_data), progress)
    settings.say(f"took the insertion out of {model} into {output}")
