"""Fixtures for the tests of the site."""

import pytest

from tests.kit.github import CLIENT_SECRET


@pytest.fixture(autouse=True)
def client_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_CLIENT_SECRET", CLIENT_SECRET)
