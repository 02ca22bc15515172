"""Rules: how each operator's node becomes steps with proven constants, one family a file."""

from sn_graph.certify.rules.patterns import pattern_of
from sn_graph.certify.rules.table import rule_of

__all__ = ["pattern_of", "rule_of"]
