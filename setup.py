"""The README as packages show it: its links lead into the repository from outside too. pyproject.toml has the rest."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

_ROOT = Path(__file__).parent
_SOURCE = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]


def _outside(readme: str) -> str:
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", rf"]({_SOURCE}/blob/main/\1)", readme)


setup(
    long_description=_outside((_ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
