"""Libraries under the names of CUDA's, without CUDA: enough for onnxruntime's CUDA provider to load a model.

The provider of onnxruntime-gpu links against libcudart, libcublas, … by name and symbol version. Each of these is built
here from the symbols that the provider wants: those of `runtime.c`, and for the rest a function that returns 0.
So sessions open, and nodes are placed, on a machine without a GPU and without CUDA. What they compute is nothing.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path

RUNTIME = Path(__file__).with_name("runtime.c")
PROVIDER = Path("onnxruntime", "capi", "libonnxruntime_providers_cuda.so")
# Whose symbols have no version, by prefix.
_UNVERSIONED = {"curand": "libcurand.so", "cufft": "libcufft.so", "cudnn": "libcudnn.so", "cu": "libcuda.so"}
_HANDLE = re.compile(r"Create(Handle|WithFlags)?(_v2)?$")


def build(wheel: Path, folder: Path) -> None:
    """Write the libraries that the CUDA provider in an unpacked wheel needs into a folder; needs gcc and binutils.

    Raises:
        subprocess.CalledProcessError: A tool fails.
    """
    provider = str(wheel / PROVIDER)
    needed = re.findall(r"\[(lib(?:cu|nv)[^]]+)\]", _output("readelf", "-d", provider))
    symbols = defaultdict(set)
    for line in _output("nm", "-D", "--undefined-only", provider).splitlines():
        name, _, version = line.split()[-1].partition("@")
        library = version.lstrip("@") or next((so for so in needed if so.startswith(_owner(name))), "")
        if library in needed:
            symbols[library].add(name)
    runtime = RUNTIME.read_text(encoding="utf-8")
    defined = set(re.findall(r"^(?:int|void \*|const char \*)\s*(\w+)\(", runtime, re.MULTILINE))
    for library in needed:
        is_runtime = library.startswith("libcudart")
        lines = [runtime] if is_runtime else []
        lines += [_returning_0(name) for name in sorted(symbols[library] - (defined if is_runtime else set()))]
        source, versions = folder / f"{library}.c", folder / f"{library}.map"
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        versions.write_text(f"{library} {{ global: *; }};\n", encoding="utf-8")
        _output(
            *("gcc", "-shared", "-fPIC", "-w", f"-DCUDA_MAJOR={_major(needed)}", "-o", str(folder / library)),
            *(str(source), f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"),
        )


def _owner(symbol: str) -> str:
    return next((library for prefix, library in _UNVERSIONED.items() if symbol.startswith(prefix)), "no library")


def _major(needed: list[str]) -> str:
    return next(so for so in needed if so.startswith("libcudart")).rpartition(".")[2]


def _returning_0(name: str) -> str:
    if _HANDLE.search(name):
        return f"int {name}(void **handle) {{ static char object[4096]; *handle = object; return 0; }}"
    return f"int {name}(void) {{ return 0; }}"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
