"""Lets the tests of a worker share what is compiled, as each of them has engines, and a site, of its own.

Compiling took a third of the CPU time of a test of a database, and a tenth of one of the site's pages.
"""

from typing import Any

from jinja2 import Environment
from sqlalchemy import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache

_statements: LRUCache[Any, Any] = LRUCache(5000)
_templates: dict[tuple[Any, ...], Any] = {}
_create_engine = Engine.__init__
_compile_template = Environment.compile


def _create_sharing_engine(engine: Engine, *arguments: Any, **options: Any) -> None:
    _create_engine(engine, *arguments, **options)
    engine._compiled_cache = _statements


def _compile_template_once(environment: Environment, *source: Any, **options: Any) -> Any:
    key = (*source, *options.items())
    if key not in _templates:
        _templates[key] = _compile_template(environment, *source, **options)
    return _templates[key]


def _are_of_a_kind(dialect: DefaultDialect, other: object) -> bool:
    return type(dialect) is type(other)


def _hash_of_kind(dialect: DefaultDialect) -> int:
    return hash(type(dialect))


for _owner, _name, _replacement in (
    (Engine, "__init__", _create_sharing_engine),
    (Environment, "compile", _compile_template_once),
    # A statement is cached by its dialect too, of which each engine has one.
    (DefaultDialect, "__eq__", _are_of_a_kind),
    (DefaultDialect, "__hash__", _hash_of_kind),
):
    setattr(_owner, _name, _replacement)
