"""Checkpoints and many files: a large checkpoint weight by weight, and a thousand small models.

    python -m tools.bench.fleet checkpoint --layers 4 --folder /tmp    # 2.1 GB; --layers 32 is a model of 7B
    python -m tools.bench.fleet models --count 1000
    python -m tools.bench.fleet checkpoint --layers 1 --width 512 --rounds 1   # seconds, to try it

`checkpoint` writes a bfloat16 checkpoint of Llama's shapes by a seed, a weight at a time, and measures: each shape in
bfloat16 as it is mapped beside the same numbers as a float32 array, in turns, per element; the whole file by
`sn-graph inspect` beside a plain read of it, with the peak of anonymous memory; and, where they are installed, the
norms of matrices of up to --largest elements by torch.linalg.matrix_norm and WeightWatcher, which take all of them.
`models` makes small models by seeds and inspects them with one process, with two, and on a Dask cluster of two workers,
where that is installed.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sn_graph.fleet import find_inputs, run_many
from sn_graph.model.checkpoint import Checkpoint
from sn_graph.spectral.linalg import one_thread
from sn_graph.spectral.matrix import spectral_norm
from tools.bench.common import blas, clock, interleaved, markdown_table, ratios, versions

POLL = 0.005  # seconds between two looks at a process's memory
PACKAGES = ("sn-graph", "numpy", "scipy", "torch", "weightwatcher", "distributed")
STEP = 1 << 22  # elements made at a time


def shapes(layers: int, width: int) -> dict[str, tuple[int, int]]:
    """Return the weights of a Llama by name: 7B's with 32 layers of width 4096."""
    wide = width * 43 // 16
    found = {"model.embed_tokens.weight": (32000, width)}
    for layer in range(layers):
        here = f"model.layers.{layer}"
        found |= {f"{here}.self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        found |= {f"{here}.mlp.{name}_proj.weight": (wide, width) for name in ("gate", "up")}
        found[f"{here}.mlp.down_proj.weight"] = (width, wide)
    return found | {"lm_head.weight": (32000, width)}


def write_checkpoint(path: Path, layers: int, width: int, seed: int = 0) -> None:
    """Write a safetensors file of bfloat16 weights, a few million elements in memory at a time.

    Each is a normal matrix of standard deviation 0.02 with a direction of its own added, as trained weights have.
    """
    weights, position = shapes(layers, width), 0
    header: dict[str, Any] = {}
    for name, (rows, columns) in weights.items():
        size = 2 * rows * columns
        header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (rows, columns) in enumerate(weights.values()):
            random = np.random.default_rng([seed, number])
            left, right = random.standard_normal(rows), random.standard_normal(columns)
            left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
            step = max(1, STEP // columns)
            for start in range(0, rows, step):
                part = left[start : start + step, None] * right * 2.0
                part += 0.02 * random.standard_normal(part.shape, np.float32)
                file.write(part.astype(ml_dtypes.bfloat16).tobytes())


def per_shape(path: Path, rounds: int, largest: int) -> str:
    """Return a table: each shape of the file once, in bfloat16 and in float32, and by other tools."""
    seen: dict[tuple[int, int], str] = {}
    rows = []
    tensors = {tensor.name: tensor for tensor in Checkpoint.open(path).weights}
    for tensor in tensors.values():
        seen.setdefault(tensor.matrix_shape, tensor.name)
    for shape, name in seen.items():
        matrix = tensors[name].matrix()
        wide = matrix.astype(np.float32)
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "float32": partial(clock, partial(spectral_norm, wide)),
            "bfloat16": partial(clock, partial(spectral_norm, matrix)),
        }
        with one_thread():
            taken = interleaved(ways, rounds=rounds)
            tools = other_tools() if matrix.size <= largest else {}
            once = {tool: clock(partial(norm, wide))[0] for tool, norm in tools.items()}  # which takes minutes
        base = [seconds for seconds, _ in taken["float32"]]
        own = [seconds for seconds, _ in taken["bfloat16"]]
        exact = float(np.sqrt(np.linalg.eigvalsh(gram(wide))[-1]))
        ratio = ratios(own, base)
        others = [f"{once[tool] / statistics.median(own):.0f}x" if tool in once else "" for tool in other_tools()]
        error = abs(taken["bfloat16"][0][1] / exact - 1.0)
        seconds = statistics.median(own)
        rows.append(
            [
                f"{shape[0]}×{shape[1]}",
                f"{seconds:.2f} s",
                f"{matrix.size / seconds / 1e6:.0f} M/s",
                f"{ratio.median:.2f}",
                f"{error:.0e}",
                *others,
            ]
        )
    head = ["shape", "bfloat16", "elements", "time over float32's", "off float64", *other_tools()]
    return markdown_table(head, rows)


def gram(wide: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the Gram matrix of the smaller side, in float64: its largest eigenvalue is σ²."""
    tall = wide if wide.shape[0] >= wide.shape[1] else wide.T
    found = np.zeros((tall.shape[1], tall.shape[1]))
    for start in range(0, tall.shape[0], 1024):
        part = tall[start : start + 1024].astype(np.float64)
        found += part.T @ part
    return found


def other_tools() -> dict[str, Callable[[NDArray[np.float32]], float]]:
    """Return the tools that are installed, each as what takes the norm of a matrix."""
    found: dict[str, Callable[[NDArray[np.float32]], float]] = {}
    if importlib.util.find_spec("torch"):
        found["torch"] = by_torch
    if importlib.util.find_spec("weightwatcher"):
        found["WeightWatcher"] = by_weightwatcher
    return found


def by_torch(matrix: NDArray[np.float32]) -> float:
    """Return the norm by torch.linalg.matrix_norm, which takes all singular values."""
    import torch

    torch.set_num_threads(1)
    return float(torch.linalg.matrix_norm(torch.from_numpy(matrix), 2))


def by_weightwatcher(matrix: NDArray[np.float32]) -> float:
    """Return the norm by WeightWatcher's analysis of one layer, without its fits and randomizations."""
    import torch
    import weightwatcher

    layer = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    layer.weight.data = torch.from_numpy(matrix.copy())
    details = weightwatcher.WeightWatcher(model=torch.nn.Sequential(layer)).get_ESD(layer=1)
    return float(np.sqrt(max(details)))


def read_plainly(path: Path) -> float:
    """Return the seconds that reading a file takes."""
    buffer = bytearray(1 << 23)
    begin = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - begin


def inspected(path: Path, *options: str) -> tuple[float, int]:
    """Return the seconds of `sn-graph inspect`, and the peak of its anonymous memory in bytes."""
    command = [sys.executable, "-m", "sn_graph.cli", "inspect", str(path), "--json", "--quiet", *options]
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            peak = max(peak, sum(map(anonymous, family(running.pid))))
            time.sleep(POLL)
    if running.returncode:
        raise SystemExit(f"inspect ended with {running.returncode}")
    return time.perf_counter() - begin, peak


def family(pid: int) -> Iterator[int]:
    """Yield a process and those that come from it."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from family(int(child))


def anonymous(pid: int) -> int:
    """Return the bytes of anonymous memory of a process; mapped files can be dropped by the system at any time."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def checkpoint(folder: Path, layers: int, width: int, rounds: int, largest: int) -> None:
    """Measure a checkpoint, and print what was found."""
    path = folder / "model.safetensors"
    spent, _ = clock(partial(write_checkpoint, path, layers, width))
    size, count = path.stat().st_size, len(shapes(layers, width))
    print(f"{count} weights, {size / 1e9:.2f} GB of bfloat16, made in {spent:.0f} s\n")
    print(per_shape(path, rounds, largest), "\n")
    reading = read_plainly(path)
    seconds, peak = inspected(path)
    print(
        f"inspect: {seconds:.1f} s, {count / seconds:.1f} weights and {size / seconds / 1e6:.0f} MB a second, "
        f"{seconds / reading:.0f} times a plain read ({size / reading / 1e6:.0f} MB/s); "
        f"{peak / 1e6:.0f} MB of anonymous memory"
    )


def write_models(folder: Path, count: int) -> None:
    """Write small models: two convolutions and a Gemm, 100 kB each."""
    for number in range(count):
        random = np.random.default_rng(number)
        kernels = {
            "a": random.standard_normal((16, 3, 3, 3)),
            "b": random.standard_normal((32, 16, 3, 3)),
            "c": random.standard_normal((512, 32)),
        }
        nodes = [
            helper.make_node("Conv", ["x", "a"], ["y"], "/a"),
            helper.make_node("Conv", ["y", "b"], ["z"], "/b"),
            helper.make_node("GlobalAveragePool", ["z"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "c"], ["out"], "/c", transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 512])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in kernels.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / f"model{number:04}.onnx")


def models(count: int) -> None:
    """Measure many small models, and print what was found."""
    from sn_graph.fleet import WeightWork

    work = WeightWork({"sigma": "exact"})
    with tempfile.TemporaryDirectory() as place:
        write_models(Path(place), count)
        inputs = find_inputs([place], [".onnx"])
        ways: dict[str, Callable[[], float]] = {
            f"{jobs} process{'es' if jobs > 1 else ''}": partial(timed, work, inputs, jobs=jobs) for jobs in (1, 2)
        }
        if importlib.util.find_spec("distributed"):
            from distributed import LocalCluster

            cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50)
            ways["Dask, 2 workers"] = partial(timed, work, inputs, dask=cluster.scheduler_address)
        taken = interleaved(ways, rounds=2)
    rows = [[way, f"{min(times):.1f} s", f"{count / min(times):.0f}"] for way, times in taken.items()]
    print(f"{count} models, inspected\n")
    print(markdown_table(["way", "time", "models a second"], rows))


def timed(work: Any, inputs: Any, **options: Any) -> float:
    """Return the seconds that a run of all files takes, and see that none failed."""
    seconds, outcomes = clock(partial(run_many, work, inputs, **options))
    if any(outcome.exit_code for outcome in outcomes):
        raise SystemExit("a model failed")
    return seconds


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["checkpoint", "models"])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest", type=int, default=1 << 24, help="elements of a matrix for the other tools")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made; it is removed")
    arguments = parser.parse_args()
    print(versions(PACKAGES, blas()), "\n")
    if arguments.what == "models":
        models(arguments.count)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        checkpoint(Path(folder), arguments.layers, arguments.width, arguments.rounds, arguments.largest)


if __name__ == "__main__":
    main()
