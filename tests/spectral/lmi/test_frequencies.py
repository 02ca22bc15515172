"""Many frequencies, of which few are solved and all are proven, against all of them solved at once."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from sn_graph.spectral.lmi import FrequencyProblem, frequency_bound
from sn_graph.spectral.lmi import frequencies as module
from sn_graph.spectral.lmi.bound import bounded
from tests.support.slopes import Real


def residual(seed: int, count: int, channels: int, neurons: int, tied: bool = False) -> FrequencyProblem:
    """x + B relu(A x) + D relu(C …), with matrices that are polynomials of three taps in e^{iθ}."""
    generator = np.random.default_rng(seed)
    waves = np.exp(1j * np.outer(np.linspace(0.0, np.pi, count), np.arange(3)))
    total = channels + 2 * neurons

    def drawn(rows: int, columns: int) -> Real:
        return np.asarray(generator.standard_normal((3, rows, columns)) / math.sqrt(3.0 * columns))

    weights = np.zeros((count, 2 * neurons, total), dtype=np.complex128)
    output = np.zeros((count, channels, total), dtype=np.complex128)
    weights[:, :neurons, :channels] = np.tensordot(waves, drawn(neurons, channels), 1)
    weights[:, neurons:, :-neurons] = np.tensordot(waves, drawn(neurons, total - neurons), 1)
    output[:] = np.tensordot(waves, drawn(channels, total), 1)
    tie = np.arange(2 * neurons) // 2 if tied else None
    return FrequencyProblem(weights, np.zeros(2 * neurons), np.ones(2 * neurons), output, tie)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_few_of_many_are_enough(seed: int, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = residual(seed, 65, 4, 6, tied)
    monkeypatch.setattr(module, "AT_ONCE", 3)
    monkeypatch.setattr(module, "ADDED", 2)
    monkeypatch.setattr(module, "CHUNK", 2000)
    value = frequency_bound(problem).value
    whole = bounded(problem).value
    assert whole * (1 - 1e-7) <= value <= whole * (1 + 2e-6)


def test_every_frequency_is_proven_with_the_same_multipliers() -> None:
    problem = residual(7, 40, 3, 4, tied=True)
    bound = frequency_bound(problem)
    order = problem.weights.shape[2]
    for weights, output in zip(problem.weights, problem.output, strict=True):
        matrix = -output.conj().T @ output
        matrix[:3, :3] += bound.value**2 * np.eye(3)
        for index, row in enumerate(weights):
            unit = np.eye(order)[3 + index]
            one, other = unit.astype(np.complex128), unit - row
            term = np.outer(one.conj(), other)
            matrix += bound.multipliers[index] * (term + term.conj().T)
        assert np.linalg.eigvalsh(matrix)[0] >= -1e-12


@pytest.mark.parametrize("chunk", [1, 10**6])
def test_a_neuron_stays_where_it_is_not_read(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """s has one frequency, relu(s) all of them, and y is the one that s lacks; see test_reduction's of one multiplier.

    With 64 places and s a cosine, ‖relu(s)‖² is half of ‖s‖², the mean of relu(s) is 1/π, and so L ≥ √2/π.
    """
    monkeypatch.setattr(module, "CHUNK", chunk)
    count = 33
    weights, output = np.zeros((count, 1, 2)), np.zeros((count, 1, 2))
    weights[1, 0, 0] = 1.0
    output[0, 0, 1] = 1.0
    problem = FrequencyProblem(weights, np.zeros(1), np.ones(1), output)
    bound = frequency_bound(problem)
    assert math.sqrt(2.0) / math.pi <= bound.value <= 1.0
    assert bound.value == pytest.approx(bounded(problem).value, rel=1e-5)


def test_errors_of_each_frequency() -> None:
    problem = residual(3, 30, 3, 4)
    given = 1e-5 * np.random.default_rng(3).random(problem.weights.shape) * (np.abs(problem.weights) > 0.0)
    exact = frequency_bound(problem).value
    loose = frequency_bound(replace(problem, weights_error=given)).value
    assert exact < loose < exact * 1.05
    assert frequency_bound(replace(problem, weights_error=1e-9, output_error=1e-9)).value < exact * 1.0001


def test_a_deadline_that_is_over() -> None:
    problem = residual(4, 50, 4, 5)
    bound = frequency_bound(problem, deadline=time.monotonic() - 1.0)
    assert frequency_bound(problem).value < bound.value < math.inf


def test_without_neurons_and_without_anything() -> None:
    problem = residual(5, 40, 4, 5)
    norm = float(np.linalg.norm(problem.output[:, :, :4], 2, axis=(1, 2)).max())
    unread = problem.output.copy()
    unread[:, :, 4:] = 0.0
    assert frequency_bound(replace(problem, output=unread)).value == pytest.approx(norm, rel=1e-7)
    assert frequency_bound(replace(problem, output=np.zeros_like(unread))).value == 0.0
    broken = problem.weights.copy()
    broken[33, 0, 0] = math.nan
    assert frequency_bound(replace(problem, weights=broken)).value == math.inf
