"""Which machines, tiers and prices a day has, by what the configuration said and when."""

import pytest

from services.billing.core.allocation.fleet_history import KeptFleet, KnownFleet, fleet_of
from services.billing.core.utc_time import Window

DAY = Window(1000, 2000)
OLD = KnownFleet(
    tiers=("A", "B"),
    tier_of={"m": "A", "n": "B"},
    machine_of={"i-m": "m", "v": "n"},
    parts=("v",),
    prices={"A": 1, "B": 2},
)
NEW = KnownFleet(
    tiers=("A", "C"),
    tier_of={"m": "C", "o": "C"},
    machine_of={"v": "m", "i-o": "o"},
    never_billed=("o",),
    prices={"A": 5, "C": 3},
)


@pytest.mark.parametrize(
    ("kept", "now"),
    [
        ([KeptFleet(500, OLD)], 2000),
        ([KeptFleet(5000, OLD)], 6000),
        ([KeptFleet(500, OLD), KeptFleet(2000, NEW)], 9000),
        ([KeptFleet(100, NEW), KeptFleet(500, OLD)], 9000),
    ],
    ids=["not kept yet", "before all that is kept", "changed after the day", "changed before the day"],
)
def test_a_past_day_has_its_own_configuration_and_of_the_rest_the_current_one(kept: list[KeptFleet], now: int) -> None:
    fleet, last, later = fleet_of(DAY, kept, NEW, now)
    assert (fleet.tiers, later, last) == (("A", "B"), frozenset({"C"}), OLD)
    assert fleet.tier_of == {"m": "A", "n": "B", "o": "C"}
    assert fleet.machine_of == {"i-m": "m", "v": "n", "i-o": "o"}
    assert (fleet.parts, fleet.never_billed) == (("v",), ("o",))
    assert fleet.prices == {"A": 1, "B": 2, "C": 3}


@pytest.mark.parametrize("kept", [[KeptFleet(500, OLD)], [KeptFleet(500, OLD), KeptFleet(1200, NEW)]])
def test_the_day_of_the_change_has_both_and_of_two_the_last(kept: list[KeptFleet]) -> None:
    fleet, last, later = fleet_of(DAY, kept, NEW, 1500)
    assert (fleet.tiers, later, last) == (("A", "B", "C"), frozenset(), NEW)
    assert fleet.tier_of == {"m": "C", "n": "B", "o": "C"}
    assert (fleet.machine_of["v"], fleet.parts, fleet.prices) == ("m", (), {"A": 5, "B": 2, "C": 3})


@pytest.mark.parametrize("kept", [[], [KeptFleet(500, OLD)]])
def test_a_day_after_the_change_has_nothing_of_the_past(kept: list[KeptFleet]) -> None:
    assert fleet_of(DAY, kept, NEW, 900) == (NEW, NEW, frozenset())
