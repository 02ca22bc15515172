"""Foreign names: forty that act or forge, at every place that prints a name; none does anything."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

import sn_graph as sn
from sn_graph.errors import printable
from tests.support.builders import drawn, network, node
from tests.support.command_line import invoke

NAMES = [
    "a\x1b[2Jb", "a\x1b[31mred", "a\x1b]0;title\x07", "a\x1b]8;;http://x\x1b\\link", "a\x1bP q\x1b\\", "a\x9b31m",
    "a\x9d0;t\x9c", "a\x08\x08b", "a\rforged", "a\nforged line", "a\r\nforged", "a\x0bb", "a\x0cb", "a\x7fb",
    "a\x85b", "a\u2028b", "a\u2029b", "a\u202eb", "a\u202db", "a\u2066b\u2069", "a\u200fb", "a\u200bb", "a\ufeffb",
    "a\u061cb", "a\U000e0041b", "a\ue000b", "a\ufffeb", "[/]", "[bold]a[/bold]", "[link=javascript:alert(1)]a[/link]",
    "[red]a", "a[/red]", ":warning:", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a\" onclick=\"b",
    "&lt;b&gt;", "a%s%n{0}", "\\x1b[2J", "a\tb",
]  # fmt: skip
FORBIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}


def acts(text: str) -> list[str]:
    return [c for c in text if unicodedata.category(c) in FORBIDDEN and c != "\n"]


def model(name: str) -> onnx.ModelProto:
    """Every name in it is the hostile one, with a letter behind it where two must differ."""
    first, hidden, last = node("MatMul", ["x", name], [name + "h"], name=name), name + "h", name + "y"
    second = node("MatMul", [hidden, name + "2"], [last], name=name + "n")
    weights = {name: drawn(4, 6), name + "2": drawn(6, 6)}
    proto = network([first, second], weights, {"x": (1, 4)}, outputs=[last])
    proto.producer_name = name
    return proto


def unusable(name: str) -> onnx.ModelProto:
    """A model whose refusal names its weight."""
    proto = model(name)
    proto.graph.initializer[0].raw_data = np.full((4, 6), np.nan, np.float32).tobytes()
    return proto


@pytest.mark.parametrize("name", NAMES)
def test_no_name_acts_in_a_pipe_a_page_or_json(name: str, tmp_path: Path) -> None:
    paths = {kind: tmp_path / f"{kind}.onnx" for kind in ("plain", "bad", "in", "out")}
    onnx.save(model(name), paths["plain"])
    onnx.save(unusable(name), paths["bad"])
    page = tmp_path / "page.html"
    runs = [
        invoke("inspect", paths["plain"], "-v", "--html", page),
        invoke("fold", paths["plain"], "-o", paths["out"], "-v"),
        invoke("insert", paths["plain"], "-o", paths["in"], "-v"),
        invoke("verify", paths["in"]),
        invoke("verify", paths["plain"], "--state"),
        invoke("strip", paths["in"], "-o", paths["out"]),
        invoke("fold", paths["bad"], "-o", paths["out"]),
    ]
    assert [run.code for run in runs] == [0, 0, 0, 0, 3, 0, 3], runs
    for run in runs:
        assert acts(run.out + run.err) == []
        assert "forged" not in {line.split(" ")[0] for line in (run.out + run.err).splitlines()}
    assert runs[6].err.count("\n") == 1
    assert len(runs[0].out.splitlines()) == 3
    told = page.read_text(encoding="utf-8")
    assert acts(told) == []
    assert not re.search(r"<script>alert|<img|href=(?!\"#weight-\d+\")|onclick=\"", told)
    found = invoke("inspect", paths["plain"], "--json")
    assert found.out.isascii()
    assert [site["id"] for site in json.loads(found.out)["sites"]] == [name, name + "2"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_acts_in_what_is_typed_or_read_beside_a_model(name: str, tmp_path: Path) -> None:
    """Commands, options, plans, states, checkpoints and the pages of lift, verify and certify."""
    plain, plan, state, page = (tmp_path / end for end in ("m.onnx", "p.json", "s.safetensors", "page.html"))
    onnx.save(model(name), plain)
    assert invoke("inspect", plain, "--plan", plan).code == 0
    content = json.loads(plan.read_text())
    content["sites"][0] |= {"id": name + "gone", "weight": name + "gone"}
    plan.write_text(json.dumps(content))
    save_file({name + ".v": np.ones(3, np.float32)}, state, {"convention": name, "model": name})
    checkpoint = tmp_path / "c.safetensors"
    save_file({name: drawn(6, 4)}, checkpoint, {name: name})
    out = ["-o", tmp_path / "o.onnx"]
    runs = [
        (0, invoke("lift", plain, *out, "-v")),
        (0, invoke("certify", plain, "-v", "--html", page)),
        (3, invoke("fold", plain, *out, "--plan", plan)),
        (3, invoke("insert", plain, *out, "--state", state)),
        (0, invoke("inspect", checkpoint)),
        (1, invoke("inspect", checkpoint, "--assert", "sigma < 0.01")),
        (2, invoke(name, plain)),
        (2, invoke("run", name, plain, *out)),
        (2, invoke("inspect", plain, f"--{name}")),
        (2, invoke("inspect", plain, "--op-type", name)),
        (2, invoke("inspect", plain, "--convention", name)),
        (2, invoke("verify", plain, "--providers", name)),
        (2, invoke("verify", plain, "--dim", f"{name}=3")),
        (2, invoke("inspect", plain, "--assert", f"{name} < 1")),
    ]
    assert [run.code for _, run in runs] == [code for code, _ in runs], runs
    for _, run in runs:
        assert acts(run.out + run.err) == []
        assert not any(line.startswith("forged") for line in (run.out + run.err).splitlines())
    told = page.read_text(encoding="utf-8")
    assert acts(told) == []
    assert not re.search(r"<script>alert|<img src|href=\"?javascript|onclick=\"b", told)
    assert runs[3][1].err.count("\n") == runs[2][1].err.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_errors_of_the_library_can_be_printed(name: str) -> None:
    with pytest.raises(sn.ModelError) as refused:
        sn.fold(unusable(name))
    assert acts(str(refused.value)) == []
    assert "\n" not in str(refused.value)


def file_name(name: str) -> str:
    return name.replace("/", "∕") + ".onnx"


def forged(text: str) -> list[str]:
    """The lines that a name with a line break would have made, and the letters of it that act."""
    return [*acts(text), *(line for line in text.splitlines() if line.startswith("forged"))]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_file_acts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models, outputs, plans, states, pages and folders of such names, there and not there."""
    monkeypatch.chdir(tmp_path)
    own = file_name(name)
    Path(own).write_bytes(model(name).SerializeToString())
    made, gone = f"./made {own}", f"./gone {own}"
    runs = [
        (0, invoke("inspect", f"./{own}", "--html", f"./{own}.html", "--plan", f"./{own}.json")),
        (0, invoke("fold", f"./{own}", "-o", made, "--plan", f"./{own}.json")),
        (1, invoke("verify", f"./{own}", made)),
        (0, invoke("insert", f"./{own}", "-o", made)),
        (0, invoke("verify", made)),
        (0, invoke("strip", made, "-o", made)),
        (0, invoke("lift", f"./{own}", "-o", made)),
        (0, invoke("run", "fold", f"./{own}", "-o", made)),
        (0, invoke("certify", f"./{own}", "--budget", "0.01")),
        (3, invoke("export-keras", f"./{own}", "-o", made)),
        (3, invoke("inspect", gone)),
        (3, invoke("fold", f"./{own}", "-o", made, "--plan", gone)),
        (3, invoke("insert", f"./{own}", "-o", made, "--state", gone)),
        (3, invoke("verify", f"./{own}", "--inputs", gone)),
        (4, invoke("fold", f"./{own}", "-o", f"./{own}/out.onnx")),
    ]
    assert [run.code for _, run in runs] == [code for code, _ in runs], runs
    for code, run in runs:
        assert forged(run.out + run.err) == []
        assert code in (0, 1) or run.err.count("\n") == 1
    told = Path(f"{own}.html").read_text(encoding="utf-8")
    assert acts(told) == []
    assert not re.search(r"<script>alert|<img|href=(?!\"#weight-\d+\")|onclick=\"", told)


def test_no_name_acts_in_the_results_of_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The summary, JSON lines, JUnit and SARIF of files with such names, one of them no model and one not there."""
    monkeypatch.chdir(tmp_path)
    files = [f"./{file_name(name)}" for name in NAMES]
    for file, name in zip(files, NAMES, strict=True):
        Path(file).write_bytes(model(name).SerializeToString())
    wrong, gone = "./wrong\x1b[31m\nforged.onnx", "./gone\x1b]0;t\x07\nforged.onnx"
    Path(wrong).write_bytes(b"text")
    results = ["--jsonl", "r.jsonl", "--junit", "r.xml", "--sarif", "r.sarif", "--assert", "sigma < 0.01"]
    ended = invoke("inspect", *files, wrong, gone, *results)
    assert ended.code == 3
    assert forged(ended.out + ended.err) == []
    assert len(ended.out.splitlines()) == len(files) + 3, "a heading, and a line a file"
    for kind in ("jsonl", "xml", "sarif"):
        assert forged(Path(f"r.{kind}").read_text(encoding="utf-8")) == []
    lines = [json.loads(line) for line in Path("r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(line["input"] for line in lines) == sorted([*files, wrong, gone])
    assert {site["id"] for line in lines for site in line.get("sites", ())} >= set(NAMES)
    cases = ElementTree.parse("r.xml").getroot().iter("testcase")
    assert len(list(cases)) == 3 * len(files) + 2, "each file, and its two weights"
    (run,) = json.loads(Path("r.sarif").read_text(encoding="utf-8"))["runs"]
    assert len(run["results"]) >= len(files)


def on_terminal(folder: Path, *arguments: object) -> str:
    """What a command says on a terminal, without the sequences that rich makes itself, for colours and its bar."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "sn_graph.cli", *map(str, arguments)]
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    with subprocess.Popen(command, cwd=folder, env=environment, close_fds=True, **streams) as process:  # type: ignore[call-overload]
        os.close(slave)
        said = b""
        try:
            while piece := os.read(master, 1 << 16):
                said += piece
        except OSError:  # how a terminal says that the last writer has gone
            pass
    os.close(master)
    assert process.returncode == 0, said
    ours = r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[12]K|\x1b\[[0-9]*A|\r(?!\n)"
    return re.sub(ours, "", said.decode().replace("\r\n", "\n"))


def test_no_name_acts_on_a_terminal(tmp_path: Path) -> None:
    """All names at once, in one model, whose file has one too; nothing is left but rich's own sequences."""
    nodes = [node("MatMul", ["x", name], [f"y{place}"], name=name) for place, name in enumerate(NAMES)]
    proto = network(nodes, {name: drawn(4, 4) for name in NAMES}, {"x": (1, 4)}, [f"y{i}" for i in range(len(NAMES))])
    proto.producer_name = NAMES[0]
    own, inserted, out = "./m\x1b]0;t\x07\nforged.onnx", "./i\x1b[2J\nforged.onnx", "./o\x1b[2J\nforged.onnx"
    (tmp_path / own).write_bytes(proto.SerializeToString())
    commands = {
        "inspect": ["inspect", "-v", own],
        "fold": ["fold", "-v", own, "-o", out],
        "insert": ["insert", "-v", own, "-o", inserted],
        "verify": ["verify", "-v", inserted],
        "strip": ["strip", "-v", inserted, "-o", out],
        "lift": ["lift", "-v", own, "-o", out],
        "certify": ["certify", "-v", own, "--input", "x", "--output", "y0", "--budget", "0.01"],
        "run": ["run", "fold", "-v", own, "-o", out],
        "many": ["inspect", own, inserted],
    }
    for command, words in commands.items():
        text = on_terminal(tmp_path, *words)
        assert forged(text) == [], command
        if command in ("inspect", "fold", "insert", "lift", "run"):
            assert r"a\x1b[2Jb" in text
            assert r"a\nforged line" in text
            assert ":warning:" in text


def test_letters_of_all_languages_stay() -> None:
    for name in ("größe/核.weight", "свёртка", "وزن", "é", "🙂"):
        assert printable(name) == name
    assert re.search(printable("a\x1b\u202e"), "a\x1b\u202e")


@pytest.mark.parametrize(("closed", "code"), [("2>&-", 0), ("<&-", 0), (">&-", 4), ("<&- >&- 2>&-", 4)])
def test_closed_streams_get_no_file(closed: str, code: int, tmp_path: Path) -> None:
    """The report has nowhere to go without stdout, which is said; the model is written all the same."""
    onnx.save(model("w"), tmp_path / "m.onnx")
    program = f'"{sys.executable}" -m sn_graph.cli fold m.onnx -o o.onnx {closed}'
    done = subprocess.run(["sh", "-c", program], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == code
    assert code == 0 or "2>&-" in closed or b"o.onnx was written all the same" in done.stderr
    expected = sn.fold(tmp_path / "m.onnx").to_proto()
    assert onnx.load(tmp_path / "o.onnx") == expected
    failing = f'"{sys.executable}" -m sn_graph.cli fold absent.onnx -o o.onnx {closed}'
    assert subprocess.run(["sh", "-c", failing], cwd=tmp_path, check=False, capture_output=True).returncode == 3


def test_files_whose_names_are_not_utf8(tmp_path: Path) -> None:
    source, target = (os.path.join(os.fsencode(tmp_path), name) for name in (b"\xff.onnx", b"\xfe.onnx"))
    with open(source, "wb") as file:
        file.write(model("w").SerializeToString())
    program = [sys.executable, "-m", "sn_graph.cli"]
    plan, page = target + b".json", target + b".html"
    commands: list[list[str | bytes]] = [
        ["fold", source, "-o", target],
        ["insert", source, "-o", target],
        ["verify", source],
        ["inspect", source, "--json", "--plan", plan, "--html", page],
        ["fold", source, "-o", target, "--plan", plan],
    ]
    for command in commands:
        done = subprocess.run([*program, *command], check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"structure" not in done.stderr
        done.stderr.decode()
