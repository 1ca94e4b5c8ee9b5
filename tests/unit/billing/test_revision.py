"""A day's states only go on, and revisions rise only when a figure, the state or the charges' content changes."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.revisions.change_reason import change_reason
from services.billing.core.revisions.revision import RevisionInputs, StoredRevision, needs_revision, next_revision
from shared.messages.billing import DayReport, FigureState
from shared.messages.codec import decode
from shared.messages.meter import TokenSums
from tests.unit.billing.revision_builders import (
    CHARGES,
    FILE,
    FINAL,
    FIRST,
    INPUTS,
    SETTINGS,
    charges,
    figure,
    inputs,
    stored,
)


def revise(report: DayReport, now: RevisionInputs, newest: StoredRevision) -> StoredRevision:
    """The newest revision after the books were looked at."""
    if not needs_revision(report, now, newest):
        return newest
    return stored(*next_revision(report, now, newest, change_reason(report, now, newest)))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"files": (msgspec.structs.replace(FILE, sha256="0b", file_name="again.csv"),)},
        {"invoices": (("cloud", "Cloud Inc.", "INV-1", "differs"),)},
        {"settings_sha256": "other", "settings": SETTINGS | {"machine list": "sha256:2"}},
        {"over": False},
    ],
)
def test_no_revision_when_neither_a_figure_nor_a_charge_changes(changed: dict[str, Any]) -> None:
    assert revise(figure(), inputs(**changed), FIRST) is FIRST
    assert revise(figure(sources=("again.csv",)), inputs(**changed), FIRST) is FIRST


def test_charges_with_other_content_are_a_revision_though_the_figures_are_the_same() -> None:
    later = revise(figure(), inputs(sources=(charges("100"),)), FIRST)
    expected = "no figure moved: charges of source cloud, files read by a newer reader (rows changed)"
    assert (later.report.revision, later.report.state, later.report.change) == (2, "provisional", expected)


def test_no_invoice_changes_the_state_of_a_day_that_was_final() -> None:
    open_again = inputs(invoices=(("cloud", "Cloud Inc.", "INV-1", "differs"),))
    assert revise(figure(state="provisional"), open_again, FINAL) is FINAL
    assert revise(figure(state="final"), INPUTS, FIRST).report.state == "final"


def test_a_machine_more_restates_no_final_day() -> None:
    more = figure(state="final", always_on=None)
    assert revise(more, INPUTS, FINAL) is FINAL
    assert revise(figure(always_on=None), INPUTS, FIRST).report.revision == 2


def test_case_25_a_final_day_with_late_usage_is_restated_and_stays_so() -> None:
    late = inputs(served=TokenSums(prompt_tokens=6), usage_sha256="v")
    restated = revise(figure(state="final", tokens=6), late, FINAL)
    expected = "tokens 5 → 6 (+1): late usage"
    assert (restated.report.revision, restated.report.state, restated.report.change) == (2, "restated", expected)
    assert revise(figure(state="final", tokens=6), late, restated) is restated
    again = revise(figure("99", tokens=6), late, restated)
    assert (again.report.revision, again.report.state) == (3, "restated")


def test_a_figure_that_is_no_longer_known_has_no_state_and_was_final_all_the_same() -> None:
    lost = revise(figure(None, state=None), inputs(sources=(), files=(), charges=0), FINAL)
    assert (lost.report.state, lost.report.revision) == (None, 2)
    back = revise(figure(), INPUTS, lost)
    assert (back.report.state, back.report.revision) == ("restated", 3)


OLD = b'{"over":true,"files":[{"source":"cloud","file_name":"bill.csv","sha256":"0a"}],"charges":3}'
"""As an older version kept it."""


def test_what_an_older_version_kept_stays_as_it_is_while_the_figures_are_the_same() -> None:
    """It knows neither the charges' content nor the figures that were added since."""
    known = {
        name: value for name, value in FINAL.figures.items() if name not in {"failed", "left_out", "shared_by", "type"}
    }
    known["tiers"] = [{name: tier[name] for name in ("tier", "spend", "tokens")} for tier in known["tiers"]]
    old = StoredRevision(FINAL.report, decode(OLD, RevisionInputs), known)
    now = figure(state="final", shared_by="tokens", sources=("again.csv",))
    assert revise(now, INPUTS, old) is old
    later = revise(figure("101", state="final"), inputs(charges=4), old)
    expected = "spend 100.00 → 101.00 USD (+1.00): charges (1 row added)"
    assert (later.report.revision, later.report.state) == (2, "restated")
    assert (later.report.change or "").startswith(expected)
    assert later.inputs.sources == (CHARGES,)


def test_a_part_of_a_figure_that_is_gone_is_a_change() -> None:
    assert revise(figure(tiers=()), INPUTS, FIRST).report.revision == 2
    assert revise(figure(causes={}), INPUTS, FIRST).report.revision == 2


STATES: list[FigureState | None] = ["estimated", "provisional", "final", None]


@given(st.lists(st.tuples(st.sampled_from(STATES), st.integers(0, 2), st.integers(0, 2)), max_size=8))
def test_revisions_are_counted_and_nothing_goes_back_behind_final(
    steps: list[tuple[FigureState | None, int, int]],
) -> None:
    newest, was_final = stored(figure(revision=1, state="estimated")), False
    for state, spend, rows in steps:
        spent = None if state is None else str(spend)
        now = inputs(sources=(charges("1", rows),))
        following = revise(figure(spent, state=state), now, newest)
        assert revise(figure(spent, state=state), now, following) is following
        assert following is newest or following.report.revision == newest.report.revision + 1
        assert following is newest or following.report.change
        assert following.report.state in (("restated", None, "final") if was_final else STATES)
        assert not (was_final and following.report.state == "final" and following is not newest)
        was_final = was_final or following.report.state == "final"
        newest = following
