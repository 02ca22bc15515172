"""Convolutions by frequencies, against the same networks as dense matrices over space."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.lmi import FrequencyProblem, SlopeProblem, frequency_bound, lipschitz_bound, proven_bound
from tests.support.slopes import Real

Kernel = NDArray[np.float64]  # [out, in, taps]
Complex = NDArray[np.complex128]


def spectrum(kernel: Kernel, size: int) -> Complex:
    """The circular convolution y_o(t) = Σ k_oi(s) x_i(t − s), at every frequency [size, out, in]."""
    waves = np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(kernel.shape[2])) / size)
    return np.asarray(np.einsum("ois,fs->foi", kernel, waves))


def dense(kernel: Kernel, size: int) -> Real:
    """The same as a matrix [out·size, in·size], the place last."""
    out, inputs, taps = kernel.shape
    matrix = np.zeros((out, size, inputs, size))
    for place in range(size):
        for tap in range(taps):
            matrix[:, place, :, (place - tap) % size] += kernel[:, :, tap]
    return matrix.reshape(out * size, inputs * size)


def chain(
    layers: list[Complex] | list[Real], skips: list[bool], slopes: tuple[float, float]
) -> tuple[NDArray[np.complex128], Real, Real, NDArray[np.complex128]]:
    """W, a, b, C of v ← relu(A v) or, with a skip, v ← v + B relu(A v), B being next; then linear maps."""
    stacks = [np.asarray(layer, dtype=np.complex128).reshape(-1, *layer.shape[-2:]) for layer in layers]
    count, inputs = len(stacks[0]), stacks[0].shape[2]
    rows: list[NDArray[np.complex128]] = []
    position = iter(stacks)
    widths = []
    for skip in skips:
        widths.append(next(position).shape[1])
        if skip:
            next(position)
    total = inputs + sum(widths)
    value = np.zeros((count, inputs, total), dtype=np.complex128)
    value[:, :, :inputs] = np.eye(inputs)
    position, neurons = iter(stacks), 0
    for skip, width in zip(skips, widths, strict=True):
        rows.append(next(position) @ value)
        picked = np.zeros((count, width, total), dtype=np.complex128)
        picked[:, :, inputs + neurons : inputs + neurons + width] = np.eye(width)
        neurons += width
        value = value + next(position) @ picked if skip else picked
    for rest in position:
        value = rest @ value
    low, high = (np.full(neurons, slope) for slope in slopes)
    return np.concatenate(rows, axis=1), low, high, value


def both(
    kernels: list[Kernel], skips: list[bool], size: int, slopes: tuple[float, float] = (0.0, 1.0)
) -> tuple[FrequencyProblem, SlopeProblem]:
    frequencies = chain([spectrum(kernel, size) for kernel in kernels], skips, slopes)
    weights, low, high, output = chain([dense(kernel, size) for kernel in kernels], skips, slopes)
    return FrequencyProblem(*frequencies), SlopeProblem(weights[0].real, low, high, output[0].real)


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.2, 1.0), (-0.1, 1.1)])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_over_space(seed: int, slopes: tuple[float, float]) -> None:
    """The mean over all translations of the best multipliers is as good as they are, and constant over space."""
    generator = np.random.default_rng(seed)
    kernels = [generator.standard_normal(shape) for shape in ((3, 2, 3), (2, 3, 3), (4, 2, 2))]
    frequencies, space = both(kernels, [True, False], 6, slopes)
    bound = frequency_bound(frequencies)
    assert bound.value == pytest.approx(lipschitz_bound(space).value, rel=1e-5)
    repeated = proven_bound(space, np.repeat(bound.multipliers, 6))
    assert repeated.value == pytest.approx(bound.value, rel=1e-6)


def test_one_of_two_conjugates_is_enough() -> None:
    generator = np.random.default_rng(5)
    frequencies, _ = both([generator.standard_normal((3, 2, 3)), generator.standard_normal((2, 3, 3))], [True], 9)
    half = replace(frequencies, weights=frequencies.weights[:5], output=frequencies.output[:5])
    assert frequency_bound(half).value == pytest.approx(frequency_bound(frequencies).value, rel=1e-7)


def test_ties_are_kept() -> None:
    """Neurons over space with one number a channel give what frequencies give, and one number for all is worse."""
    generator = np.random.default_rng(6)
    frequencies, space = both([generator.standard_normal((4, 2, 3)), generator.standard_normal((2, 4, 3))], [True], 5)
    value = frequency_bound(frequencies).value
    whole = FrequencyProblem(space.weights[None], space.low, space.high, space.output[None])
    tied = frequency_bound(replace(whole, tie=np.repeat(np.array([7, 2, 9, 4]), 5)))
    assert tied.value == pytest.approx(value, rel=1e-6)
    assert len({float(each) for each in tied.multipliers}) == 4
    one = frequency_bound(replace(whole, tie=np.zeros(20, dtype=np.int64)))
    assert len(set(one.multipliers.tolist())) == 1
    assert one.value > value * 1.001


def test_a_stride_by_aliased_frequencies() -> None:
    """C relu(S₂ A relu(B x)): two fine frequencies a coarse one; the same as tied multipliers over space."""
    generator = np.random.default_rng(7)
    size, first, second, last = 8, *(generator.standard_normal(s) for s in ((3, 2, 3), (4, 3, 2), (2, 4, 2)))
    fine, coarse, small = spectrum(first, size), spectrum(second, size), spectrum(last, size // 2)
    count = size // 2
    weights = np.zeros((count, 10, 14), dtype=np.complex128)
    output = np.zeros((count, 2, 14), dtype=np.complex128)
    for f in range(count):
        for alias in range(2):
            g = f + alias * count
            weights[f, 3 * alias : 3 * alias + 3, 2 * alias : 2 * alias + 2] = fine[g]
            # Keeping every second place adds the two up; unitary transforms make a factor of 1/√2.
            weights[f, 6:, 4 + 3 * alias : 7 + 3 * alias] = coarse[g] / math.sqrt(2.0)
        output[f, :, 10:] = small[f]
    tie = np.array([0, 1, 2, 0, 1, 2, 3, 4, 5, 6])
    by_frequency = frequency_bound(FrequencyProblem(weights, np.zeros(10), np.ones(10), output, tie))

    kept = dense(second, size).reshape(4, size, -1)[:, ::2].reshape(4 * count, -1)
    neurons = 3 * size + 4 * count
    space = np.zeros((neurons, 2 * size + neurons))
    space[: 3 * size, : 2 * size] = dense(first, size)
    space[3 * size :, 2 * size : 5 * size] = kept
    end = np.zeros((2 * count, 2 * size + neurons))
    end[:, 5 * size :] = dense(last, count)
    places = np.concatenate([np.repeat(np.arange(3), size), 3 + np.repeat(np.arange(4), count)])
    over_space = FrequencyProblem(space[None], np.zeros(neurons), np.ones(neurons), end[None], places)
    assert by_frequency.value == pytest.approx(frequency_bound(over_space).value, rel=1e-6)


def gram(kernel: Kernel) -> Kernel:
    """Kᵀ∗K, the autocorrelation [in, in, 2·taps − 1]."""
    taps = kernel.shape[2]
    result = np.zeros((kernel.shape[1], kernel.shape[1], 2 * taps - 1))
    for s in range(taps):
        for t in range(taps):
            result[:, :, t - s + taps - 1] += kernel[:, :, s].T @ kernel[:, :, t]
    return result


@pytest.mark.parametrize("family", ["SLL", "CPL", "AOL"])
def test_convolutional_layers_of_norm_1(family: str) -> None:
    """Stacks that are 1-Lipschitz by construction: SLL (2303.03169), CPL (2110.12690), AOL (2208.03160)."""
    generator = np.random.default_rng(8)
    size, channels, layers, skips = 16, 4, [], []
    for _ in range(4):
        kernel = generator.standard_normal((channels, channels, 3))
        scale = np.abs(gram(kernel)).sum(axis=(1, 2))
        values = spectrum(kernel, size)
        backwards = values.conj().transpose(0, 2, 1)
        match family:
            case "SLL":  # x − 2 K T⁻¹ relu(Kᵀ x)
                layers += [backwards, -2.0 * values / scale]
            case "CPL":  # x − 2/σ² Kᵀ relu(K x)
                layers += [values, -2.0 * backwards / np.linalg.norm(values, 2, axis=(1, 2)).max() ** 2]
            case _:
                layers.append(values / np.sqrt(scale))
        skips.append(family != "AOL")
    weights, low, high, output = chain(layers, skips, (0.0, 1.0))
    bound = frequency_bound(FrequencyProblem(weights, low, high, output, None, 1e-13, 1e-13))
    assert bound.value <= 1.0 + 1e-6
    if family != "AOL":
        assert bound.value >= 1.0 - 1e-6


def test_no_neurons() -> None:
    generator = np.random.default_rng(9)
    values = spectrum(generator.standard_normal((3, 5, 3)), 7)
    none = np.zeros(0)
    bound = frequency_bound(FrequencyProblem(np.zeros((7, 0, 5), dtype=np.complex128), none, none, values))
    norm = float(np.linalg.norm(values, 2, axis=(1, 2)).max())
    assert norm <= bound.value <= norm * (1 + 1e-7)


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_scales(scale: float) -> None:
    generator = np.random.default_rng(10)
    kernels = [generator.standard_normal(shape) for shape in ((3, 2, 3), (2, 3, 3), (4, 2, 2), (1, 4, 1))]
    value = frequency_bound(both(kernels, [False, False, False], 5)[0]).value
    kernels[1] = kernels[1] * scale
    assert frequency_bound(both(kernels, [False, False, False], 5)[0]).value == pytest.approx(value * scale, rel=1e-6)


def test_a_frequency_of_zeros() -> None:
    """Differences have no mean: every matrix is 0 there, which must spoil nothing."""
    difference = np.array([[[1.0, -1.0]]])
    wide = np.repeat(np.repeat(difference, 3, axis=0), 6, axis=1) * np.random.default_rng(1).standard_normal((3, 6, 1))
    frequencies, space = both([wide, np.ones((2, 3, 1))], [False], 6)
    assert frequency_bound(frequencies).value == pytest.approx(lipschitz_bound(space).value, rel=1e-5)


def test_wrong_ties() -> None:
    weights = np.zeros((1, 2, 3))
    with pytest.raises(ValueError, match="tie has shape"):
        FrequencyProblem(weights, np.zeros(2), np.ones(2), np.zeros((1, 1, 3)), np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="tie 4 have different slopes"):
        FrequencyProblem(weights, np.zeros(2), np.array([1.0, 0.5]), np.zeros((1, 1, 3)), np.full(2, 4))
