"""`docs/glossary.md` explains this system's words, and names only modules and values that exist."""

from pathlib import Path

import pytest

from tests.docs.pages import page, quoted

ROOT = Path(__file__).parents[2]
BASIC_TERMS = {
    *("model", "tier", "lineup", "machine", "engine", "provider", "wake", "hibernate", "machine state"),
    *("usage event", "ledger", "rollup", "cost row", "spend", "$/Mtok", "day"),
}
"""The words that the whole system is built on."""
ROWS = page("docs/glossary.md").rows("# Glossary")
PACKAGES = ("services", "shared", "spotinference")
SOURCE = "\n".join(path.read_text("utf-8") for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
each_row = pytest.mark.parametrize(("term", "meaning", "module"), ROWS, ids=[row[0] for row in ROWS])


def test_every_basic_term_is_explained() -> None:
    assert {term for term, _, _ in ROWS} >= BASIC_TERMS


@each_row
def test_a_glossary_entry_names_code_that_exists(term: str, meaning: str, module: str) -> None:
    (path,) = quoted(module)
    assert (ROOT / path).exists(), f"{term}: no such module: {path}"
    assert [name for name in quoted(meaning) if name not in SOURCE] == []
