"""Pages in a browser: nothing sticks out, nothing is said on the console, and they can be used by everyone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_names import NAMES
from tests.support.browser import opened, violations
from tests.support.builders import drawn, network, node, saved
from tests.support.command_line import invoke
from tests.support.places import MODELS

COMMANDS = {
    "inspect": ("inspect", MODELS / "keras_dcgan_discriminator.onnx", "--sigma", "upper", "--norm", "operator"),
    "computed": ("inspect", MODELS / "torch_sngan_spectral_norm_torchscript.onnx"),
    "fold": ("fold", MODELS / "torch_sngan_discriminator.onnx", "-o", "OUT"),
    "insert": ("insert", MODELS / "keras_dcgan_discriminator.onnx", "-o", "OUT"),
    "lift": ("lift", MODELS / "torch_sngan_spectral_norm_torchscript.onnx", "-o", "OUT"),
    "verify": ("verify", MODELS / "keras_dcgan_discriminator.onnx", "--steps", "3"),
    "hostile": ("inspect", "HOSTILE"),
}
WIDTHS = (360, 768, 1024, 1440)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def paths(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each command."""
    assert browser, "which skips all of this before any page is made"
    folder = tmp_path_factory.mktemp("pages")
    longest = "scope/" * 400 + "kernel"
    names = [*NAMES, longest]
    nodes = [node("MatMul", ["x", name], [f"y{place}"], name=name) for place, name in enumerate(names)]
    weights = {name: drawn(4, 4, seed=place) for place, name in enumerate(names)}
    proto = network(nodes, weights, {"x": (1, 4)}, [f"y{place}" for place in range(len(names))])
    places = {"OUT": folder / "out.onnx", "HOSTILE": saved(proto, folder / "<b>hostile & long.onnx")}
    made = {}
    for name, command in COMMANDS.items():
        made[name] = folder / f"{name}.html"
        words = [places.get(word, word) if isinstance(word, str) else word for word in command]
        ended = invoke(*words, "--html", made[name])
        assert ended.code == 0, ended.err
    return made


class Shown:
    """A page that a browser shows, and what it had to say on the console or asked the network for."""

    def __init__(self, browser: Any, path: Path, width: int = 1440, scheme: str = "light", **options: Any) -> None:
        viewport = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, **options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.said.append(request.url))
        self.page.goto(path.as_uri())
        assert self.said.pop(0) == path.as_uri()

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def column(self, key: str) -> list[str]:
        """What a column of the table holds, of the rows that are shown."""
        script = """key => [...document.querySelectorAll("#sites tbody tr:not([hidden])")]
            .map(row => row.querySelector(`[data-key="${key}"]`).dataset.value)"""
        found: list[str] = self.page.evaluate(script, key)
        return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_sticks_out_or_complains_or_keeps_anybody_out(
    name: str, scheme: str, browser: Any, paths: dict[str, Path]
) -> None:
    # axe-core is a script of ours that the page's own policy would refuse.
    with Shown(browser, paths[name], scheme=scheme, bypass_csp=True) as shown:
        assert violations(shown.page) == []
        shown.page.set_viewport_size({"width": WIDTHS[0], "height": 900})
        assert violations(shown.page) == []
        for every in (False, True):
            shown.page.evaluate("open => document.querySelectorAll('details').forEach(d => { d.open = open; })", every)
            for width in WIDTHS:
                shown.page.set_viewport_size({"width": width, "height": 900})
                assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.said == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_keeps_to_its_own_policy(name: str, browser: Any, paths: dict[str, Path]) -> None:
    """With the policy in force nothing is refused, so that nothing in it needed more."""
    with Shown(browser, paths[name]) as shown:
        shown.page.keyboard.press("Tab")
        assert shown.said == []
        refused = shown.page.evaluate(
            """() => new Promise(done => {
                addEventListener("securitypolicyviolation", () => done(true));
                const script = document.createElement("script");
                script.textContent = "document.title = 'taken'";
                document.body.append(script);
                setTimeout(() => done(false), 2000);
            })"""
        )
        assert refused
        assert shown.page.title() != "taken"


def test_sorting(browser: Any, paths: dict[str, Path]) -> None:
    with Shown(browser, paths["fold"]) as shown:
        given = shown.column("sigma")
        button = shown.page.get_by_role("button", name="σ", exact=True)
        header = shown.page.get_by_role("columnheader", name="σ", exact=True)
        button.click()
        assert shown.column("sigma") == sorted(given, key=float, reverse=True), "the largest are what one looks for"
        assert header.get_attribute("aria-sort") == "descending"
        button.press("Enter")
        assert shown.column("sigma") == sorted(given, key=float)
        assert header.get_attribute("aria-sort") == "ascending"
        shown.page.get_by_label("Sort by").select_option("graph order")
        assert shown.column("sigma") == given
        assert header.get_attribute("aria-sort") == "none"
        shown.page.get_by_role("button", name="weight").click()
        assert shown.column("name") == sorted(shown.column("name"))


def test_searching(browser: Any, paths: dict[str, Path]) -> None:
    with Shown(browser, paths["fold"]) as shown:
        search, found = shown.page.get_by_label("Search"), shown.page.get_by_role("status")
        search.fill("SHORTCUT blocks.1")
        assert shown.column("name") == ["blocks.1.shortcut.weight"]
        assert found.inner_text() == "1 of 11 weights"
        assert shown.page.locator("details:visible").count() == 1
        search.fill("nothing of the kind")
        assert found.inner_text() == "0 of 11 weights"
        search.fill("")
        assert len(shown.column("name")) == 11


def test_a_weights_own_part_is_a_key_away(browser: Any, paths: dict[str, Path]) -> None:
    with Shown(browser, paths["fold"]) as shown:
        link = shown.page.get_by_role("link", name="blocks.2.conv1.weight")
        link.focus()
        shown.page.keyboard.press("Enter")
        shown.page.wait_for_function("document.activeElement.tagName === 'SUMMARY'")
        part = shown.page.locator("details[open]").filter(has_text="blocks.2.conv1.weight")
        assert part.get_by_role("img", name="Singular values").is_visible()
        assert part.get_by_role("img", name="Power iteration").is_visible()


def test_a_reader_hears_a_title_headings_and_a_table(browser: Any, paths: dict[str, Path]) -> None:
    with Shown(browser, paths["fold"], 360) as shown:
        assert "torch_sngan_discriminator.onnx" in shown.page.title()
        assert shown.page.get_by_role("heading", level=1).count() == 1
        table = shown.page.get_by_role("table", name="Every weight, with its spectral norm σ")
        assert table.get_by_role("row").count() == 12
        assert table.get_by_role("rowheader").count() == 11


def test_without_scripts_it_is_whole(browser: Any, paths: dict[str, Path]) -> None:
    with Shown(browser, paths["fold"], java_script_enabled=False) as shown:
        assert shown.page.get_by_role("row").count() > 11
        shown.page.locator("summary").nth(3).click()
        assert shown.page.locator("details[open]").count() == 2


def test_paper_shows_everything(browser: Any, paths: dict[str, Path]) -> None:
    with Shown(browser, paths["fold"]) as shown:
        shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert shown.page.locator("details:not([open])").count() == 0
        shown.page.emulate_media(media="print")
        assert not shown.page.get_by_label("Search").is_visible()
        assert shown.page.pdf(format="A4").startswith(b"%PDF")
        shown.page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert shown.page.locator("details[open]").count() == 1


def test_hostile_names_are_read_and_do_nothing(browser: Any, paths: dict[str, Path]) -> None:
    with Shown(browser, paths["hostile"]) as shown:
        names = shown.column("name")
        assert "<script>alert(1)</script>" in names
        assert r"a\nforged line" in names
        assert shown.page.locator("script").count() == 1
        assert shown.page.locator("img:not(svg), iframe, object, [onclick], [onerror]").count() == 0
        assert shown.page.evaluate(
            "[...document.links].every(link => link.getAttribute('href').startsWith('#weight-'))"
        )
        assert shown.said == []
