"""Sessions: an inserted model run with its state kept from run to run."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.runtime.session.session import StatefulSession

__all__ = [
    "StatefulSession",
]
