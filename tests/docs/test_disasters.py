"""`docs/reference/disasters.md` names tests that exist, and says of each row which test shows it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import page

PAGE = page("docs/reference/disasters.md")
SECTIONS = ("## Services", "## The bus", "## Databases", "## Machines and providers", "## Hosts")
ROWS = [row for section in SECTIONS for row in PAGE.rows(section)]
NAMED = sorted(set(re.findall(r"\[(\w+)\]\((\S+\.py)\)", PAGE.text)))


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return frozenset(n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize(("name", "target"), NAMED)
def test_a_named_test_exists(name: str, target: str) -> None:
    assert name in functions_of((PAGE.path.parent / target).resolve())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_names_its_runbook_and_its_test(row: list[str]) -> None:
    *_, shown_by, runbook = row
    assert len(row) == 6
    assert re.search(r"\.py\)", shown_by) or "not tested" in shown_by
    assert re.fullmatch(r"\[\S+\]\(\.\./runbooks/\S+\.md\)", runbook)
