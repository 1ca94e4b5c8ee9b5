"""Packages that others load where they find them, and that a process has no use for: it starts quicker without."""

import importlib
import sys


def import_without(needless: str, package: str) -> None:
    """Import `package` as if `needless` were not installed; what is loaded already stays as it is."""
    if needless in sys.modules:
        return
    sys.modules[needless] = None  # type: ignore[assignment]  # this is how Python marks what cannot be imported
    try:
        importlib.import_module(package)
    finally:
        del sys.modules[needless]
