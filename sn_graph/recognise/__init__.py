"""Recognition: spectral norm that exporters left in a graph as arithmetic, told from everything else."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.recognise.carry import Carry, carry
    from sn_graph.recognise.evaluate import Evaluator, NotComputable, TooLarge
    from sn_graph.recognise.explanation import Explanation
    from sn_graph.recognise.forms import Form
    from sn_graph.recognise.names import ANONYMOUS, framework_name
    from sn_graph.recognise.recognise import reads_inputs, recognise
    from sn_graph.recognise.results import Multiple, result_of
    from sn_graph.recognise.trace import Value

__all__ = [
    "ANONYMOUS",
    "Carry",
    "Evaluator",
    "Explanation",
    "Form",
    "Multiple",
    "NotComputable",
    "TooLarge",
    "Value",
    "carry",
    "framework_name",
    "reads_inputs",
    "recognise",
    "result_of",
]
