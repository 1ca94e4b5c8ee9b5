"""What `spotinference meter` takes, before any bus is asked."""

import pytest
from click.testing import CliRunner

from spotinference.meter.command import reread


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("9999-12-31", "a time from 1970-01-01 until the end of 2199"),
        ("0001-01-01", "a time from 1970-01-01 until the end of 2199"),
        ("1970-01-01T00:00:00+14:00", "a time from 1970-01-01 until the end of 2199"),
        ("yesterday", "a time such as 2026-11-23T12:00:00Z"),
    ],
)
def test_a_moment_that_is_none_is_wrong_usage(since: str, expected: str) -> None:
    result = CliRunner().invoke(reread, ["--since", since])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: --since: expected {expected}, got {since!r}"
