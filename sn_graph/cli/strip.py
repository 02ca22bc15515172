"""`sn-graph strip`: the model before insert, identical."""

from pathlib import Path
from typing import Annotated

from sn_graph.cli import options as o
from sn_graph.cli.app import command
from sn_graph.cli.console import Settings
from sn_graph.cli.declare import Argument


@command
def strip(
    model: Annotated[Path, Argument("MODEL", "A model that insert wrote.")],
    output: o.Output,
    save_as_external_data: o.SaveExternal = None,
    no_sync: o.NoSync = False,
    dry_run: o.DryRun = False,  # noqa: ARG001 (whoever calls it gives another place then)
    *,
    settings: Settings,
) -> None:
    """Write the model that MODEL was before insert: equal as a proto, weights untouched.

    A model that another tool has changed since is refused, because that change would be lost. OUT is proved before it
    takes its place: it has the nodes, the tensors and the hash of the model before the insertion.

    \b
    sn-graph strip disc.sn.onnx -o disc.onnx
    """
    from sn_graph import api, proofs
    from sn_graph.model import require_writable

    settings.tell(model=str(model))
    o.require_apart(output, data_of=model)
    require_writable(output)
    with settings.progress() as progress:
        storage = o.storage_of(save_as_external_data)
        proof = proofs.save(api.strip(model), output, storage, sync=not no_sync, progress=progress)
    settings.tell(output=str(output), verified=proof.verified)
    settings.say(f"took the insertion out of {model} into {output}")
