"""`docs/reference/fleet-states.md` is what the code generates."""

from typing import get_args

from services.waker.core.transitions import TRANSITIONS
from shared.messages.waker import MachineState
from tests.docs.fleet_states import STATES, fleet_states
from tests.docs.pages import page
from tests.unit.waker.invariants import sentences


def test_the_page_is_generated_from_the_code() -> None:
    assert page("docs/reference/fleet-states.md").text == fleet_states() + "\n", (
        "python -m tests.docs.fleet_states prints it"
    )


def test_every_state_has_a_meaning_and_every_transition_a_reason() -> None:
    states = set(get_args(MachineState))
    assert set(STATES) == states == set(TRANSITIONS) - {None}
    assert all(why for ends in TRANSITIONS.values() for why in ends.values())


def test_the_transitions_are_the_designs_and_the_return_from_gone() -> None:
    anywhere = {"broken", "gone"}
    assert {start: set(ends) for start, ends in TRANSITIONS.items()} == {
        None: {"asleep", "waking", "ready"} | anywhere,
        "asleep": {"waking"} | anywhere,
        "waking": {"ready", "falling_asleep", "asleep"} | anywhere,
        "ready": {"draining", "asleep"} | anywhere,
        "draining": {"ready", "falling_asleep", "asleep"} | anywhere,
        "falling_asleep": {"asleep"} | anywhere,
        "broken": {"asleep", "waking", "falling_asleep", "ready", "gone"},
        "gone": {"asleep", "waking"},
    }


def test_every_invariant_has_a_sentence_of_its_own() -> None:
    invariants = list(sentences().values())
    assert len(set(invariants)) == len(invariants) >= 14
    assert all(invariant.endswith(".") for invariant in invariants)
