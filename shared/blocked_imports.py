"""Keeps modules that a process does not use from loading: it starts faster."""

import importlib
import sys
from types import ModuleType

SQLALCHEMY_SESSIONS = ("sqlalchemy.ext.asyncio.scoping", "sqlalchemy.ext.asyncio.session")
"""What loads all of SQLAlchemy's ORM. We use its core alone."""


def import_without(blocked: str, package: str) -> None:
    """Import `package` as if `blocked` were not installed. Does nothing if `blocked` is loaded already."""
    if blocked in sys.modules:
        return
    sys.modules[blocked] = None  # type: ignore[assignment]  # this is how Python marks a module that cannot be imported
    try:
        importlib.import_module(package)
    finally:
        del sys.modules[blocked]


class _EmptyModule(ModuleType):
    """Every name in it is None, for the package that imports them all."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def leave_out(*modules: str) -> None:
    """Put empty modules in place of these. Does nothing for one that is loaded already."""
    for name in modules:
        sys.modules.setdefault(name, _EmptyModule(name))
