"""What the proof allows for rounding, against rational arithmetic."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from sn_graph.spectral.lmi import FrequencyProblem
from sn_graph.spectral.lmi import proof as module
from sn_graph.spectral.lmi.family import Family
from sn_graph.spectral.lmi.pencil import Pencil
from sn_graph.spectral.lmi.problem import Field
from sn_graph.spectral.lmi.proof import is_proven
from sn_graph.spectral.lmi.start import closed_form
from tests.support.slopes import Real, drawn, exact


def family_of(seed: int, kind: str, scale: float) -> tuple[Family, Real]:
    """A small family whose terms cancel: C is such that P(ρ, λ) is about 0 on its diagonal."""
    problem = drawn(seed, 3, 6, 4, 0.9)
    generator = np.random.default_rng(seed)
    weights, output = problem.weights[None] * scale, problem.output[None] * scale
    if kind == "complex":
        weights = weights + 1j * weights * generator.standard_normal(weights.shape)
        output = output + 1j * generator.standard_normal(output.shape)
    family = Family.of(FrequencyProblem(weights, problem.low, problem.high, output))
    return family, np.asarray(np.exp(generator.standard_normal(6)))


def exactly(family: Family, rho: float, multipliers: Real) -> list[list[tuple[Fraction, Fraction]]]:
    """P(ρ, λ) of the first frequency, as pairs of a real and an imaginary part."""

    def gram(matrix: Field) -> list[list[tuple[Fraction, Fraction]]]:
        a, b = exact(np.real(matrix)), exact(np.imag(matrix))
        rows, columns = len(matrix), range(matrix.shape[1])
        return [
            [
                (
                    sum((a[k][i] * a[k][j] + b[k][i] * b[k][j] for k in range(rows)), Fraction()),
                    sum((a[k][i] * b[k][j] - b[k][i] * a[k][j] for k in range(rows)), Fraction()),
                )
                for j in columns
            ]
            for i in columns
        ]

    count, order, inputs = len(family.low), family.weights.shape[2], family.inputs
    select = np.eye(count, order, inputs)
    weights = family.weights[0]
    result = [[(-re, -im) for re, im in row] for row in gram(family.output[0])]
    for i in range(order):
        for j in range(order):
            re, im = result[i][j]
            for k in range(count):
                low, high = Fraction(float(family.low[k])), Fraction(float(family.high[k]))
                factor = Fraction(float(multipliers[k]))
                one, other = Fraction(float(select[k, i])), Fraction(float(select[k, j]))
                left = [Fraction(float(part)) for part in (np.real(weights[k, i]), -np.imag(weights[k, i]))]
                right = [Fraction(float(part)) for part in (np.real(weights[k, j]), np.imag(weights[k, j]))]
                re += factor * (2 * one * other - (low + high) * (left[0] * other + one * right[0]))
                im += factor * -(low + high) * (left[1] * other + one * right[1])
                both = (left[0] * right[0] - left[1] * right[1], left[0] * right[1] + left[1] * right[0])
                re += 2 * factor * low * high * both[0]
                im += 2 * factor * low * high * both[1]
            if i == j and i < inputs:
                re += Fraction(rho)
            result[i][j] = (re, im)
    return result


@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e5])
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("seed", range(3))
def test_margin_of_the_matrix(seed: int, kind: str, scale: float) -> None:
    """|P − P̂| d ≤ e d, element by element, for d = 1 and for one of all sizes."""
    family, multipliers = family_of(seed, kind, scale)
    rho = 0.7
    computed = Pencil.of(family).matrix(rho, multipliers)[0]
    true = exactly(family, rho, multipliers)
    order = len(computed)
    for weight in (np.ones(order), np.exp(3.0 * np.random.default_rng(seed).standard_normal(order))):
        margin = module._errors(family, rho, multipliers, weight[None])[0]
        for i in range(order):
            lost = Fraction()
            for j in range(order):
                re, im = (
                    Fraction(float(part(computed[i, j]))) - exact_part
                    for part, exact_part in zip((np.real, np.imag), true[i][j], strict=True)
                )
                # |re| + |im| is at least the modulus.
                lost += (abs(re) + abs(im)) * Fraction(float(weight[j]))
            assert lost <= Fraction(float(margin[i])) * Fraction(float(weight[i]))
            assert float(lost) > 0.0 or i < 1


def test_errors_widen_the_margin_as_the_matrix_moves() -> None:
    """P of every network within the errors lies within the margin of P of the given one."""
    family, multipliers = family_of(3, "real", 1.0)
    generator = np.random.default_rng(0)
    size = 1e-3
    loose = replace(
        family,
        weights_error=size * (family.weights != 0.0),
        output_error=size * generator.random(family.output.shape),
    )
    plain = Pencil.of(family).matrix(2.0, multipliers)[0]
    weight = np.exp(generator.standard_normal(len(plain)))
    margin = module._errors(loose, 2.0, multipliers, weight[None])[0]
    largest = 0.0
    for _ in range(200):
        other = replace(
            family,
            weights=family.weights + loose.weights_error * np.sign(generator.standard_normal(family.weights.shape)),
            output=family.output + loose.output_error * np.sign(generator.standard_normal(family.output.shape)),
        )
        moved = np.abs(Pencil.of(other).matrix(2.0, multipliers)[0] - plain) @ weight / weight
        assert (moved <= margin).all()
        largest = max(largest, float((moved / margin).max()))
    assert largest > 0.3


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_nothing_but_a_definite_matrix_is_proven(kind: str) -> None:
    """For ρ a little below the least one the factorization must not end."""
    family, _ = family_of(5, kind, 0.3)
    pencil = Pencil.of(family)
    _, multipliers = closed_form(family, pencil, 1.25)
    least = module._least_rho(pencil, multipliers)
    assert least is not None
    assert is_proven(family, pencil, least * (1 + 1e-9), multipliers)
    for below in (1e-12, 1e-6, 0.1):
        assert not is_proven(family, pencil, least * (1 - below), multipliers)


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf, 2.0**91])
def test_wrong_numbers_are_refused(wrong: float) -> None:
    family, _ = family_of(5, "real", 0.3)
    pencil = Pencil.of(family)
    rho, multipliers = closed_form(family, pencil, 1.25)
    assert is_proven(family, pencil, rho, multipliers)
    assert not is_proven(family, pencil, wrong, multipliers)
    for index in range(6):
        changed = multipliers.copy()
        changed[index] = wrong
        assert not is_proven(family, pencil, rho, changed)
    weights = family.weights.copy()
    weights[0, 0, 0] = wrong
    if wrong != -1.0:
        assert not is_proven(replace(family, weights=weights), pencil, rho, multipliers)
        assert not is_proven(replace(family, high=np.full(6, wrong)), pencil, rho, multipliers)
