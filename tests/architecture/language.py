"""The rules for names: plain identifiers, log events in snake_case, one name for a day."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from tests.architecture.parsed import all_nodes

DIALECT = frozenset(
    {
        *("told", "tell", "tells", "telling", "hear", "hears", "heard", "hearing"),
        *("look", "looks", "looked", "looking", "say", "says", "said"),
        *("found", "given", "asked", "asks", "noted", "wanted", "thing", "things"),
    }
)
"""Words that say too little in a name: write what the value holds, or what the function does."""
WIRE_FIELDS = frozenset({"heard", "looked_at", "wanted"})
"""Fields of messages on the bus, whose names stay."""
MESSAGES = PurePosixPath("shared/messages")
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")

LOG_METHODS = {"debug", "info", "warning", "error", "critical", "exception"}
_EVENT = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")

PRODUCT = ("services", "shared", "spotinference")
UNITS = PurePosixPath("shared/units.py")
_LENGTH = re.compile(r"_?(DAY|HOUR|MINUTE)(_S|_MS|_SECONDS|_MILLIS)?")
_DAY_NUMBERS = {86_400, 86_400_000}


def plain_identifiers(path: PurePosixPath, text: str) -> list[str]:
    """No class, function, parameter or variable is named with a word that says too little."""
    return [
        f"line {line}: {name!r} says too little: name what it holds or does"
        for name, line in sorted(_defined_names(all_nodes(text)), key=lambda pair: pair[1])
        if _is_dialect(name) and not (name in WIRE_FIELDS and MESSAGES in path.parents)
    ]


def _is_dialect(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    return bool(DIALECT.intersection(words)) and not ("not" in words and DIALECT.intersection(words) == {"found"})


def _defined_names(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, int]]:
    for node in nodes:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name, node.lineno
            case _:
                pass


def snake_case_events(path: PurePosixPath, text: str) -> list[str]:
    """A log event is snake_case, its object first: `machine_transitioned`."""
    if path.parts[0] not in PRODUCT:
        return []
    return [
        f"line {node.lineno}: log event {event!r}: write it as `machine_transitioned`"
        for node in all_nodes(text)
        if isinstance(node, ast.Call) and (event := _log_event(node)) is not None and not _EVENT.fullmatch(event)
    ]


def _log_event(node: ast.Call) -> str | None:
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="log"), attr=method), args=[ast.Constant(value=str(event)), *_]
        ) if method in LOG_METHODS:
            return event
        case _:
            return None


def one_day(path: PurePosixPath, text: str) -> list[str]:
    """Lengths of time come from `shared.units`. A migration stays as it was written."""
    if path.parts[0] not in PRODUCT or path == UNITS or "versions" in path.parts:
        return []
    return [
        f"line {line}: {what}: import it from `shared.units`"
        for node in all_nodes(text)
        for what, line in _own_lengths(node)
    ]


def _own_lengths(node: ast.AST) -> Iterator[tuple[str, int]]:
    match node:
        case ast.Constant(value=int() | float() as number) if number in _DAY_NUMBERS:
            yield f"{number:g} is a day", node.lineno
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant() | ast.BinOp()) if _LENGTH.fullmatch(name):
            yield f"{name} is defined again", node.lineno
        case _:
            pass
