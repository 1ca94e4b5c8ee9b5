"""When a gateway without the bus stops being ready, by an injected clock."""

import pytest

from services.gateway.core.bus_absence import BusAbsence, Place


def unready_at(place: Place, *, connected: bool = False) -> float:
    """Return how many seconds after its last answer from the bus the gateway is unready; `connected`: in silence."""
    absence = BusAbsence(60.0, 0.0)
    absence.observe(100.0, connected=True, age_s=1.0, place=place)
    assert absence.fault is None
    for second in range(1, 1000):
        # Whoever has lost the bus has soon lost sight of the others.
        absence.observe(100.0 + second, connected=connected, age_s=1.0 + second, place=Place())
        if absence.fault is not None:
            return float(second)
    raise AssertionError("it stays ready for ever")


@pytest.mark.parametrize("connected", [False, True])
def test_a_gateway_alone_is_unready_after_the_limit(*, connected: bool) -> None:
    assert 59 <= unready_at(Place(), connected=connected) <= 61


@pytest.mark.parametrize("gateways", [2, 3, 10])
def test_gateways_that_all_lose_the_bus_give_up_one_by_one(gateways: int) -> None:
    times = [unready_at(Place(younger, gateways)) for younger in range(gateways)]
    assert times == sorted(set(times))
    assert times[0] == 61
    assert times[-1] <= 120


def test_a_gateway_is_ready_again_once_the_bus_is_back() -> None:
    absence = BusAbsence(60.0, 0.0)
    absence.observe(61.0, connected=False, age_s=61.0, place=Place())
    assert absence.fault == "without the bus for 61 s, longer than this gateway's 60 s"
    absence.observe(62.0, connected=True, age_s=0.0, place=Place())
    assert absence.fault is None
