"""Rules: how each operator's node becomes steps with proven constants, one family a file."""

from sn_graph.certify.rules.table import rule_of

__all__ = ["rule_of"]
