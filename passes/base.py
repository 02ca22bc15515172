"""Passes: a name, options, and `apply(model, plan) -> PassResult`.

Third parties register theirs under the entry point group `sn_graph.passes`; `sn_graph.apply` and `sn-graph run` find
them there by name.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from types import UnionType
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.errors import UsageError
from sn_graph.model import Model, Storage
from sn_graph.plan import Plan, rebind
from sn_graph.progress import Progress, silent
from sn_graph.report import Report, Reported, SiteRecord, log_report
from sn_graph.rewrite import Copy, Rescaled

Options = TypeVar("Options")


@dataclass(frozen=True, repr=False)
class PassResult(Reported):
    """A changed model, what was done, and what it takes to prove it.

    Attributes:
        model: The result; nothing is written yet.
        plan: What was asked for, of `source`; None for a pass that follows no plan.
        sites: One record a weight, in graph order.
        rescaled: The tensors that were multiplied.
        copies: The constants and nodes that were added for readers that must not read the original.
        vectors: The right singular vectors [cols] of weights' matrices by id, where they were found on the way.
        source: The model before the pass, the caller's own: a proof is of what it is then. None where `apply` was
            called, which changes it in place.
        options: The pass's options.
        name: The pass's name.
        lipschitz: The Lipschitz constant that is proven of the model; None where none was asked for.
        before: The result whose model is `source`, where two passes followed each other: it is to be proved too.
    """

    model: Model
    plan: Plan | None
    sites: tuple[SiteRecord, ...]
    rescaled: tuple[Rescaled, ...] = ()
    copies: tuple[Copy, ...] = ()
    vectors: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    source: Model | None = None
    options: Any = None
    name: str = ""
    before: "PassResult | None" = None
    lipschitz: float | None = None

    @property
    def idle(self) -> bool:
        """Whether no weight was eligible, so that there was nothing to do."""
        return all(site.status == "skipped" for site in self.sites)

    @property
    def report(self) -> Report:
        """The result as `--json` prints it, before anything is written."""
        opset = {entry.domain: entry.version for entry in self.model.proto.opset_import}
        convention, reason = ("", "") if self.plan is None else (str(self.plan.convention), self.plan.convention_reason)
        return Report.of(self.model.name, opset, convention, reason, self.sites)

    def save(self, path: str | os.PathLike[str], storage: Storage = Storage.KEEP, progress: Progress = silent) -> None:
        """Write the model to `path`, atomically, without running it; `sn_graph.proofs.save` proves it first."""
        self.model.save(path, storage, progress)

    def to_proto(self) -> onnx.ModelProto:
        """Return the complete ModelProto."""
        return self.model.to_proto()


class Pass(ABC, Generic[Options]):
    """A transformation of a model by a plan; calling one changes a copy.

    A subclass of `Pass[O]`, where O is the frozen dataclass of its options or None, sets `name` and says in its
    docstring what stays as it was.

    Attributes:
        name: What it is registered under.
        options: The options of this one.
    """

    name: ClassVar[str]

    def __init__(self, options: Options) -> None:
        self.options = options

    def __call__(self, source: Model, plan: Plan, progress: Progress = silent) -> PassResult:
        """Return what the pass makes of a copy of `source`, which stays as it is.

        Args:
            source: The model.
            plan: What is to be done, made of this very Model.
            progress: Told how far it is.

        Raises:
            ModelError: The pass can't be applied to the model.
        """
        self.requires(source, plan)
        model = source.copy()
        result = self.apply(model, rebind(plan, model), progress)
        result = replace(result, plan=plan, source=source, options=self.options, name=self.name)
        self.ensures(result)
        log_report(self.name, result.report)
        return result

    @abstractmethod
    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> PassResult:
        """Change `model` in place as `plan` says, and report on every site of the plan."""

    def requires(self, source: Model, plan: Plan) -> None:
        """Raise ModelError where the pass can't be applied to a model."""

    def ensures(self, result: PassResult) -> None:
        """Raise RuntimeError where the result is not what the pass promises: a fault of the pass."""
        if result.plan is not None and len(result.sites) != len(result.plan.sites):
            raise RuntimeError(f"pass '{self.name}' reports on {len(result.sites)} of {len(result.plan.sites)} weights")


def load_pass(name: str) -> type[Pass[Any]]:
    """Return a registered pass. Raises UsageError where no package offers one of that name."""
    from importlib.metadata import entry_points  # 12 ms to import

    found = entry_points(group="sn_graph.passes")
    for entry in found:
        if entry.name == name:
            loaded: type[Pass[Any]] = entry.load()
            return loaded
    known = ", ".join(sorted(set(found.names)))
    raise UsageError(f"no pass '{name}' is installed", f"there are {known}", "give one of them")


def make_pass(name: str, options: Mapping[str, Any]) -> Pass[Any]:
    """Return a registered pass with options given by name; words stand for the members of an enumeration.

    Raises:
        UsageError: No package offers the pass, it has no option of a name, or the value does not fit.

    >>> make_pass("fold", {"sigma": "power", "seed": 3}).options.seed
    3
    """
    kind = load_pass(name)
    options_type = _options_type(kind)
    if options_type is None:
        if options:
            raise UsageError(f"pass '{name}' has no options", do=f"leave {', '.join(options)} out")
        return kind(None)
    hints, known = get_type_hints(options_type), {one.name for one in fields(options_type) if one.init}
    chosen = {}
    for key, value in options.items():
        if key not in known:
            raise UsageError(f"pass '{name}' has no option '{key}'", f"it has {', '.join(sorted(known))}")
        try:
            chosen[key] = _fitting(value, hints[key])
        except (ValueError, TypeError) as error:
            raise UsageError(f"option '{key}' of pass '{name}' can't be {value!r}", str(error)) from None
    try:
        return kind(options_type(**chosen))
    except (ValueError, TypeError) as error:
        raise UsageError(f"the options of pass '{name}' don't fit together", str(error)) from None


def _options_type(kind: type[Pass[Any]]) -> type[Any] | None:
    """Return the dataclass of a pass's options: what its class gives Pass as a parameter; None where it has none."""
    for base in (base for each in kind.__mro__ for base in getattr(each, "__orig_bases__", ())):
        found = get_args(base)[0] if get_origin(base) is Pass else None
        if isinstance(found, type) and is_dataclass(found):
            return found
    return None


def require_seed(seed: int) -> None:
    """Raise UsageError where a seed is negative."""
    if seed < 0:
        raise UsageError(f"{seed} is not a seed", do="give 0 or more")


def _fitting(value: Any, hint: Any) -> Any:
    """Return a value of the type that an option is declared with. Raises ValueError or TypeError where it has none."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for kind in kinds:
        plain = get_origin(kind) or kind
        if isinstance(plain, type) and issubclass(plain, Enum):
            words = [str(member.value) for member in plain]
            if value not in words:
                raise ValueError(f"it is one of {', '.join(words)}")
            return plain(value)
        if plain is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(plain, type) and isinstance(value, plain) and (plain is not int or not isinstance(value, bool)):
            return value
    raise TypeError(f"it is declared as {getattr(hint, '__name__', hint)}")
