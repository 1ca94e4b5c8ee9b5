"""The doctor's line about keys."""

import pytest

from spotinference.doctor.links import KeyFigures, keys


@pytest.mark.parametrize(
    ("figures", "level"),
    [
        (None, "note"),
        (KeyFigures(3, 0, 0, 0), "ok"),
        (KeyFigures(3, 1, 0, 0), "wrong"),
        (KeyFigures(3, 0, 1, 0), "wrong"),
        (KeyFigures(3, 0, 0, 1), "wrong"),
    ],
)
def test_keys_are_wrong_when_the_bus_lacks_any(figures: KeyFigures | None, level: str) -> None:
    link = keys(figures)
    assert link.diagnostic.level == level
    assert ("spotinference setup" in link.diagnostic.text) == (level == "wrong")
