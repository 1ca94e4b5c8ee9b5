"""The version in the code is the package's."""

import tomllib
from pathlib import Path

from shared.version import VERSION


def test_version_is_the_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
