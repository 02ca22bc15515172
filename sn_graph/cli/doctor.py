"""`sn-graph doctor`: what is installed, what runs, what collides, and which tools freeze an inserted state."""

import platform
from dataclasses import asdict
from importlib import metadata
from typing import Any

from sn_graph.cli.app import command
from sn_graph.cli.console import Settings
from sn_graph.cli.table import Table, print_tables
from sn_graph.errors import EnvironmentUnavailable
from sn_graph.version import __version__

_PACKAGES = (
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "scipy",
    "ml_dtypes",
    "protobuf",
    "safetensors",
    "click",
    "rich",
    "onnx-graphsurgeon",
    "tf2onnx",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "tf-keras",
    "torch",
)
_REQUIRED = ("onnx", "numpy", "scipy", "ml_dtypes", "protobuf", "safetensors", "click", "rich")
# Wheels that install the same module: whichever came last wins, in part.
_COLLIDING = (("onnxruntime", "onnxruntime-gpu"), ("tensorflow", "tensorflow-cpu"))


@command
def doctor(
    settings: Settings,
) -> None:
    """Show versions, execution providers, conflicts, and what other tools do to an inserted state.

    A tool that freezes a state takes its default for a constant; verify --state finds out.
    Ends with exit code 4 where packages collide, or one that sn-graph needs is missing.
    """
    report = examine()
    settings.tell(**report)
    if not settings.json:
        table = Table("what", "version", wrapped=("version",))
        for name, version in {**report["versions"], **report["packages"]}.items():
            table.add((name, version or "not installed"))
        table.add(("providers", ", ".join(report["providers"]) or "none"))
        titles = ("tool", "version", "tried", "--state-mode default", "--state-mode required")
        tools = Table(*titles, wrapped=("tool",), least_wanted=("tried", "version"))
        for tool in report["tools"]:
            version = tool["version"] or ("not installed" if tool["registry"] == "pypi" else tool["registry"])
            tools.add((tool["name"], version, tool["tested"], tool["default"], tool["required"]))
        print_tables(table, "", tools)
    if not report["providers"]:
        settings.say(
            "without onnxruntime nothing is run: fold needs --no-verify; pip install 'sn-graph[cpu]', or [gpu]"
        )
    if report["conflicts"]:
        raise EnvironmentUnavailable("; ".join(report["conflicts"]))


def examine() -> dict[str, Any]:
    """Return versions, packages, usable execution providers, conflicts and tools that an inserted state may meet."""
    from sn_graph.proofs import TOOLS
    from sn_graph.runtime import available_providers

    packages = {name: _version(name) for name in _PACKAGES}
    conflicts = [
        f"{first} and {second} are both installed and overwrite each other's files; uninstall both, then install one"
        for first, second in _COLLIDING
        if packages[first] and packages[second]
    ]
    conflicts += [f"{name} is missing; pip install sn-graph again" for name in _REQUIRED if not packages[name]]
    try:
        providers = list(available_providers())
    except EnvironmentUnavailable as error:
        providers = []
        if packages["onnxruntime"] or packages["onnxruntime-gpu"]:
            conflicts.append(str(error))
    versions = {"sn-graph": __version__, "python": platform.python_version(), "platform": platform.platform()}
    tools = [{**asdict(tool), "version": _version(tool.package) if tool.registry == "pypi" else None} for tool in TOOLS]
    return {
        "versions": versions,
        "packages": packages,
        "providers": providers,
        "conflicts": conflicts,
        "tools": tools,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
