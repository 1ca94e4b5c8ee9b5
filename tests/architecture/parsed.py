"""Modules as the rules read them: parsed and walked once for all rules of a module, which was most of their time."""

import ast
from functools import lru_cache


@lru_cache(maxsize=1)
def parse(text: str) -> ast.Module:
    return ast.parse(text)


@lru_cache(maxsize=1)
def all_nodes(text: str) -> list[ast.AST]:
    """Return every node of a module."""
    return list(ast.walk(parse(text)))
