"""A day's states only go on, revisions rise only for a reason, and the reason is told."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.revision import FileInput, Inputs, revised
from shared.messages.billing import DayReport, DirectionFigure, Directions, FigureState
from shared.messages.meter import TokenSums

NOTHING = DirectionFigure(tokens=0, usd_per_mtok=None)
FILE = FileInput(source="cloud", file_name="bill.csv", sha256="0a", rows=3)
BILLED = Inputs(over=True, files=(FILE,), charges=3, served=TokenSums(prompt_tokens=5), usage_sha256="u")


def figure(spend: str | None = "100", state: FigureState | None = "provisional", **more: Any) -> DayReport:
    fields: dict[str, Any] = {
        "day": "2026-05-03",
        "state": state,
        "revision": 0,
        "currency": "USD",
        "spend": None if spend is None else Decimal(spend),
        "tokens": 5,
        "usd_per_mtok": None,
        "reason": None,
        "causes": {},
        "tiers": (),
        "directions": Directions(input=NOTHING, cached=NOTHING, output=NOTHING),
        "tax": Decimal(0),
        "spend_before_credits": None,
    }
    return DayReport(**fields | more)


def more(inputs: Inputs, **changed: Any) -> Inputs:
    return msgspec.structs.replace(inputs, **changed)


def test_the_first_report_is_revision_1_and_changes_nothing() -> None:
    report, inputs = revised(figure(), BILLED, None)
    assert (report.revision, report.change, inputs) == (1, None, BILLED)


def test_the_same_again_is_the_stored_one() -> None:
    first = revised(figure(), BILLED, None)
    assert revised(figure(), BILLED, first) is first


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"files": (msgspec.structs.replace(FILE, sha256="0b"),)}, "the bill changed"),
        ({"charges": 4}, "the bill changed"),
        ({"invoices": (("cloud", "Cloud Inc.", "INV-1", "ties"),)}, "an invoice stands otherwise"),
        ({"served": TokenSums(prompt_tokens=6)}, "late usage"),
        ({"usage_sha256": "v"}, "late usage"),
        ({"busy_sha256": "b"}, "late usage"),
        ({"failed_tokens": 1}, "late usage"),
        ({"usage_complete": True}, "usage is complete"),
        ({"usage_reasons": ("a gap",)}, "usage is not complete"),
        ({"transitions_sha256": "t"}, "the journal told more"),
        ({"accruals_sha256": "a"}, "the running bill told more"),
        ({"settings_sha256": "s"}, "settings changed"),
    ],
)
def test_another_input_is_another_revision_that_says_why(changed: dict[str, Any], said: str) -> None:
    report, _ = revised(figure(), more(BILLED, **changed), revised(figure(), BILLED, None))
    assert (report.revision, report.state, report.change) == (2, "provisional", said)


def test_while_the_day_goes_on_usage_is_not_late() -> None:
    running = more(BILLED, over=False, files=(), charges=0)
    first = revised(figure(), running, None)
    assert revised(figure("101"), running, first)[0].change == "the day went on"
    later = more(running, over=True, files=(FILE,), charges=3, usage_sha256="v")
    assert revised(figure("101"), later, first)[0].change == "the bill came; more usage; the day is over"


def test_case_25_a_final_day_with_late_usage_is_restated_and_stays_so() -> None:
    final = revised(figure(state="final"), BILLED, revised(figure(), more(BILLED, usage_sha256="t"), None))
    assert (final[0].revision, final[0].state, final[0].change) == (2, "final", "late usage; became final")
    late = more(BILLED, served=TokenSums(prompt_tokens=6))
    restated = revised(figure(state="final"), late, final)
    assert (restated[0].revision, restated[0].state, restated[0].change) == (3, "restated", "late usage")
    assert revised(figure(state="final"), late, restated) is restated
    again = revised(figure("99", state="provisional"), more(late, charges=4), restated)
    assert (again[0].revision, again[0].state, again[0].change) == (4, "restated", "the bill changed")


def test_a_day_becomes_final_by_the_calendar_alone() -> None:
    """Its period ends, and nothing else changes."""
    first = revised(figure(), BILLED, None)
    final, _ = revised(figure(state="final"), BILLED, first)
    assert (final.revision, final.state, final.change) == (2, "final", "became final")
    assert revised(figure("101"), BILLED, first)[0].change == "computed anew"


def test_a_figure_that_is_no_longer_known_has_no_state_and_was_final_all_the_same() -> None:
    final = revised(figure(state="final"), BILLED, None)
    lost = revised(figure(None, state=None), more(BILLED, files=(), charges=0), final)
    assert (lost[0].state, lost[0].revision) == (None, 2)
    back = revised(figure(), more(BILLED, charges=7), lost)
    assert (back[0].state, back[0].revision) == ("restated", 3)


def test_what_an_older_version_kept_can_be_compared() -> None:
    kept = (
        b'{"files":[{"source":"cloud","file_name":"bill.csv","sha256":"0a"}],"served":{"prompt_tokens":5},"tokens":[]}'
    )
    before = msgspec.json.decode(kept, type=Inputs)
    report, _ = revised(figure(), BILLED, (figure(revision=1), before))
    assert (report.revision, report.change) == (2, "the bill changed; more usage; the day is over")


STATES: list[FigureState | None] = ["estimated", "provisional", "final", None]


@given(st.lists(st.tuples(st.sampled_from(STATES), st.integers(0, 2), st.integers(0, 2)), max_size=8))
def test_revisions_are_counted_and_nothing_goes_back_behind_final(
    looks: list[tuple[FigureState | None, int, int]],
) -> None:
    newest: tuple[DayReport, Inputs] | None = None
    was_final = False
    for state, spend, charges in looks:
        spent = None if state is None else str(spend)
        inputs = more(BILLED, charges=charges)
        following = revised(figure(spent, state=state), inputs, newest)
        assert revised(figure(spent, state=state), inputs, following) is following
        if newest is not None:
            assert following is newest or following[0].revision == newest[0].revision + 1
        assert following[0].state in (("restated", None, "final") if was_final else STATES)
        assert not (was_final and following[0].state == "final" and following is not newest)
        was_final = was_final or following[0].state == "final"
        newest = following
