"""A leader never has more open than there is, whatever the others are short of."""

from fractions import Fraction

import pytest

from services.gateway.core.quota_lease import KEYS_PER_TURN, NO_LEASE, Capacity, QuotaFollower, QuotaLeader, apportion
from shared.messages.gateway import KeyQuota, QuotaLease

LIMIT = 10


def usage_of(used: int, expected: int = 0) -> dict[str, KeyQuota]:
    return {"k": KeyQuota(used=(used, 0, 0, 0), limits=(LIMIT, None, None, None), wanted=(expected, 0, 0, 0))}


def lease(version: int, amount: int) -> QuotaLease:
    return QuotaLease(version=version, parts=3, keys={"k": (amount, 0, 0, 0)})


def capacity(*followers: QuotaFollower, of: QuotaLease | None = None) -> Capacity:
    return Capacity(own={}, total=lambda _key, _at, limit: limit, lease=of, counted=followers, followers=followers)


def open_to(*followers: QuotaFollower) -> list[int]:
    return [follower.bound("k", 0, LIMIT) for follower in followers]


def test_the_highest_of_use_and_open_loans_counts() -> None:
    assert QuotaFollower(usage_of(9), agreed=lease(1, 5), offered=lease(2, 3)).bound("k", 0, LIMIT) == 9
    assert QuotaFollower(usage_of(1), agreed=lease(1, 5), offered=lease(2, 3)).bound("k", 0, LIMIT) == 5
    assert QuotaFollower(usage_of(1), agreed=lease(1, 5), offered=lease(2, 7)).bound("k", 0, LIMIT) == 7
    assert QuotaFollower({}, agreed=QuotaLease(version=1, parts=3, keys={}), offered=NO_LEASE).bound("k", 0, LIMIT) == 3


def test_an_open_lease_is_not_leased_twice() -> None:
    rich, poor = QuotaFollower(usage_of(0)), QuotaFollower(usage_of(1, expected=1))
    rich.agreed = rich.offered = lease(1, 9)
    poor.agreed = poor.offered = lease(1, 1)
    leader = QuotaLeader()
    leader.offer(2, capacity(rich, poor))
    assert open_to(rich, poor) == [9, 1]
    rich.agreed = rich.offered
    leader.offer(3, capacity(rich, poor))
    assert poor.offered.keys["k"][0] > 1
    assert sum(open_to(rich, poor)) <= LIMIT


def test_no_new_lease_is_offered_before_the_last_is_acknowledged() -> None:
    follower = QuotaFollower(usage_of(0, expected=1), agreed=lease(1, 2), offered=lease(2, 4))
    QuotaLeader().offer(3, capacity(follower))
    assert follower.offered.version == 2


def test_newcomers_get_equal_parts_of_what_is_not_leased_yet() -> None:
    half = QuotaLease(version=1, parts=2, keys={})
    followers = [QuotaFollower({}, agreed=half, offered=half), *(QuotaFollower({}) for _ in range(3))]
    leader = QuotaLeader()
    for version in (2, 3):
        leader.offer(version, capacity(*followers))
        open_parts = [min(n for n in (b.agreed.parts, b.offered.parts) if n) for b in followers if b.offered.parts]
        assert sum(Fraction(1, parts) for parts in open_parts) <= 1
        for follower in followers:
            follower.agreed = follower.offered
    assert [follower.agreed.parts for follower in followers] == [5] * 4


def test_a_key_known_only_from_the_leaders_lease_is_not_leased_on() -> None:
    follower = QuotaFollower({})
    QuotaLeader().offer(1, capacity(follower, of=lease(7, 4)))
    assert follower.offered == QuotaLease(version=1, parts=6, keys={"k": (0, 0, 0, 0)})


def test_of_many_keys_those_that_somebody_is_short_of_come_first_and_all_in_turn() -> None:
    calm, short = usage_of(0)["k"], usage_of(5, expected=5)["k"]
    names = [f"k{at:03}" for at in range(5 * KEYS_PER_TURN)]
    follower = QuotaFollower(dict.fromkeys(names, calm))
    leader = QuotaLeader()
    leader.offer(1, capacity(follower))
    follower.agreed = follower.offered
    follower.keys = {**dict.fromkeys(names, usage_of(3)["k"]), names[-1]: short}
    leader.offer(2, capacity(follower))
    assert follower.offered.keys[names[-1]][0] == LIMIT
    assert len(follower.offered.keys) == KEYS_PER_TURN + 1
    for version in range(3, 8):
        follower.agreed = follower.offered
        leader.offer(version, capacity(follower))
    assert set(follower.offered.keys) == set(names)


@pytest.mark.parametrize(
    ("rest", "wants", "parts"),
    [
        (9, [0, 0], [4, 4]),
        (1, [0, 1], [0, 1]),
        (80, [10, 0], [72, 8]),
        (3, [5, 2], [0, 2]),
        (0, [1, 0], [0, 0]),
        (10, [1, 1], [5, 5]),
    ],
)
def test_split(rest: int, wants: list[int], parts: list[int]) -> None:
    assert apportion(rest, wants) == parts
