"""State: everything about the vectors u that outlives a run, in files and in an inserted model's metadata."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.state.files import (
        LONGEST,
        SHORTEST,
        State,
        StateSource,
        load_state,
        read_state,
        save_state,
        skeleton_hash,
    )
    from sn_graph.state.metadata import (
        KEY,
        Inserted,
        InsertedSite,
        InsertedState,
        drop_inserted,
        read_inserted,
        write_inserted,
    )
    from sn_graph.state.tensors import StateTensor, initial_state, site_vectors, state_names, state_tensors

__all__ = [
    "KEY",
    "LONGEST",
    "SHORTEST",
    "Inserted",
    "InsertedSite",
    "InsertedState",
    "State",
    "StateSource",
    "StateTensor",
    "drop_inserted",
    "initial_state",
    "load_state",
    "read_inserted",
    "read_state",
    "save_state",
    "site_vectors",
    "skeleton_hash",
    "state_names",
    "state_tensors",
    "write_inserted",
]
