"""The whole tree keeps the house rules, and each rule reports the code that breaks it."""

from pathlib import Path, PurePosixPath

import pytest

from tests.architecture.language import one_day, plain_identifiers, snake_case_events
from tests.architecture.rules import (
    MAX_FILE_LINES,
    MAX_FUNCTION_LINES,
    MAX_TEST_FILE_LINES,
    RULES,
    Rule,
    docstring,
    no_decoding,
    reasons,
    releases_errors,
    short_file,
    short_functions,
    shown_log_fields,
    specific_module_name,
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
        (plain_identifiers, "deploy/x.py", "def f(reply): not_found = reply", "def f(told): reply = told"),
        (plain_identifiers, "deploy/x.py", "import a as b", "import a as thing"),
        (plain_identifiers, "deploy/x.py", "class Reply: ...", "class WhatItSays: ..."),
        (snake_case_events, "spotinference/x.py", "log.info('lease_lost', x=1)", "log.info('lease lost', x=1)"),
        (snake_case_events, "spotinference/x.py", "log.error('bus_disconnected')", "log.error('disconnected')"),
        (
            releases_errors,
            "services/x/y.py",
            "try:\n    raise faults[0]\nfinally:\n    faults.clear()",
            "raise faults[0]",
        ),
        (releases_errors, "services/x/y.py", "try: f()\nexcept E as e:\n    raise e", "raise self._error"),
        (releases_errors, "services/x/y.py", "raise web.HTTPNotFound", "if (fault := check()): raise fault"),
        (shown_log_fields, "shared/x.py", "log.info('key_read', entry=key)", "log.info('key_read', key=key)"),
        (one_day, "shared/x.py", "from shared.units import DAY_S", "DAY = 24 * 3600.0"),
        (one_day, "shared/x.py", "age = 40 * DAY_S", "age = 40 * 86400.0"),
    ],
)
def test_a_rule_passes_good_code_and_reports_bad(rule: Rule, path: str, good: str, bad: str) -> None:
    assert rule(PurePosixPath(path), good) == []
    assert len(rule(PurePosixPath(path), bad)) == 1


@pytest.mark.parametrize("path", ["shared/utils.py", "shared/common/x.py", "services/gateway/helpers.py"])
def test_a_vague_module_name_is_reported(path: str) -> None:
    assert len(specific_module_name(PurePosixPath(path), "")) == 1
    assert specific_module_name(PurePosixPath("shared/utilisation.py"), "") == []
