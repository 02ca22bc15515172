"""Linear matrix inequalities: proven Lipschitz bounds of networks of slope-restricted neurons."""

from sn_graph.spectral.lmi.bound import lipschitz_bound, proven_bound
from sn_graph.spectral.lmi.problem import FrequencyProblem, LmiBound, SlopeProblem

__all__ = ["FrequencyProblem", "LmiBound", "SlopeProblem", "lipschitz_bound", "proven_bound"]
