"""The whole tree keeps the house rules, and each rule tells good from bad."""

from pathlib import Path, PurePosixPath

import pytest

from tests.architecture.rules import (
    MAX_FILE_LINES,
    MAX_FUNCTION_LINES,
    MAX_TEST_FILE_LINES,
    RULES,
    Rule,
    docstring,
    no_decoding,
    reasons,
    short_file,
    short_functions,
    telling_name,
)

ROOT = Path(__file__).parents[2]
ROOMS = ("services", "shared", "spotinference", "tests", "bench", "deploy")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
NOQA, IGNORE = "# no" + "qa", "# type: ig" + "nore"
"""Put together here, so that this file silences nothing."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_the_rules(path: Path) -> None:
    place = PurePosixPath(path.relative_to(ROOT).as_posix())
    text = path.read_text("utf-8")
    assert [f"{place}: {fault}" for rule in RULES for fault in rule(place, text)] == []


def _function(lines: int) -> str:
    return "async def f():\n" + "    pass\n" * (lines - 1)


@pytest.mark.parametrize(
    ("rule", "path", "good", "bad"),
    [
        (short_file, "shared/x.py", "x\n" * MAX_FILE_LINES, "x\n" * (MAX_FILE_LINES + 1)),
        (short_file, "tests/x.py", "x\n" * MAX_TEST_FILE_LINES, "x\n" * (MAX_TEST_FILE_LINES + 1)),
        (short_functions, "shared/x.py", _function(MAX_FUNCTION_LINES), _function(MAX_FUNCTION_LINES + 1)),
        (docstring, "shared/x.py", '"""Owns x."""\n', "x = 1\n"),
        (docstring, "shared/__init__.py", "", "x = 1\n"),
        (docstring, "shared/x.py", '"""Owns x."""\n', ""),
        (no_decoding, "shared/x.py", "_decoder.decode(data)", "data.decode()"),
        (no_decoding, "services/x.py", "x.decode('utf-8', 'replace')", "x.decode('utf-8')"),
        (no_decoding, "services/x.py", "b.encode().decode()", "path.read_text('utf-8')"),
        (no_decoding, "spotinference/x.py", "x.decode(errors='replace')", "x.decode('ascii', errors='strict')"),
        (reasons, "shared/x.py", f"x  {NOQA}: F401 - kept for its effect\n", f"x  {NOQA}: F401\n"),
        (reasons, "shared/x.py", f"x  {IGNORE}[arg-type]  # it is one\n", f"x  {IGNORE}[arg-type]\n"),
        (reasons, "shared/x.py", "x  # no reason needed\n", f"x  {NOQA} - everything\n"),
    ],
)
def test_a_rule_tells_good_from_bad(rule: Rule, path: str, good: str, bad: str) -> None:
    assert rule(PurePosixPath(path), good) == []
    assert len(rule(PurePosixPath(path), bad)) == 1


@pytest.mark.parametrize("path", ["shared/utils.py", "shared/common/x.py", "services/gateway/helpers.py"])
def test_a_vague_name_is_found(path: str) -> None:
    assert len(telling_name(PurePosixPath(path), "")) == 1
    assert telling_name(PurePosixPath("shared/utilisation.py"), "") == []
