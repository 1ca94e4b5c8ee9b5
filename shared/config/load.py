"""Reads and checks the configuration file. Only this module reads the environment."""

import os
import re
from pathlib import Path
from typing import Any

from shared.config.sections import Config
from shared.config.validate import faults
from shared.config.values import Duration, Money
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode_text, decode_toml

CONFIG_VARIABLE = "SPOTINFERENCE_CONFIG"
DEFAULT_CONFIG = Path("spotinference.toml")
DEFAULT_DATA_DIR = Path(".spotinference")


def load(path: Path) -> Config:
    """The file's configuration, or `Misconfigured` with the path inside the file, the reason and the fix."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Misconfigured(f"{path}: no such file: name another with --config or {CONFIG_VARIABLE}") from None
    except OSError as error:
        raise Misconfigured(f"{path}: unreadable: {error}") from error
    return parse(data, str(path))


def parse(data: bytes | str, name: str) -> Config:
    try:
        config = decode_toml(data, Config, _special)
    except Unreadable as error:
        raise Misconfigured(f"{name}: {_located(str(error))}") from error
    found = faults(config)
    if found:
        raise Misconfigured("\n".join(f"{name}: {fault}" for fault in found))
    return config


def _special(kind: type[Any], value: object) -> object:
    if kind in (Duration, Money):
        return kind.parse(value)
    if kind is Path:
        if isinstance(value, str) and value:
            return Path(value)
        raise ValueError(f"expected a path, got {value!r}")
    raise NotImplementedError(kind)


def _located(message: str) -> str:
    """msgspec's `what - at `$.a.b`` as `a.b: what`; a table in an array by its number, from 1."""
    what, found, where = message.rpartition(" - at `$")
    if not found:
        return message
    place = re.sub(r"\[(\d+)\]", lambda m: f"[{int(m[1]) + 1}]", where.rstrip("`").lstrip("."))
    return f"{place}: {what[0].lower()}{what[1:]}"


def find_config(named: Path | None, fallback: Path | None = None) -> Path:
    """The file to read: the one named, else `SPOTINFERENCE_CONFIG`, else `./spotinference.toml`, else the fallback."""
    if named is not None:
        return named
    if from_environment := os.environ.get(CONFIG_VARIABLE):
        return Path(from_environment)
    if fallback is not None and not DEFAULT_CONFIG.exists():
        return fallback
    return DEFAULT_CONFIG


def environment(name: str) -> str | None:
    """A secret or a setting of the process: `NAME` itself, or the contents of the file that `NAME_FILE` names."""
    if value := os.environ.get(name):
        return value
    if file := os.environ.get(f"{name}_FILE"):
        try:
            return decode_text(Path(file).read_bytes()).strip()
        except (OSError, Unreadable) as error:
            raise Misconfigured(f"{name}_FILE: {error}") from error
    return None
