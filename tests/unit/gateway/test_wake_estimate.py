"""What a waiting client is shown of a wake."""

from services.gateway.core.wake_estimate import WakeEstimate


def test_estimate_does_not_rise_by_the_second_of_a_late_record() -> None:
    shown = WakeEstimate("h100x2", "loading", 2)
    assert WakeEstimate("h100x2", "loading", 3).after(shown) == shown
    for changed in (
        WakeEstimate("h100x2", "loading", 1),
        WakeEstimate("h100x2", "loading", 4),
        WakeEstimate("h100x2", "loading", None),
        WakeEstimate("h100x2", "first_token", 3),
        WakeEstimate("a100x2", "loading", 3),
    ):
        assert changed.after(shown) == changed
        assert changed.after(None) == changed
