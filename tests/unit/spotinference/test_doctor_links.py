"""The diagnostics of the doctor's links: wrong with a fix, a note, or ok."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from shared.messages.billing import DayReport, DirectionFigure, Directions
from shared.messages.meter import DeclaredLost, Gaps, OpenGap, Tokens, TokenSums
from shared.messages.meter_audit import Audit, Cause, MachineAudit, SourceAudit
from spotinference.doctor import links
from spotinference.doctor.collector import metric_values
from spotinference.doctor.links import Link, Outbox

SOURCE = SourceAudit(source="gw-1", first=1, last=5, kept=5, quarantined=0, mark=5)
MACHINE = MachineAudit(
    machine="m", state="equal", words="agree", engine=103, probes=3, ledger=100, read=100, difference=0
)
AUDIT = Audit(
    day="2026-11-23",
    at=1.0,
    final=True,
    complete=True,
    events=5,
    tokens=100,
    machines=(MACHINE,),
    sources=(SOURCE,),
    rollups="equal",
    conflicts=0,
    quarantined=0,
    open_gaps=0,
)
SERVED = TokenSums(prompt_tokens=60, completion_tokens=40)
TOKENS = Tokens(day="2026-11-23", complete=True, totals=SERVED, served=SERVED)


def audit(**fields: Any) -> Audit:
    return msgspec.structs.replace(AUDIT, **fields)


def machine(**fields: Any) -> Audit:
    return audit(machines=(msgspec.structs.replace(MACHINE, **fields),))


def source(**fields: Any) -> Audit:
    return audit(sources=(msgspec.structs.replace(SOURCE, **fields),))


def levels(chain: Iterable[Link]) -> dict[str, str]:
    return {link.name: link.diagnostic.level for link in chain}


def report(**fields: Any) -> DayReport:
    nothing = DirectionFigure(tokens=0, usd_per_mtok=None)
    known: dict[str, Any] = {"state": None, "reason": "no bill", "tokens": 100}
    return DayReport(
        day="2026-11-23",
        revision=1,
        currency="USD",
        spend=None,
        usd_per_mtok=None,
        causes={},
        tiers=(),
        directions=Directions(input=nothing, cached=nothing, output=nothing),
        tax=0,  # type: ignore[arg-type]  # not used
        spend_before_credits=None,
        **{**known, **fields},
    )


@pytest.mark.parametrize(
    ("state", "level"),
    [("equal", "ok"), ("explained", "ok"), ("open", "note"), ("unknown", "note"), ("wrong", "wrong")],
)
def test_engine_link_has_the_level_of_its_audit(state: Any, level: str) -> None:
    assert levels(links.engines(machine(state=state))) == {"engine": level, "probes": "ok"}


def test_engine_link_names_causes_and_shows_an_unread_engine_as_unknown() -> None:
    causes = (Cause(name="edges", tokens=1500, exact=False, words="at the edge"),)
    (first, _) = links.engines(machine(engine=None, causes=causes))
    assert "engine unknown" in first.diagnostic.text
    assert "up to 1,500 at the edge" in first.diagnostic.text
    assert first.figures["engine"] is None
    assert levels(links.engines(audit(machines=()))) == {"engine": "ok", "probes": "ok"}


def test_gateway_link_is_wrong_when_events_are_missing() -> None:
    assert levels(links.sources(AUDIT)) == {"gateway": "ok"}
    (missing,) = links.sources(source(kept=3, quarantined=1))
    assert missing.diagnostic.level == "wrong"
    assert "1 are missing" in missing.diagnostic.text
    assert levels(links.sources(source(kept=4, quarantined=1))) == {"gateway": "ok"}


@pytest.mark.parametrize(("age", "level"), [(299.0, "ok"), (301.0, "wrong")])
def test_outbox_link_is_wrong_when_events_wait_too_long(age: float, level: str) -> None:
    assert levels(links.outboxes([Outbox(gateway_url="here", pending=3, age_s=age)])) == {"outbox": level}


def test_outbox_link_is_a_note_when_gateways_run_elsewhere() -> None:
    (link,) = links.outboxes(None)
    assert link.diagnostic.level == "note"
    assert "spot_gateway_outbox_age_seconds" in link.diagnostic.text


@pytest.mark.parametrize(("before", "after", "level"), [(9, 0, "ok"), (9, 8, "note"), (9, 9, "wrong"), (0, 9, "wrong")])
def test_stream_link_is_wrong_when_the_backlog_does_not_fall(before: int, after: int, level: str) -> None:
    assert links.stream(before, after).diagnostic.level == level


def test_ledger_links_name_each_problem() -> None:
    healthy = {"ledger": "ok", "conflicts": "ok", "quarantine": "ok", "names": "ok", "sums": "ok", "day": "ok"}
    assert levels(links.ledger(AUDIT, TOKENS)) == healthy
    assert levels(links.ledger(audit(conflicts=1), TOKENS)) == {**healthy, "conflicts": "wrong"}
    assert levels(links.ledger(audit(quarantined=1), TOKENS)) == {**healthy, "quarantine": "wrong"}
    assert levels(links.ledger(audit(unknown_names=1), TOKENS)) == {**healthy, "names": "note"}
    assert levels(links.ledger(audit(rollups="differ"), TOKENS)) == {**healthy, "sums": "wrong"}
    assert levels(links.ledger(audit(rollups="unknown"), TOKENS)) == {**healthy, "sums": "note"}
    waiting = msgspec.structs.replace(TOKENS, complete=False, reasons=("it is not over",))
    assert levels(links.ledger(AUDIT, waiting)) == {**healthy, "day": "note"}


def test_gaps_link_is_wrong_until_gaps_are_declared_lost() -> None:
    gap = OpenGap(source="gw-1", first=3, last=4, earliest=0.0, latest=1.0)
    lost = DeclaredLost(source="gw-1", first=3, last=4, by="me", reason="disk", at=1.0)
    link = links.gaps(Gaps(open=(gap,) * 7))
    assert link.diagnostic.level == "wrong"
    assert "gw-1 3 to 4" in link.diagnostic.text
    assert "and 2 more" in link.diagnostic.text
    assert links.gaps(Gaps(open=(), lost=(lost,))).diagnostic.level == "ok"


@pytest.mark.parametrize(
    ("published", "level"), [({"gw-1": 5}, "ok"), ({"gw-1": 6}, "wrong"), ({"gw-1": 4}, "note"), ({}, "note")]
)
def test_marks_link_is_wrong_when_more_was_confirmed_than_the_ledger_has(published: dict[str, int], level: str) -> None:
    assert links.marks(AUDIT, published).diagnostic.level == level


def test_books_link_is_wrong_when_the_report_divides_by_other_tokens() -> None:
    assert links.books(report(), TOKENS).diagnostic.level == "note"
    assert links.books(report(state="final", reason=None), TOKENS).diagnostic.level == "ok"
    assert links.books(report(tokens=99), TOKENS).diagnostic.level == "wrong"
    going_on = msgspec.structs.replace(TOKENS, complete=False)
    assert links.books(report(tokens=99), going_on).diagnostic.level == "note", "more tokens come meanwhile"


@pytest.mark.parametrize(
    ("skew", "level"), [(0.9, "ok"), (-1.1, "note"), (4.9, "note"), (-5.1, "wrong"), (5.1, "wrong")]
)
def test_clock_link_has_a_level_by_its_skew(skew: float, level: str) -> None:
    assert levels(links.clocks({"gateway gw-1": skew})) == {"clock": level}


def test_clock_link_is_a_note_when_no_gateway_reports() -> None:
    assert levels(links.clocks({})) == {"clock": "note"}


def test_metric_values_has_a_sample_of_each_worker() -> None:
    text = '# TYPE a gauge\na{worker="0"} 1.0\na{worker="1"} 2.5e+01\nab 9\n'
    assert metric_values(text, "a") == [1.0, 25.0]
