"""What the services' code says of itself: which there are, what they import, and so whom they talk to."""

import ast
from functools import cache
from pathlib import Path

from shared.bus.permissions import ROLES
from tests.deploy.manifests import REAPER, ROOT, SETUP

_PACKAGES = {SETUP: "setup", REAPER: "reap"}
SERVICES = tuple(sorted(path.parent.name for path in (ROOT / "services").glob("*/__main__.py")))
COMMANDS = (SETUP, REAPER)
"""What runs as a job."""
BUS_USERS = tuple(name for name in ROLES if name in {*SERVICES, *COMMANDS})
_ROOMS = {name: f"services/{name}" for name in SERVICES} | {
    name: f"spotinference/{_PACKAGES[name]}" for name in COMMANDS
}


@cache
def imports(service: str) -> frozenset[str]:
    """Return every module that a service's own modules import by name, late imports too."""
    modules: set[str] = set()
    for path in sorted((ROOT / _ROOMS[service]).rglob("*.py")):
        modules |= _imported(path)
    return frozenset(modules)


def _imported(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def talks_to_engines(service: str) -> bool:
    """Who asks engines has their keys."""
    return "shared.engine_keys" in imports(service)


def talks_to_database(service: str) -> bool:
    return "shared.database" in imports(service)


def talks_to_clouds(service: str) -> bool:
    """Who calls them by itself, or builds the waker's providers."""
    of_clouds = ("boto3", "shared.clouds.", "services.waker.wiring.build_provider")
    return any(name.startswith(of_clouds) for name in imports(service))


def talks_to_identity_providers(service: str) -> bool:
    return any(name.startswith(f"services.{service}.adapters.identity.") for name in imports(service))
