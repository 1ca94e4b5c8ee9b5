"""Reads and checks the configuration file. Only this module reads the environment."""

import os
import re
from pathlib import Path
from typing import Any

from shared.config.sections import Config
from shared.config.validate import find_faults, table_place
from shared.config.values import Duration, Money
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode_text, decode_toml

CONFIG_VARIABLE = "SPOTINFERENCE_CONFIG"
DEFAULT_CONFIG = Path("spotinference.toml")
DEFAULT_DATA_DIR = Path(".spotinference")
_MSGSPEC_TEXTS = (
    (r"^Object contains unknown field `(.+)`$", r'unknown key "\1"'),
    (r"^Object missing required field `(.+)`$", r'the key "\1" is required'),
    (r"^Invalid enum value (.+)$", r"\1 is not one of the allowed values"),
)
"""Its errors, in the words of a TOML file."""


def load(path: Path) -> Config:
    """Read, parse and check a configuration file.

    Raises:
        Misconfigured: each line names the place in the file, the reason and the fix.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Misconfigured(f"{path}: no such file: name another one with --config or {CONFIG_VARIABLE}") from None
    except OSError as error:
        raise Misconfigured(f"{path}: cannot be read: {error}") from error
    return parse(data, str(path))


def parse(data: bytes | str, name: str) -> Config:
    """Parse and check a configuration; `name` stands for the file in the faults of `Misconfigured`."""
    try:
        config = decode_toml(data, Config, _parse_value)
    except Unreadable as error:
        raise Misconfigured(f"{name}: {_describe(str(error), data)}") from error
    faults = find_faults(config)
    if faults:
        raise Misconfigured("\n".join(f"{name}: {fault}" for fault in faults))
    return config


def _parse_value(kind: type[Any], value: object) -> object:
    """Make the values that msgspec has no type for."""
    if kind in (Duration, Money):
        return kind.parse(value)
    if kind is Path:
        if isinstance(value, str) and value:
            return Path(value)
        raise ValueError(f"must be a path, got {value!r}")
    raise NotImplementedError(kind)


def _describe(message: str, data: bytes | str) -> str:
    """Turn msgspec's `Expected `int`, got `str` - at `$.tier[0].max`` into `tier "a": max: expected int, got str`."""
    what, at, path = message.rpartition(" - at `$")
    what, place = (what, _place(path.rstrip("`").lstrip("."), data)) if at else (message, "")
    for pattern, text in _MSGSPEC_TEXTS:
        what = re.sub(pattern, text, what)
    if not place:
        return what
    what = what.replace("`", "")
    return f"{place} {what}" if what.startswith("must ") else f"{place}: {what[0].lower()}{what[1:]}"


def _place(path: str, data: bytes | str) -> str:
    """Name a table of an array by its name instead of its number: `tier[0].provider` becomes `tier "a": provider`."""
    row = re.fullmatch(r"(tier|machine|model)\[(\d+)\](?:\.(.+))?", path)
    if row is None:
        return re.sub(r"\[(\d+)\]", lambda index: f"[{int(index[1]) + 1}]", path)
    table, index, key = row[1], int(row[2]), row[3]
    tables = decode_toml(data, dict[str, Any], _parse_value)
    content = tables[table][index]
    place = table_place(table, index + 1, content.get("id" if table == "machine" else "name"))
    return place if key is None else f"{place}: {key}"


def find_config(named: Path | None, fallback: Path | None = None) -> Path:
    """Return the file to read: the one named, `SPOTINFERENCE_CONFIG`, `./spotinference.toml`, or the fallback."""
    if named is not None:
        return named
    if from_environment := os.environ.get(CONFIG_VARIABLE):
        return Path(from_environment)
    if fallback is not None and not DEFAULT_CONFIG.exists():
        return fallback
    return DEFAULT_CONFIG


def environment(name: str) -> str | None:
    """Return a setting or secret of the process: `NAME` itself, or the contents of the file that `NAME_FILE` names."""
    if value := os.environ.get(name):
        return value
    if file := os.environ.get(f"{name}_FILE"):
        try:
            return decode_text(Path(file).read_bytes()).strip()
        except (OSError, Unreadable) as error:
            raise Misconfigured(f"{name}_FILE: {error}") from error
    return None


def environment_file(name: str) -> Path | None:
    """Return the file in which a secret may change while the process runs; None if `NAME` itself is set, or neither."""
    file = os.environ.get(f"{name}_FILE")
    return Path(file) if file and not os.environ.get(name) else None
