"""The doctor's line about keys."""

import pytest

from shared.messages.meter import KeyComparison
from spotinference.doctor.links import keys


@pytest.mark.parametrize(("missing", "revived", "forgotten"), [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_keys_are_wrong_when_the_bus_lacks_any(missing: int, revived: int, forgotten: int) -> None:
    link = keys(KeyComparison(revocations=3, missing=missing, revived=revived), forgotten)
    is_wrong = bool(missing or revived or forgotten)
    assert link.diagnostic.level == ("wrong" if is_wrong else "ok")
    assert ("spotinference setup" in link.diagnostic.text) == is_wrong
