"""The clients that must work unmodified. One more is a line here and its pins in `requirements/clients`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.clients import environments
from tests.clients.environments import PINS, Command


@dataclass(frozen=True)
class Client:
    """A published package and the program that drives it."""

    name: str
    pins: Path
    install: Callable[[Path, Path], None]
    command: Callable[[Path, str], Command]
    driver: str

    def prepared(self) -> Command:
        """How to start its driver, in an environment that holds exactly what is pinned."""
        return self.command(environments.prepared(self.name, self.pins, self.install), self.driver)


def _python(name: str, driver: str = "tests.clients.drive") -> Client:
    pins = PINS / f"{name}.txt"
    return Client(name, pins, environments.install_python, environments.python_command, driver)


def _node(name: str, driver: str = "tests/clients/drive.mjs") -> Client:
    pins = PINS / name / "package-lock.json"
    return Client(name, pins, environments.install_node, environments.node_command, driver)


CLIENTS = (
    _python("openai-1"),
    _python("openai-2"),
    _python("openai-3"),
    _python("langchain-openai", "tests.clients.drive_langchain"),
    _node("openai-node"),
)
