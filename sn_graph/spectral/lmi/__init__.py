"""Linear matrix inequalities: proven Lipschitz bounds of networks of slope-restricted neurons.

A stretch of a network between two values is given as a `SlopeProblem`: x is the first value, z_i all its neurons in an
order of evaluation, y the last value. One row of `weights` a neuron, holding what multiplies [x; z] in its argument;
one row of `output` an element of y. Affine maps between neurons are multiplied out by the caller, who gives the
rounding of that as `weights_error` and `output_error`; those are allowed for, and the rounding of the proof itself.

    relu = np.zeros(m), np.ones(m)                     # low and high, by neuron; tanh too; leaky relu: 0.2 and 1
    problem = SlopeProblem(weights, *relu, output)     # x + B relu(A x): weights = [A 0], output = [I B]
    bound = lipschitz_bound(problem, deadline=time.monotonic() + 5)
    bound.value                                        # proven; inf if nothing was proven, and `proven_by` says why
    lipschitz_bound(wider, start=bound.multipliers)    # multipliers of a similar problem, to begin with

Inputs of many elements cost no more than one product, neurons that take no part or have low = high are removed, and no
scale has to be chosen. The time is about 30 steps of 40 N³ flops for N = n + m, the memory 15 N² numbers: up to 1000 of
them take seconds. `deadline` ends the search for better multipliers, and what is there is proven. An answer is not
always below the product of the layers' norms, so that the caller takes the least of both. Wrong shapes and slopes raise
a ValueError.
"""

from sn_graph.spectral.lmi.bound import lipschitz_bound, proven_bound
from sn_graph.spectral.lmi.problem import FrequencyProblem, LmiBound, SlopeProblem

__all__ = ["FrequencyProblem", "LmiBound", "SlopeProblem", "lipschitz_bound", "proven_bound"]
