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

Layers one behind the other are given to `chain_bound` as they are, however many and wide:

    bound = chain_bound([first, second, last], low=[0.0, 0.2], high=[1.0, 1.0], deadline=time.monotonic() + 20)

A small chain is one problem; a long one is improved a few layers at a time, and proven by blocks of two layers.

Convolutions with circular padding act on every frequency by itself, and their neurons at all places share a multiplier:

    at = np.fft.rfft2(...)                             # A, B [F, rows, columns] of each frequency, conjugates left out
    problem = FrequencyProblem(weights, low, high, output)   # x + B relu(A x): weights [A 0], output [I B] for each f
    frequency_bound(problem).value

A stride or a pool of s makes one matrix of the s² frequencies that alias to one: channel c then has a neuron for each
of them, and `tie` gives them the same number; keeping one place of s² is the sum over them, divided by s where
transforms are unitary. A problem with F = 1 and `tie` is one of shared multipliers only.
Where the matrices of all frequencies don't fit the memory, `spread_bound` takes what makes those of a few of them.
"""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.spectral.lmi.bound import lipschitz_bound, proven_bound
    from sn_graph.spectral.lmi.frequencies import frequency_bound, spread_bound
    from sn_graph.spectral.lmi.layers import chain_bound
    from sn_graph.spectral.lmi.problem import FrequencyProblem, LmiBound, SlopeProblem

__all__ = [
    "FrequencyProblem",
    "LmiBound",
    "SlopeProblem",
    "chain_bound",
    "frequency_bound",
    "lipschitz_bound",
    "proven_bound",
    "spread_bound",
]
