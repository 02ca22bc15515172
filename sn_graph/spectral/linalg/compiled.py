"""scipy's compiled BLAS and LAPACK, without the rest of scipy.

`import scipy.linalg` takes 150 ms, as long as numpy and onnx together, nearly all of it for array-API shims that
nothing here uses, and `import scipy` 10; the two compiled modules take 5. They are loaded under the names that scipy
gives them, so that scipy.linalg, where something imports it, uses the same ones. A scipy that has no such files, or
must be imported for its libraries to be found (on Windows), is imported.
"""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType

_HOME = "scipy.linalg"


def _compiled(name: str, public: str) -> ModuleType:
    """Return a compiled module of scipy.linalg, or the public one that has the same functions."""
    full = f"{_HOME}.{name}"
    if full not in sys.modules and _HOME not in sys.modules:
        if sys.platform == "win32":
            import_module("scipy")
        scipy = find_spec("scipy")
        folders = [] if scipy is None else scipy.submodule_search_locations or []
        spec = PathFinder.find_spec(full, [str(Path(folder, "linalg")) for folder in folders])
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[full] = module
    return sys.modules.get(full) or import_module(f"{_HOME}.{public}")


BLAS = _compiled("_fblas", "blas")
LAPACK = _compiled("_flapack", "lapack")
