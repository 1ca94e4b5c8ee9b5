"""The clients that must work unmodified. One more is a line here and its pins in `requirements/clients`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

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
"""OpenAI's own and the one closest to it: they hand on all that the gateway says."""

FRAMEWORKS = (
    _python("litellm", "tests.clients.drive_litellm"),
    _python("pydantic-ai", "tests.clients.drive_pydantic_ai"),
    _python("instructor", "tests.clients.drive_instructor"),
    _python("llama-index", "tests.clients.drive_llama_index"),
    _python("openai-agents", "tests.clients.drive_openai_agents"),
    _python("llm", "tests.clients.drive_llm"),
    _python("aider", "tests.clients.drive_aider"),
    _node("ai-sdk", "tests/clients/drive_ai_sdk.mjs"),
    _node("langchain-js", "tests/clients/drive_langchain.mjs"),
)
"""What is built on them, or beside them."""

LOAD_TOOLS = (
    _python("aiperf", "tests.clients.drive_aiperf"),
    _python("guidellm", "tests.clients.drive_guidellm"),
)
"""What measures an API by many requests."""


def each(clients: Iterable[Client], *, long: Iterable[str] = ()) -> pytest.MarkDecorator:
    """A module's tests are run with each client; those named are left to `make test-all`."""
    params = [pytest.param(c, id=c.name, marks=pytest.mark.long if c.name in long else ()) for c in clients]
    return pytest.mark.parametrize("module_setup", params, indirect=True, scope="module")
