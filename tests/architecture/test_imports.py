"""No two modules import each other, directly or through others."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.parsed import all_nodes

ROOT = Path(__file__).parents[2]
PACKAGES = ("services", "shared", "spotinference", "tests", "bench")


def _module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(text: str, modules: frozenset[str]) -> Iterator[str]:
    """Yield the project's modules that a module imports, those inside functions included and those for types not."""
    nodes = all_nodes(text)
    types_only = {
        inner
        for node in nodes
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in nodes:
        if node in types_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [member if member in modules else node.module for member in members]
        else:
            continue
        yield from modules.intersection(names)


def _check_acyclic(sources: dict[str, str]) -> None:
    """Raise `graphlib.CycleError`, which names the modules of the cycle."""
    modules = frozenset(sources)
    graph = {module: set(_imported(text, modules)) for module, text in sources.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_no_two_modules_import_each_other() -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    _check_acyclic({_module_of(path): path.read_text("utf-8") for path in paths})


def test_a_cycle_is_reported() -> None:
    sources = {"a": "from b import c", "b.c": "def f():\n    import d", "d": "from a import x", "b": ""}
    with pytest.raises(graphlib.CycleError, match="cycle"):
        _check_acyclic(sources)
    _check_acyclic({**sources, "d": ""})
