"""Who gives an order, as the journal has it."""

import pytest

from spotinference.context import OPERATOR_LENGTH, operator_identity


def test_operator_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOTINFERENCE_OPERATOR", " ops@example.org\n")
    assert operator_identity() == "ops@example.org"
    monkeypatch.setenv("SPOTINFERENCE_OPERATOR", "a\x1b[31m" + "b" * 500)
    assert operator_identity().startswith("a\\x1b[31mb")
    assert len(operator_identity()) == OPERATOR_LENGTH


def test_operator_is_user_at_host_when_the_environment_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOTINFERENCE_OPERATOR", " ")
    assert "@" in operator_identity()
