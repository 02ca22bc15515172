"""Matrices that are written out, against the steps, and their errors against twice the precision."""

import numpy as np
import pytest

from sn_graph.certify.matrices import Matrices, Matrix, many
from sn_graph.certify.steps import Array, Composed, Linear, Multiplied, Placed, Reshaped, Scaled
from tests.support.certified import network, nodes


def held(form: Matrix | None) -> Matrix:
    assert form is not None
    return form


@pytest.mark.parametrize("shape", [(1, 6), (1, 2, 5, 4)])
def test_columns_are_what_the_steps_do(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((3, 2, 3, 3)),
        "g": rng.standard_normal((3, 1, 1)),
        "m": rng.standard_normal((6, 5)),
    }
    conv = (
        ("Conv", ["x", "w"], "a", {"pads": [1, 1, 0, 2], "strides": [2, 1]}),
        ("Mul", ["a", "g"], "b"),
        ("Transpose", ["b"], "c", {"perm": [0, 2, 3, 1]}),
        ("Flatten", ["c"], "y"),
    )
    dense = (("MatMul", ["x", "m"], "a"), ("Neg", ["a"], "b"), ("Concat", ["a", "b"], "y", {"axis": 1}))
    made = network(nodes(*(conv if len(shape) == 4 else dense), x=shape, held=weights))
    forms = Matrices()
    form = held(forms.identity(shape))
    x = rng.standard_normal(shape)
    values = {"x": (x, form)}
    for step in made.steps:
        assert isinstance(step, Linear)
        parts = [
            held(forms.through(part, values[name][1])) for part, name in zip(step.parts, step.operands, strict=True)
        ]
        total = parts[0]
        for one in parts[1:]:
            total = held(forms.added(total, one))
        values[step.result] = (step.forward(*(values[name][0] for name in step.operands)), total)
        assert np.allclose(total.dense() @ x.reshape(-1), values[step.result][0].reshape(-1))


def test_products_are_within_their_errors() -> None:
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal((40, 40)) for _ in range(4)]
    forms = Matrices()
    form = held(forms.identity((1, 40)))
    exact = np.eye(40, dtype=np.longdouble)
    for weight in weights:
        form = held(forms.through(Multiplied.by((1, 40), weight), form))
        form = held(forms.through(Scaled.by((1, 40), np.array(1.0 / 3.0), 2.0**-53), form))
        exact = weight.T.astype(np.longdouble) @ exact / np.longdouble(3)
    off = float(np.linalg.norm((exact - form.dense()).astype(np.float64)))
    assert 0.0 < off <= form.error < 1e-9
    assert form.norm() >= np.linalg.norm(form.dense(), 2)


def test_what_is_too_large_is_not_written_out() -> None:
    forms = Matrices(100)
    assert forms.identity((1, 11)) is None
    form = forms.identity((1, 10))
    assert form is not None
    assert forms.through(Placed((1, 10), (1, 11), 1, 0), form) is None
    moved = forms.through(Reshaped((1, 10), (10, 1)), form)
    assert moved is form
    assert form.norm() == 1.0


def test_what_is_empty_is_not_written_out() -> None:
    forms = Matrices()
    assert forms.identity((1, 0)) is None
    assert forms.through(Multiplied.by((1, 3), np.zeros((3, 0))), held(forms.identity((1, 3)))) is None


def test_many_at_once() -> None:
    rng = np.random.default_rng(2)
    arrays: Array = rng.standard_normal((3, 2, 4))
    part = Composed.of(
        [
            Multiplied.by((2, 4), rng.standard_normal((4, 5))),
            Reshaped((2, 5), (1, 10)),
            Placed((1, 10), (1, 12), 1, 1),
            Scaled.by((1, 12), rng.standard_normal(12)),
        ]
    )
    assert np.allclose(many(part, arrays), np.stack([part.forward(one) for one in arrays]))
