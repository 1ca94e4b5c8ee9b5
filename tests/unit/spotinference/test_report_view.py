"""What a terminal shows of a report: the headline first, sums that hold, nothing cut, nothing executed."""

import io
import re
from decimal import Decimal

import pytest
from msgspec.structs import replace
from rich.console import Console

from services.billing.core.period import make_period
from services.billing.forms.words import Report
from shared.messages.billing import Band, Bands, DayReport
from spotinference.bands import view as bands
from spotinference.report import explanation_view
from spotinference.report.view import GAP, LEVELS, MOST_PARTS, sparkline, view
from spotinference.statement import view as statement
from spotinference.tables import table
from tests.unit.billing.forms.kit import (
    EVIL,
    WEIGHTS,
    day_report,
    evil_day,
    explained,
    lacking,
    period_report,
    unknown,
)
from tests.unit.billing.forms.kit import (
    statement as made_statement,
)

WIDTHS = (40, 60, 72, 80, 120, 200)


def shown(report: Report, width: int = 100) -> str:
    """With colours, as a terminal of this width gets it."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, force_terminal=True, color_system=None)
    console.print(view(report, width))
    return out.getvalue()


def test_a_period_begins_with_its_own_figure_and_a_sparkline() -> None:
    report = period_report(30)
    lines = shown(report).splitlines()
    last = make_period(report.days[-7:], WEIGHTS)
    assert lines[0].startswith(f"${report.usd_per_mtok:,.4f} per million tokens")
    assert lines[1] == "30 days, 2026-05-02 to 2026-05-31 UTC, estimated"
    assert lines[2] == f"bills and usage are complete through {report.complete_through}"
    assert lines[4] == sparkline([day.usd_per_mtok for day in report.days])
    for name, whole in (("7 days", last), ("30 days", report)):
        (line,) = [line for line in lines[2:] if line.startswith(name)]
        assert line.split()[2:] == [
            "estimated",
            f"{whole.spend:,.2f}",
            f"{whole.tokens:,}",
            f"{whole.usd_per_mtok:,.4f}",
        ]
    assert [line.split()[0] for line in lines if line.startswith("2026-")] == [day.day for day in report.days]


def test_a_sparkline_has_a_mark_for_each_day() -> None:
    assert sparkline([Decimal(0), Decimal(7), None, Decimal("3.4")]) == f"{LEVELS[0]}{LEVELS[7]}{GAP}{LEVELS[3]}"
    assert sparkline([Decimal(-1), Decimal(1)]) == LEVELS[0] + LEVELS[7]
    assert sparkline([Decimal(5), Decimal(5)]) == LEVELS[7] * 2
    assert sparkline([Decimal(0), None]) == LEVELS[0] + GAP
    assert sparkline([]) == ""


def test_a_day_says_its_state_its_change_and_how_much_is_billed() -> None:
    text = shown(day_report())
    for said in (
        "$2.4753 per million tokens, $8.2510 per million output tokens, $2.6400 before credits",
        "2026-05-03 UTC, provisional, revision 3, 400,000,000 tokens served, spend $990.12",
        "changed: late usage",
        "75.0% of the spend comes from charges, the rest from accruals",
        "made from 12 charges, shared cost spread by direct cost",
        "usage complete",
        "always on: $5,760.00, $14.4000 per million tokens",
        "the same hours accrued $115.20, billed $104.64: -10.56 USD (-9.17%)",
        "waste: 1,200 tokens of failed requests",
    ):
        assert said in text, said


def test_what_is_not_known_has_its_reason() -> None:
    text = shown(unknown())
    assert text.startswith("$/Mtok not available: cost not delivered\n")
    assert "spend unknown" in text
    assert "usage not complete\n  the day is not over" in text
    days = [day_report("2026-05-03"), *(replace(unknown(f"2026-05-0{day}"), tokens=0) for day in (4, 5, 7))]
    assert "2026-05-04 to 2026-05-05, 2026-05-07: cost not delivered" in shown(make_period(days, WEIGHTS))
    whole = make_period([unknown()], WEIGHTS)
    assert "$/Mtok not available: " in shown(whole)
    assert "no day has complete bills and usage" in shown(whole)


def test_of_many_keys_the_dearest_are_shown_and_the_rest_summed() -> None:
    report = day_report(keys=tuple(f"k{number}" for number in range(50)))
    lines = [line.split() for line in shown(report).splitlines()]
    (rest,) = [line for line in lines if line[1:2] == ["more"]]
    left = report.keys[MOST_PARTS:]
    assert rest == [
        "40",
        "more",
        f"{sum(key.spend for key in left):,.4f}",
        f"{sum(key.tokens for key in left):,}",
        "20.0000",
    ]
    assert "k10" not in {line[0] for line in lines if line}


def test_a_key_is_shown_by_its_name_and_its_id() -> None:
    report = day_report(keys=("k1", "k2", "k3", None), names={"k1": "Acme", "k2": "Acme", "k3": "\x1b[31m"})
    lines = [line.strip() for line in shown(report).splitlines()]
    for label in ("Acme (k1)", "Acme (k2)", "\\x1b[31m (k3)"):
        assert len([line for line in lines if line.startswith(f"{label} ")]) == 1, label


def test_what_a_day_without_its_bill_is_made_of_is_what_is_known_of_it() -> None:
    report = explained(lacking())
    by_tier = {one.is_tier: one for one in report.explanations}
    for one in report.explanations:
        assert explanation_view.fields(report, one)["reason"] == report.reason
    out = io.StringIO()
    Console(file=out, width=100).print(explanation_view.view(report, by_tier[False], 100))
    assert f" known: {report.reason}" in out.getvalue().splitlines()[0]
    whole = explained(day_report())
    assert [explanation_view.fields(whole, one)["reason"] for one in whole.explanations] == [None, None]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("report", [evil_day(), explained(day_report(), ("disk-1", "x" * 70))])
def test_an_explanation_executes_nothing_and_cuts_nothing(report: DayReport, width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, force_terminal=True, color_system=None)
    console.print(explanation_view.view(report, report.explanations[0], width))
    text = out.getvalue()
    assert "\x1b[31m" not in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    one = report.explanations[0]
    for amount in (one.amount, one.rest, *(line.amount for line in one.lines)):
        assert f" {amount:,.4f}" in text
    assert "disk-1" in text or report.keys[0].key_id != "k1"


@pytest.mark.parametrize("report", [day_report(), period_report(3)])
def test_the_tiers_and_what_belongs_to_none_are_shown_to_sum_to_the_spend(report: Report) -> None:
    part = shown(report).partition("\ntier ")[2].partition("\n \n")[0] or shown(report).partition("\ntier ")[2]
    lines = [line.split() for line in part.partition("model")[0].splitlines()[1:] if line.strip()]
    assert [line[0] for line in lines] == ["h100x2", "l4x2", "unattributed", "sum"]
    amounts = [Decimal(line[1].replace(",", "")) for line in lines]
    assert report.spend is not None
    assert lines[-1][1] == f"{report.spend:,.2f}"
    assert abs(sum(amounts[:-1]) - amounts[-1]) <= Decimal("0.02"), "each is rounded"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("report", [day_report(), evil_day(), unknown(), period_report(92)])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(report: Report, width: int) -> None:
    text = shown(report, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for day in getattr(report, "days", ()):
        (line,) = [line for line in lines if line.split()[:2] == [day.day, day.state]]
        assert line.split()[-1] == f"{day.usd_per_mtok:,.4f}"


def test_a_name_is_broken_and_a_figure_is_not() -> None:
    report = day_report(spend="123456789.5", keys=("k" * 60, None), tokens=10**15)
    for width in (40, 72):
        (line,) = [line for line in shown(report, width).splitlines() if re.match(r"k+ +\d", line)]
        assert line.split()[1] == f"{report.keys[0].spend:,.2f}"


def test_a_figure_without_room_says_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=10).print(table(("key", "USD"), [("k1", "1,234,567.89")]))
    assert capsys.readouterr().out.split()[-1].endswith("…")
    Console(width=20).print(table(("key", "USD"), [("k" * 12, "12,345,678.90")]))
    assert "12,345,678.90" in capsys.readouterr().out, "the name gives way"


def test_a_sparkline_that_would_not_fit_ends_with_the_last_day() -> None:
    report = period_report(92)
    lines = shown(report, 40).splitlines()
    assert sparkline([day.usd_per_mtok for day in report.days[-40:]]) in lines


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    text = shown(evil_day(), 200)
    assert "\\x1b[31mred\\x1b[0m\\n[bold]two[/bold] lines" in text
    assert "nul\\x00 \\u202egnol" in text
    assert all(character.isprintable() or character == "\n" for character in _without_bold(text))


def _without_bold(text: str) -> str:
    return text.replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_a_statement_names_its_lines_and_what_has_no_price(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    statement.show(made_statement())
    assert ["qwen3-coder", "2026-05-03", "2,400,000", "2.5000", "6.000000"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    monkeypatch.setenv("COLUMNS", "120")
    statement.show(made_statement())
    said = capsys.readouterr().out
    assert "k1, 2026-05: $6.0000 for 2,400,002 tokens, complete" in said
    assert ["qwen3-coder", "2026-05-03", "1,800,000", "100,000", "600,000", "2.5000", "6.000000"] in [
        line.split() for line in said.splitlines()
    ]
    line = replace(made_statement().lines[0], amount=None, usd_per_mtok=None, reason="too few tokens", model=EVIL[3])
    statement.show(replace(made_statement(key_id=EVIL[3]), amount=None, complete=False, lines=(line,), reasons=("r",)))
    said = capsys.readouterr().out
    assert "not available for 2,400,002 tokens, not complete" in said.replace("\n", " ")
    assert "too few tokens" in said
    assert "\x1b" not in said


def test_bands_are_told_with_what_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    known = Band(
        model="[bold]m[/bold]",
        day="2026-05-03",
        low=Decimal("2.0"),
        high=Decimal("2.5"),
        trailing_7=Decimal("2.25"),
        trailing_28=None,
    )
    none = replace(known, model="n", low=None, high=None, reason="fewer than 1000000 tokens")
    bands.show(Bands(day="2026-05-03", bands=(known, none)))
    said = capsys.readouterr().out
    assert "[bold]m[/bold]" in said
    assert "2.0 to 2.5" in said
    assert "n: fewer than 1000000 tokens" in said
