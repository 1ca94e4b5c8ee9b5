"""Which path a target means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.endpoints import ENDPOINTS
from services.gateway.core.paths import normalize, suggest_path


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("//v1//models//?a=/b/", "/v1/models"),
        ("/v1/models/org%2Fm", "/v1/models/org%2Fm"),
        ("/v1/models/org/m", "/v1/models/org/m"),
        ("http://host:80/v1/models", "/v1/models"),
        ("http://host", "/"),
        ("/", "/"),
        ("*", "*"),
        ("", ""),
    ],
)
def test_a_target_is_one_path_however_it_is_written(target: str, path: str) -> None:
    assert normalize(target) == path


@given(st.text())
def test_a_normal_path_stays_as_it_is(target: str) -> None:
    path = normalize(target)
    assert normalize(path) == path or "?" in path or not path.startswith("/")


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_missing_or_doubled_version_is_named(path: str) -> None:
    assert suggest_path(path.removeprefix("/v1"), ENDPOINTS) == path
    assert suggest_path(f"/v1{path}", ENDPOINTS) == path
    assert suggest_path(f"/v2{path}", ENDPOINTS) is None
