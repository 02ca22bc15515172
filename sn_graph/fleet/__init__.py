"""Many files: found, worked on by several processes or machines, and written down, one line a file."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.fleet.gate import Gate
    from sn_graph.fleet.inputs import Input, find_inputs, is_many
    from sn_graph.fleet.junit import junit
    from sn_graph.fleet.ledger import Ledger, Line
    from sn_graph.fleet.run import Outcome, run_many
    from sn_graph.fleet.sarif import sarif
    from sn_graph.fleet.task import DivisibleWork, Division, Ending, Task, Work, error_of, fingerprint_of
    from sn_graph.fleet.weights import WeightWork

__all__ = [
    "DivisibleWork",
    "Division",
    "Ending",
    "Gate",
    "Input",
    "Ledger",
    "Line",
    "Outcome",
    "Task",
    "WeightWork",
    "Work",
    "error_of",
    "find_inputs",
    "fingerprint_of",
    "is_many",
    "junit",
    "run_many",
    "sarif",
]
