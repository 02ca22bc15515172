"""Lazy faces: packages that hand out names of their modules, and import a module when a name of it is first used.

    with lazily(__name__):
        from sn_graph.model.graph import Graph, Node

reads as the statement alone does, to people, type checkers and whoever looks at the syntax tree, and imports nothing
yet, as `lazy from` does from Python 3.15 on (PEP 810). What stands behind all faces takes longer to import than numpy
and onnx, and three quarters of it are not needed to inspect a model (docs/decisions/0010).
"""

import builtins
import sys
from _thread import allocate_lock  # threading takes a millisecond, and this runs before Ctrl-C is caught
from types import ModuleType

TYPE_CHECKING = False  # as typing has it, which takes two
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_one_at_a_time = allocate_lock()


def lazily(package: str) -> "_Block":
    """Return the block in which a package, by its `__name__`, imports the names that it hands out.

    Nothing but `from … import …` may stand in the block, and the package itself can't use the names.
    """
    return _Block(sys.modules[package])


class _Block:
    """A block in which the import statements of one package note what they would import."""

    def __init__(self, package: ModuleType) -> None:
        self._package = package

    def __enter__(self) -> None:
        _one_at_a_time.acquire()
        self._import = builtins.__import__
        builtins.__import__ = self._noted

    def __exit__(self, *_: object) -> None:
        builtins.__import__ = self._import
        _one_at_a_time.release()
        names = vars(self._package)
        homes = {name: value for name, value in names.items() if isinstance(value, _Noted)}
        for name in homes:
            del names[name]
        names["_homes"] = homes
        self._package.__class__ = _Face

    def _noted(
        self,
        name: str,
        globals: "Mapping[str, object] | None" = None,
        locals: "Mapping[str, object] | None" = None,
        fromlist: "Sequence[str] | None" = (),
        level: int = 0,
    ) -> ModuleType:
        if globals is vars(self._package):
            return _Home(name)
        return self._import(name, globals, locals, fromlist, level)  # of another thread


class _Home(ModuleType):
    """What stands for a module in a `from` statement."""

    def __getattr__(self, name: str) -> "_Noted":
        return _Noted(self.__name__, name)


class _Noted:
    """A name, and the module that it is to come from."""

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


class _Face(ModuleType):
    """A package with names that are imported when they are used."""

    _homes: dict[str, _Noted]
    __all__: list[str]

    def __getattr__(self, name: str) -> object:
        home = vars(self)["_homes"].get(name)
        if home is None:
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
        from importlib import import_module

        vars(self)[name] = found = getattr(import_module(home.module), home.name)
        return found

    def __setattr__(self, name: str, value: object) -> None:
        """Bind a name; where a module is called as what is handed out of it (`certify`), the latter stays."""
        if not (isinstance(value, ModuleType) and name in self._homes):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return self.__all__
