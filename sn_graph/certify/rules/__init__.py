"""Rules: how each operator's node becomes steps with proven constants, one family a file."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.certify.rules.activations import relu
    from sn_graph.certify.rules.choices import Sorted
    from sn_graph.certify.rules.pairs import PairSort
    from sn_graph.certify.rules.patterns import pattern_of
    from sn_graph.certify.rules.pools import Largest
    from sn_graph.certify.rules.table import rule_of

__all__ = ["Largest", "PairSort", "Sorted", "pattern_of", "relu", "rule_of"]
