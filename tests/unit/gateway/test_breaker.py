"""Who leaves a machine alone, and for how long."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.breaker import FAILURES, MAX_KEYS, MAX_PAUSE_SECONDS, PAUSE_SECONDS, Breaker


def test_a_trial_that_fails_doubles_the_pause_up_to_its_bound() -> None:
    breaker = Breaker()
    now = 0.0
    for _ in range(FAILURES):
        breaker.on_unreachable("s1", now)
    for pause in (5, 10, 20, 40, 60, 60):
        assert not breaker.is_closed("s1", "k", now + pause - 0.1)
        now += pause
        assert breaker.is_closed("s1", "k", now)
        breaker.on_attempt("s1", "k", now)
        assert not breaker.is_closed("s1", "k", now), "one trial at a time"
        breaker.on_unreachable("s1", now)


def test_one_key_s_failures_concern_that_key_alone() -> None:
    breaker = Breaker()
    for _ in range(100):
        breaker.on_failure("s1", "poison", 0.0)
    assert not breaker.is_closed("s1", "poison", 0.0)
    assert breaker.is_closed("s1", "honest", 0.0)
    assert breaker.is_closed("s2", "poison", 0.0)
    assert breaker.paused_machines == ["s1"], "for the operator to see"


def test_another_key_s_failure_concerns_everyone() -> None:
    breaker = Breaker()
    for key in ("a", "a", "b"):
        assert breaker.is_closed("s1", "c", 0.0)
        breaker.on_failure("s1", key, 0.0)
    assert not breaker.is_closed("s1", "c", 0.0)
    assert breaker.paused_machines == ["s1"]


def test_a_success_of_any_key_resets_the_machine_for_all() -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.on_failure("s1", "poison", 0.0)
    breaker.reset("s1")
    assert breaker.is_closed("s1", "poison", 0.0)
    assert not breaker.has_failures


def test_the_only_key_there_is_tries_again_after_the_pause() -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.on_failure("s1", "k", 0.0)
    assert not breaker.is_closed("s1", "k", PAUSE_SECONDS - 0.1)
    assert breaker.is_closed("s1", "k", PAUSE_SECONDS)
    breaker.on_attempt("s1", "k", PAUSE_SECONDS)
    assert not breaker.is_closed("s1", "k", PAUSE_SECONDS)


FAULTS = st.tuples(st.sampled_from(["refused", "a", "b", "c"]), st.floats(0, 10))


@given(st.lists(FAULTS, max_size=30))
def test_a_single_key_never_pauses_a_machine_for_others(faults: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for who, later in faults:
        now += later
        if who == "refused":
            breaker.on_unreachable("s1", now)
        else:
            breaker.on_failure("s1", who, now)
    keys = {who for who, _ in faults} - {"refused"}
    if not breaker.is_closed("s1", "other", now):
        assert len(keys) > 1 or "refused" in {who for who, _ in faults}
    assert breaker.is_closed("s1", "other", now + MAX_PAUSE_SECONDS)


def test_keys_without_end_take_no_memory_without_end() -> None:
    breaker = Breaker()
    for number in range(2 * MAX_KEYS):
        breaker.on_failure("s1", f"k{number}", 0.0)
    assert len(breaker._records["s1"].keys) == MAX_KEYS
