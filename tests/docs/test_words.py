"""What the documents say is there: links, commands, make targets, configurations."""

import re
import tomllib
from pathlib import Path

import pytest

from shared.config import parse
from spotinference.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"\bspotinference ([a-z]+)")
TARGET = re.compile(r"(?:`|^)make ([a-z-]+)", re.MULTILINE)
PROSE = {"sells", "up"}
"""Words that follow the project's name in a sentence."""


def pages() -> list[object]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", pages())
def test_every_command_exists(page: Path) -> None:
    for name in COMMAND.findall(page.read_text("utf-8")):
        assert name in COMMANDS or name in PROSE, name


@pytest.mark.parametrize("page", pages())
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for name in TARGET.findall(page.read_text("utf-8")):
        assert name in targets, name


@pytest.mark.parametrize("page", pages())
def test_every_configuration_is_accepted(page: Path) -> None:
    for language, text in BLOCK.findall(page.read_text("utf-8")):
        if language == "toml":
            tomllib.loads(text)
            parse(text, str(page))


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"`{name}`" not in text and f"spotinference {name}" not in text] == []
