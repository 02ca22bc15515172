"""What users get besides the package: the README outside the repository, the action, the hooks, the workflow."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_links_of_the_readme_lead_somewhere_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: given.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    targets = re.findall(r"\]\(([^)]+)\)", given["long_description"])
    own = [target for target in targets if target.startswith(PROJECT["urls"]["Source"])]
    assert len(own) > 10
    assert all(target.startswith(("https://", "#")) for target in targets)
    for target in own:
        path = target.removeprefix(f"{PROJECT['urls']['Source']}/blob/main/").partition("#")[0]
        assert (ROOT / path).exists(), target


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", ["verify", "a model.onnx", "--html", "r.html"]),
        ("--steps 3", ["verify", "a model.onnx", "--steps", "3", "--html", "r.html"]),
        (
            "--exclude '^head layer' $(touch x)",
            ["verify", "a model.onnx", "--exclude", "^head layer", "$(touch", "x)", "--html", "r.html"],
        ),
    ],
)
def test_the_action_hands_over_words_and_runs_none(arguments: str, expected: list[str], tmp_path: Path) -> None:
    program = tmp_path / "sn-graph"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    said = {"COMMAND": "verify", "MODEL": "a model.onnx", "ARGUMENTS": arguments, "REPORT": "r.html"}
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **said}
    script = ["bash", str(ROOT / "tools" / "action.sh")]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["sn-graph"]


def test_the_action_runs_no_other_command(tmp_path: Path) -> None:
    environment = {**os.environ, "COMMAND": "run", "MODEL": "m", "ARGUMENTS": "", "REPORT": ""}
    script = ["bash", str(ROOT / "tools" / "action.sh")]
    assert subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, check=False).returncode == 2


def test_what_services_read_is_yaml_that_names_what_is_there() -> None:
    yaml = pytest.importorskip("yaml", reason="needs pyyaml, which the extra [test] installs")
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    assert action["runs"]["using"] == "composite"
    # A value of a user's must reach no script as text, where it could become code.
    scripts = [step.get("run", "") for step in action["runs"]["steps"]]
    assert not any("${{" in script for script in scripts)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["all"]["steps"][-1]["run"] == "bash .ci/run"
    tested = {
        f"Programming Language :: Python :: {one}" for one in workflow["jobs"]["all"]["strategy"]["matrix"]["python"]
    }
    assert tested == {one for one in PROJECT["classifiers"] if "Python :: 3" in one}
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert {hook["id"] for hook in hooks} == {"sn-graph-verify", "sn-graph-inspect"}
    assert all(re.search(hook["files"], "a/model.onnx") for hook in hooks)


@pytest.mark.parametrize("hook", ["sn-graph-verify", "sn-graph-inspect"])
def test_a_hook_ends_as_the_command_does(hook: str, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="needs pyyaml, which the extra [test] installs")
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    entry = next(one["entry"] for one in hooks if one["id"] == hook)
    program = tmp_path / "sn-graph"
    program.write_text('#!/bin/sh\ntest "$2" != bad.onnx\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for models, code in (("good.onnx fine.onnx", 0), ("good.onnx bad.onnx fine.onnx", 1)):
        done = subprocess.run(["bash", "-c", f"{entry} {models}"], env=environment, check=False)
        assert done.returncode == code
