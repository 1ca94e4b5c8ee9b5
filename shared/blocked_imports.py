"""Keeps optional packages from loading: a process that does not use them starts faster."""

import importlib
import sys


def import_without(blocked: str, package: str) -> None:
    """Import `package` as if `blocked` were not installed. Does nothing if `blocked` is loaded already."""
    if blocked in sys.modules:
        return
    sys.modules[blocked] = None  # type: ignore[assignment]  # this is how Python marks a module that cannot be imported
    try:
        importlib.import_module(package)
    finally:
        del sys.modules[blocked]
