"""Screenshots of HTML reports, for the docs.

python -m tools.screenshots [FOLDER]      # docs/images; needs the extra `test`, and Chromium
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "inspect": ["models/keras_dcgan_discriminator.onnx", "--sigma", "upper", "--norm", "operator"],
    "fold": ["models/torch_sngan_discriminator.onnx", "-o", "folded.onnx"],
    "verify": ["models/keras_dcgan_discriminator.onnx", "--steps", "3"],
}
SIZES = {360: 740, 1440: 1000}


def main() -> None:
    """Make the pages, and a picture of each at both widths, light and dark."""
    images = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder = Path(place)
        shutil.copytree(ROOT / "models", folder / "models")
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, words in PAGES.items():
            command = [sys.executable, "-m", "sn_graph.cli", name, *words, "--html", f"{name}.html", "-q"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
            for width, height in SIZES.items():
                for scheme in ("light", "dark"):
                    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                    page.goto((folder / f"{name}.html").as_uri())
                    page.screenshot(path=images / f"{name}-{scheme}-{width}.png")
                    page.close()
        browser.close()


if __name__ == "__main__":
    main()
