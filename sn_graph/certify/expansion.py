"""Expansions: every value of a segment as a sum of linear maps of a few values, its atoms.

    v = Σ_a M_{v,a} a + offset

Atoms are the values that the segment begins with, the results of steps that are not linear, and linear values behind
which a form of maps does not compose any further. The forms are matrices (`matrices`) or stencils (`stencils`).
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from sn_graph.certify.segments import Segment
from sn_graph.certify.steps import Composed, Linear, LinearMap, Shape, Step, Summed

F = TypeVar("F")


class Forms(ABC, Generic[F]):
    """A form of linear maps that can be composed, and says where it can't."""

    @abstractmethod
    def identity(self, shape: Shape) -> F | None:
        """Return the identity of arrays of a shape; None where the form does not hold it."""

    @abstractmethod
    def single(self, part: LinearMap, form: F) -> F | None:
        """Return `part`, no composition and no sum, behind a map; None where that is not of the form."""

    @abstractmethod
    def added(self, first: F, second: F) -> F | None:
        """Return the sum of two maps between the same shapes; None where that is not of the form."""

    def through(self, part: LinearMap, form: F) -> F | None:
        """Return `part` behind a map; None where that is not of the form."""
        if isinstance(part, Composed):
            made: F | None = form
            for one in part.maps:
                made = None if made is None else self.through(one, made)
            return made
        if not isinstance(part, Summed):
            return self.single(part, form)
        total: F | None = None
        for one in part.maps:
            term = self.through(one, form)
            total = term if total is None or term is None else self.added(total, term)
            if total is None:
                return None
        return total


class Kind(StrEnum):
    """What an atom is."""

    START = "start"
    STEP = "step"  # the result of a step that is not linear
    MASK = "mask"  # a linear value that is read where it does not compose
    OPAQUE = "opaque"  # the result of a linear step that is not of the form


@dataclass(frozen=True, eq=False)
class Atom:
    """A value that others are expanded in.

    Attributes:
        name: The value's.
        kind: What it is.
        shape: Its shape.
        step: The step that makes it, if it is not a start.
    """

    name: str
    kind: Kind
    shape: Shape
    step: Step | None = None


@dataclass(frozen=True, eq=False)
class Expansion(Generic[F]):
    """The values of a segment in terms of its atoms.

    Attributes:
        atoms: By key, in an order in which each is made of earlier ones; all but masks by their names.
        terms: For each value what those that read it take it for: the form of the map from each atom, by the atom's
            key. An atom's is the identity of itself.
        arguments: The same of what each mask is a copy of, by the mask's key.
    """

    atoms: Mapping[str, Atom]
    terms: Mapping[str, Mapping[str, F]]
    arguments: Mapping[str, Mapping[str, F]]


def expand(segment: Segment, forms: Forms[F]) -> Expansion[F] | None:
    """Expand the values of a segment; None where its starts are not of the form.

    A value that becomes a mask is one for all that read it, so that they see the same.
    """
    masks: set[str] = set()
    while True:
        attempt = _Expanding(segment, forms, masks)
        found = attempt.expansion()
        if attempt.wanted <= masks:
            return found
        masks |= attempt.wanted


class _Expanding(Generic[F]):
    def __init__(self, segment: Segment, forms: Forms[F], masks: Collection[str]) -> None:
        self._segment, self._forms, self._masks = segment, forms, masks
        self._atoms: dict[str, Atom] = {}
        self._terms: dict[str, Mapping[str, F]] = {}
        self._arguments: dict[str, Mapping[str, F]] = {}
        # The values that have to be masks.
        self.wanted: set[str] = set()

    def expansion(self) -> Expansion[F] | None:
        for name, shape in self._segment.starts.items():
            if not self._add(name, Atom(name, Kind.START, shape)):
                return None
        for step in self._segment.steps:
            found = self._linear(step) if isinstance(step, Linear) else None
            if found is None:
                kind = Kind.OPAQUE if isinstance(step, Linear) else Kind.STEP
                if not self._add(step.result, Atom(step.result, kind, step.shape, step)):
                    return None
                continue
            self._terms[step.result] = found
            if step.result in self._masks:
                key = f"{step.result}~mask"
                self._arguments[key] = found
                if not self._add(key, Atom(step.result, Kind.MASK, step.shape)):
                    return None
        return Expansion(self._atoms, self._terms, self._arguments)

    def _add(self, key: str, atom: Atom) -> bool:
        identity = self._forms.identity(atom.shape)
        if identity is None:
            return False
        self._atoms[key] = atom
        self._terms[atom.name] = {key: identity}
        return True

    def _linear(self, step: Linear) -> Mapping[str, F] | None:
        total: dict[str, F] = {}
        for part, name in zip(step.parts, step.operands, strict=True):
            own = self._through(part, name)
            if own is None:
                return None
            for key, form in own.items():
                summed = form if key not in total else self._forms.added(total[key], form)
                if summed is None:
                    return None
                total[key] = summed
        return total

    def _through(self, part: LinearMap, name: str) -> Mapping[str, F] | None:
        """A part behind a value, of which a mask is wanted where it does not compose with what makes it."""
        found: dict[str, F] = {}
        for key, form in self._terms[name].items():
            result = self._forms.through(part, form)
            if result is not None:
                found[key] = result
                continue
            identity = self._forms.identity(self._segment.shapes[name])
            alone = None if identity is None else self._forms.through(part, identity)
            if alone is None:
                return None
            self.wanted.add(name)
            return {name: alone}
        return found
