"""The `sn-graph` command: one file a command, what they share in `app`, `options` and `console`."""

from sn_graph.cli.app import main

__all__ = ["main"]
