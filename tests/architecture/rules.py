"""The house rules that no linter knows. Each takes a module's path and text and returns what is wrong with it."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from shared.runtime.logs import REDACTED
from tests.architecture.language import one_day, plain_identifiers, snake_case_events
from tests.architecture.parsed import all_nodes, parse

MAX_FILE_LINES = 300
MAX_TEST_FILE_LINES = 450
MAX_FUNCTION_LINES = 70
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff"}
_SILENCED = re.compile(r"#\s*(?:noqa|type:\s*ignore)\b(?P<codes>:\s*[A-Z0-9, ]+|\[[\w, -]+\])?(?P<rest>.*)$")
_REASON = re.compile(r"\s*(?:-+|#)\s*\S.{3,}")

DECODING_ROOMS = ("services", "shared", "spotinference")
CODEC = PurePosixPath("shared/messages/codec.py")
"""The only module that may turn bytes into text by itself, and raise where they are none."""
LENIENT = {"latin-1", "replace", "backslashreplace", "ignore"}
"""Ways to decode that take every byte."""

Rule = Callable[[PurePosixPath, str], list[str]]


PRINTERS = {
    PurePosixPath("spotinference/terminal.py"),
    PurePosixPath("spotinference/up/console.py"),
    *(PurePosixPath(f"spotinference/engine/{name}.py") for name in ("__main__", "model_file")),
    *(PurePosixPath(f"spotinference/demo/{name}.py") for name in ("steps", "suite")),
}
"""Beside `terminal`: what prints our own words alone, and the demo, which asks `printable` itself."""
_PRINTS = re.compile(r"click\.s?echo\(|(?<![.\w])print\(|rich\.console import .*\bConsole\b")


def short_file(path: PurePosixPath, text: str) -> list[str]:
    limit = MAX_TEST_FILE_LINES if path.parts[0] == "tests" else MAX_FILE_LINES
    lines = len(text.splitlines())
    return [f"{lines} lines, at most {limit}: split it by what it owns"] if lines > limit else []


def short_functions(_path: PurePosixPath, text: str) -> list[str]:
    faults = []
    for node in all_nodes(text):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                faults.append(f"line {node.lineno}: {node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}")
    return faults


def specific_module_name(path: PurePosixPath, _text: str) -> list[str]:
    vague = VAGUE_NAMES & {*path.parts[:-1], path.stem}
    return [f"{name!r} says nothing about what is inside" for name in sorted(vague)]


def docstring(path: PurePosixPath, text: str) -> list[str]:
    tree = parse(text)
    if path.name == "__init__.py" and not tree.body:
        return []
    return [] if ast.get_docstring(tree) else ["no docstring: say what the module owns"]


def reasons(_path: PurePosixPath, text: str) -> list[str]:
    """A silenced check names its code and, after ` - ` or another `#`, the reason."""
    return [
        f"line {number}: a silenced check needs its code and its reason beside it"
        for number, line in enumerate(text.splitlines(), 1)
        if (match := _SILENCED.search(line)) and not (match["codes"] and _REASON.fullmatch(match["rest"]))
    ]


def _decodes_text(call: ast.Call) -> bool:
    """Whether a call makes text of bytes, and raises where they are none."""
    if not isinstance(call.func, ast.Attribute):
        return False
    arguments = (*call.args, *(word.value for word in call.keywords))
    words = [value.value for value in arguments if isinstance(value, ast.Constant)]
    if LENIENT.intersection(words):
        return False
    if call.func.attr == "read_text":
        return True
    # A `Decoder`'s own `decode` takes data, never a constant; what was encoded a moment ago can be decoded.
    own = isinstance(call.func.value, ast.Call) and ast.unparse(call.func.value.func).endswith("encode")
    return call.func.attr == "decode" and len(words) == len(arguments) and not own


def no_decoding(path: PurePosixPath, text: str) -> list[str]:
    """Bytes from outside become text in the codec alone. ruff's `banned-api` has the rest of this rule."""
    if path.parts[0] not in DECODING_ROOMS or path == CODEC:
        return []
    return [
        f"line {node.lineno}: bytes become text in shared/messages/codec.py alone: use `decode_text`"
        for node in all_nodes(text)
        if isinstance(node, ast.Call) and _decodes_text(node)
    ]


def one_printer(path: PurePosixPath, text: str) -> list[str]:
    """What commands print passes through one module, which keeps text from outside from steering the terminal."""
    if path.parts[0] != "spotinference" or path in PRINTERS:
        return []
    return [
        f"line {number}: print with `spotinference.terminal`"
        for number, line in enumerate(text.splitlines(), 1)
        if _PRINTS.search(line)
    ]


def _stored_errors(node: ast.AST, *, is_released: bool, handled: frozenset[str]) -> Iterator[int]:
    """Yield the lines that raise an error from a variable, outside a `try` whose `finally` releases it."""
    if isinstance(node, ast.Raise) and node.exc is not None and not is_released:
        name = ast.unparse(node.exc)
        if (
            not isinstance(node.exc, ast.Call)
            and name.rpartition(".")[2].lstrip("_")[0].islower()
            and name not in handled
        ):
            yield node.lineno
    for child in ast.iter_child_nodes(node):
        inside = is_released or (isinstance(node, ast.Try) and bool(node.finalbody) and child in node.body)
        names = handled | {node.name} if isinstance(node, ast.ExceptHandler) and node.name else handled
        yield from _stored_errors(child, is_released=inside, handled=frozenset(names))


def releases_errors(path: PurePosixPath, text: str) -> list[str]:
    """A frame that keeps an error which it raised is kept by it, with all it holds, until a collection of garbage."""
    if path.parts[0] != "services" or path.parts[1] == "gateway":
        return []
    return [
        f"line {line}: raises a stored error, whose traceback then keeps this frame: release it in a `finally`"
        for line in _stored_errors(parse(text), is_released=False, handled=frozenset())
    ]


def shown_log_fields(_path: PurePosixPath, text: str) -> list[str]:
    """A field of a log line whose name is redacted shows nothing."""
    return [
        f"line {node.lineno}: the log shows no field of the name {word.arg}: take another"
        for node in all_nodes(text)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log.")
        for word in node.keywords
        if word.arg in REDACTED
    ]


RULES: tuple[Rule, ...] = (
    releases_errors,
    shown_log_fields,
    short_file,
    short_functions,
    specific_module_name,
    docstring,
    reasons,
    no_decoding,
    one_printer,
    plain_identifiers,
    snake_case_events,
    one_day,
)
