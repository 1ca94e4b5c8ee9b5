"""Migrations expand first and contract later: each says which it does, and one that expands only adds."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEFORE_THE_RULE = {"meter": "0011", "billing": "0004"}
"""The newest revisions from before the rule (docs/adr/0026-expand-contract.md)."""
ADDING = {"add_column", "create_table", "create_index"}
SCRIPTS = sorted((ROOT / "services").glob("*/adapters/migrations/versions/*.py"))


def faults(service: str, text: str) -> list[str]:
    tree = ast.parse(text)
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if str(constants["revision"]) <= BEFORE_THE_RULE.get(service, ""):
        return []
    if not isinstance(constants.get("additive"), bool):
        return ["says neither `additive = True` nor `additive = False`"]
    if not constants["additive"]:
        return []
    return [
        f"line {node.lineno}: op.{node.attr} does not only add"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "op"
        if node.attr not in ADDING
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_migration_declares_whether_it_is_additive(path: Path) -> None:
    assert faults(path.relative_to(ROOT).parts[1], path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("revision = '0001'\n", True),
        ("revision = '9001'\n", False),
        ("revision = '9001'\nadditive = False\nop.drop_table('x')\n", True),
        ("revision = '9001'\nadditive = True\nop.add_column('x', y)\n", True),
        ("revision = '9001'\nadditive = True\nop.drop_table('x')\n", False),
        ("revision = '9001'\nadditive = True\nop.execute('UPDATE x SET y = 1')\n", False),
    ],
)
def test_rule_reports_a_migration_that_breaks_it(text: str, good: bool) -> None:
    assert (faults("meter", text) == []) is good
