"""What is said of a revision: which figure moved, by how much, and because of what; never without a cause."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.revisions.change_reason import MAX_LENGTH, change_reason
from services.billing.core.revisions.charge_digest import SourceCharges
from services.billing.core.revisions.revision import FileInput, RevisionInputs
from shared.messages.billing import CAUSES, AlwaysOn, DayReport
from tests.unit.billing.revision_builders import CHARGES, FILE, INPUTS, SETTINGS, charges, figure, inputs, stored

TIES = ("cloud", "Cloud Inc.", "INV-7", "ties")
NEW_FILE = FileInput(source="cloud", file_name="may-2.csv", sha256="0b", rows=4)
H_FILE = FileInput(source="hyperstack", file_name="h.csv", sha256="0d", rows=2)
HYPERSTACK = SourceCharges(source="hyperstack", sha256="h", rows=2, spend=Decimal("0.5"), tax=Decimal(0))


def explain(
    after: DayReport, now: RevisionInputs, before: DayReport | None = None, was: RevisionInputs = INPUTS
) -> str:
    return change_reason(after, now, stored(before or figure(revision=1), was))


def test_spend_by_the_charges_of_a_source_and_its_new_file() -> None:
    now = inputs(sources=(charges("1111.5", 4),), files=(NEW_FILE,))
    assert explain(figure("1111.5"), now) == (
        "spend 100.00 → 1,111.50 USD (+1,011.50): charges of source cloud, file may-2.csv (1 row added, +1,011.50)"
    )


def test_several_causes_by_their_size_and_the_rest_as_a_sum() -> None:
    sources = tuple(
        SourceCharges(source=f"s{n}", sha256="x", rows=n, spend=Decimal(n), tax=Decimal(0)) for n in range(1, 6)
    )
    text = explain(figure("115"), inputs(sources=(CHARGES, *sources)))
    assert text.startswith("spend 100.00 → 115.00 USD (+15.00): charges of source s5, ")
    assert text.endswith("(3 rows added, +3.00), and 2 more (+3.00)")


def test_an_estimate_that_the_bill_replaces() -> None:
    was = inputs(sources=(), files=(), charges=0, estimate=Decimal("28.8"))
    text = explain(figure("31.2"), inputs(sources=(charges("31.2", 24),)), figure("28.8", state="estimated"), was)
    assert text == (
        "spend 28.80 → 31.20 USD (+2.40): charges of source cloud, file bill.csv (24 rows added, +31.20), "
        "estimate replaced by charges (-28.80); state estimated → provisional: charges cover all of it"
    )


def test_a_cost_that_was_not_known() -> None:
    was = inputs(sources=(), files=(), charges=0)
    text = explain(figure("100"), INPUTS, figure(None, state=None, usage_complete=True), was)
    assert text == (
        "spend unknown → 100.00 USD: charges of source cloud, file bill.csv (3 rows added, +100.00); "
        "state unknown → provisional"
    )


def test_a_bill_that_was_missing() -> None:
    before = figure(
        None, state="estimated", usage_complete=True, spend_known=Decimal("99.5"), reason="no bill yet: h-1"
    )
    now = inputs(sources=(CHARGES, HYPERSTACK), files=(FILE, H_FILE))
    assert explain(figure("100", state="estimated"), now, before) == (
        "spend unknown but for 99.50 USD → 100.00 USD: charges of source hyperstack, file h.csv (2 rows added, +0.50)"
    )
    assert explain(before, INPUTS, figure("100"), now) == (
        "spend 100.00 USD → unknown but for 99.50 USD: charges of source hyperstack, no longer counted "
        "(2 rows removed, -0.50), no bill yet: h-1; state provisional → estimated: no bill yet: h-1"
    )


@pytest.mark.parametrize(
    ("after", "before", "now", "expected"),
    [
        ({"tokens": 6}, {}, {"usage_sha256": "v"}, "tokens 5 → 6 (+1): late usage"),
        ({"state": "final"}, {}, {"invoices": (TIES,)}, "state provisional → final: invoice INV-7 ties"),
        (
            {"state": "final"},
            {"usage_complete": False},
            {},
            "state provisional → final: usage is complete",
        ),
        ({"state": "final"}, {}, {}, "state provisional → final: the billing period is over"),
        (
            {"state": "estimated"},
            {},
            {},
            "state provisional → estimated: a part of it is estimated",
        ),
        (
            {"usage_complete": False, "usage_reasons": ("3 events are missing",)},
            {},
            {},
            "usage is not complete: 3 events are missing",
        ),
        (
            {"tax": Decimal(20)},
            {},
            {"sources": (charges("100", 4, tax=Decimal(20)),), "files": (NEW_FILE,)},
            "tax 0.00 → 20.00 USD (+20.00): charges of source cloud, file may-2.csv (1 row added, +20.00)",
        ),
        (
            {"tokens_failed": 7},
            {},
            {"failed_tokens": 7},
            "tokens of failed requests 0 → 7 (+7): late usage",
        ),
        (
            {"always_on": AlwaysOn(spend=Decimal(300), usd_per_mtok=None)},
            {},
            {"settings": SETTINGS | {"machine list": "sha256:2"}},
            "always-on comparison 200.00 → 300.00 USD (+100.00): machine list changed",
        ),
        (
            {"spend": Decimal("100.0000001")},
            {},
            {"estimate": Decimal("0.0000001"), "settings": SETTINGS | {"price of tier A": "2.5"}},
            "spend 100.0000000 → 100.0000001 USD (+0.0000001): estimate by price of tier A 2.4 → 2.5 (+0.0000001)",
        ),
        (
            {"spend": Decimal(101)},
            {},
            {},
            "spend 100.00 → 101.00 USD (+1.00): calculated by a newer version of billing",
        ),
    ],
)
def test_each_figure_with_its_cause(
    after: dict[str, Any], before: dict[str, Any], now: dict[str, Any], expected: str
) -> None:
    was = inputs(usage_complete=before.get("usage_complete", True))
    assert explain(figure(**after), inputs(**now), figure(**before), was) == expected


def test_the_parts_that_moved_when_the_whole_did_not() -> None:
    whole = figure()
    causes = {**whole.causes, "serving": Decimal(60), "warm_idle": Decimal(40)}
    moved = msgspec.structs.replace(whole, causes=causes)
    assert explain(moved, inputs(transitions_sha256="other")) == (
        "serving 100.00 → 60.00 USD (-40.00), warm idle 0.00 → 40.00 USD (+40.00): the journal of machine states"
    )


def test_usage_that_completes_hides_no_part_that_moved() -> None:
    whole, open_day = figure(), inputs(usage_complete=False)
    causes = {**whole.causes, "serving": Decimal(60), "warm_idle": Decimal(40)}
    before = msgspec.structs.replace(whole, usage_complete=False)
    after = msgspec.structs.replace(whole, usage_complete=True, causes=causes)
    text = explain(after, inputs(busy_sha256="other"), before, open_day)
    assert text == (
        "usage is complete; serving 100.00 → 60.00 USD (-40.00), warm idle 0.00 → 40.00 USD (+40.00): late usage"
    )


def test_reason_when_the_same_files_read_differently() -> None:
    fewer = {"sources": (charges("40", 2),)}
    how = "spend 100.00 → 40.00 USD (-60.00): charges of source cloud, {} (1 row removed, -60.00)"
    voided = ("cloud", "Cloud Inc.", "INV-1", "voided")
    assert explain(figure("40"), inputs(**fewer, invoices=(voided,))) == how.format("invoice INV-1 voided")
    back = explain(figure(), INPUTS, figure("40"), inputs(**fewer, invoices=(voided,)))
    assert back.endswith("charges of source cloud, invoice INV-1 no longer voided (1 row added, +60.00)")
    gone = inputs(sources=(), files=(), invoices=(voided,))
    assert "source cloud, invoice INV-1 no longer voided (" in explain(figure(), INPUTS, figure("0"), gone)
    machines = SETTINGS | {"machine list": "sha256:2"}
    expected = how.format("files read again as machine list changed")
    assert explain(figure("40"), inputs(**fewer, settings=machines)).startswith(expected[:-1])
    assert explain(figure("40"), inputs(**fewer)) == how.format("files read by a newer reader")


def test_while_the_day_goes_on() -> None:
    running = inputs(over=False, estimate=Decimal(1), sources=(), files=(), charges=0)
    later = msgspec.structs.replace(running, estimate=Decimal("1.5"), usage_sha256="v")
    assert explain(figure("1.5", tokens=9), later, figure("1"), running) == (
        "spend 1.00 → 1.50 USD (+0.50): estimate of machine hours (+0.50); tokens 5 → 9 (+4): more usage"
    )


def test_names_from_outside_are_bounded_and_printable() -> None:
    file = FileInput(source="cloud", file_name="\x1b[31m" + "x" * 500, sha256="0c")
    text = explain(figure("101"), inputs(sources=(charges("101", 4),), files=(FILE, file)))
    assert text.isprintable()
    assert len(text) < 250
    assert "\\x1b" in text


AMOUNTS = st.decimals(-(10**6), 10**6, places=12)
NAMES = st.sampled_from(["", "cloud", "\x1b[0m", "x" * 100, "\u202e"])


@given(
    st.tuples(st.none() | AMOUNTS, st.none() | AMOUNTS),
    st.lists(
        st.builds(SourceCharges, source=NAMES, sha256=NAMES, rows=st.integers(0), spend=AMOUNTS, tax=AMOUNTS),
        max_size=5,
    ),
    st.lists(st.tuples(NAMES, NAMES, NAMES, st.sampled_from(["ties", "voided", "open"])), max_size=5),
    st.dictionaries(st.sampled_from(CAUSES), AMOUNTS),
    st.booleans(),
)
def test_whatever_moved_there_is_a_bounded_reason(
    spends: tuple[Decimal | None, Decimal | None],
    sources: list[SourceCharges],
    invoices: list[tuple[str, str, str, str]],
    causes: dict[Any, Decimal],
    old: bool,
) -> None:
    was, spend = spends
    before = figure(spend=None if was is None else str(was))
    after = msgspec.structs.replace(figure(), spend=spend, causes=causes)
    now = inputs(sources=tuple(sources), invoices=tuple(invoices))
    text = explain(after, now, before, inputs(sources=None, settings={}) if old else INPUTS)
    assert 0 < len(text) <= MAX_LENGTH
    assert text.isprintable()
