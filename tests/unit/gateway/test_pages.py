"""What the gateway says of itself."""

from types import SimpleNamespace
from typing import cast

import pytest

from services.gateway.door import Door
from services.gateway.http.pages import Pages


@pytest.mark.parametrize(
    ("leaving", "ready", "status", "body"),
    [
        (False, True, 200, b'{"status":"ok"}'),
        (False, False, 503, b'{"status":"not ready"}'),
        (True, True, 503, b'{"status":"draining"}'),
    ],
)
def test_health_says_whether_to_send_requests(*, leaving: bool, ready: bool, status: int, body: bytes) -> None:
    door = cast("Door", SimpleNamespace(leaving=leaving, now=lambda: 0.0))
    pages = Pages(door, lambda: ready)
    assert not pages.needs_key("/health")
    assert pages.get("/health", None) == (status, body)
