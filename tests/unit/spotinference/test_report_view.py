"""What a terminal shows of a report: the headline first, correct sums, no cut numbers, no control sequences."""

import io
import re
from decimal import Decimal

import pytest
from msgspec.structs import replace
from rich.console import Console

from services.billing.adapters.export.formatting import Report
from services.billing.core.reports.period_report import build_period_report
from shared.messages.billing import Band, Bands, DayReport
from spotinference.bands import view as bands
from spotinference.report import explanation_view
from spotinference.report.view import GAP, LEVELS, MOST_PARTS, render_report, sparkline
from spotinference.statement import view as statement
from spotinference.tables import figure_table
from tests.unit.billing.export.full_reports import (
    EVIL,
    WEIGHTS,
    day_report,
    evil_day,
    explained,
    lacking,
    period_report,
    unknown,
)
from tests.unit.billing.export.full_reports import (
    statement as sample_statement,
)

WIDTHS = (40, 60, 72, 80, 120, 200)


def shown(report: Report, width: int = 100) -> str:
    """With colours, as a terminal of this width gets it."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, force_terminal=True, color_system=None)
    console.print(render_report(report, width))
    return out.getvalue()


def test_period_report_begins_with_its_figure_and_a_sparkline() -> None:
    report = period_report(30)
    lines = shown(report).splitlines()
    last = build_period_report(report.days[-7:], WEIGHTS)
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


def test_sparkline_has_a_mark_for_each_day() -> None:
    assert sparkline([Decimal(0), Decimal(7), None, Decimal("3.4")]) == f"{LEVELS[0]}{LEVELS[7]}{GAP}{LEVELS[3]}"
    assert sparkline([Decimal(-1), Decimal(1)]) == LEVELS[0] + LEVELS[7]
    assert sparkline([Decimal(5), Decimal(5)]) == LEVELS[7] * 2
    assert sparkline([Decimal(0), None]) == LEVELS[0] + GAP
    assert sparkline([]) == ""


def test_day_report_shows_its_state_its_change_and_the_billed_share() -> None:
    text = shown(day_report())
    for line in (
        "$2.4753 per million tokens, $8.2510 per million output tokens, $2.6400 before credits",
        "2026-05-03 UTC, provisional, revision 3, 400,000,000 tokens served, spend $990.12",
        "changed: late usage",
        "75.0% of the spend comes from charges, the rest from accruals",
        "based on 12 charges, shared cost distributed by direct cost",
        "usage is complete",
        "always on: $5,760.00, $14.4000 per million tokens",
        "for the same hours: accrued $115.20, billed $104.64, difference -10.56 USD (-9.17%)",
        "wasted: 1,200 tokens of failed requests",
    ):
        assert line in text, line


def test_unknown_figure_has_its_reason() -> None:
    text = shown(unknown())
    assert text.startswith("$/Mtok not available: cost not delivered\n")
    assert "spend unknown" in text
    assert "usage is not complete\n  the day is not over" in text
    days = [day_report("2026-05-03"), *(replace(unknown(f"2026-05-0{day}"), tokens=0) for day in (4, 5, 7))]
    assert "2026-05-04 to 2026-05-05, 2026-05-07: cost not delivered" in shown(build_period_report(days, WEIGHTS))
    whole = build_period_report([unknown()], WEIGHTS)
    assert "$/Mtok not available: " in shown(whole)
    assert "no day has complete bills and usage" in shown(whole)


def test_only_the_most_expensive_keys_are_listed_when_there_are_many() -> None:
    report = day_report(keys=tuple(f"k{number}" for number in range(50)))
    lines = [line.split() for line in shown(report).splitlines()]
    (rest,) = [line for line in lines if line[1:2] == ["others"]]
    left = report.keys[MOST_PARTS:]
    assert rest == [
        "40",
        "others",
        f"{sum(key.spend for key in left):,.4f}",
        f"{sum(key.tokens for key in left):,}",
        "20.0000",
    ]
    assert "k10" not in {line[0] for line in lines if line}


def test_key_is_shown_by_its_name_and_its_id() -> None:
    report = day_report(keys=("k1", "k2", "k3", None), names={"k1": "Acme", "k2": "Acme", "k3": "\x1b[31m"})
    lines = [line.strip() for line in shown(report).splitlines()]
    for label in ("Acme (k1)", "Acme (k2)", "\\x1b[31m (k3)"):
        assert len([line for line in lines if line.startswith(f"{label} ")]) == 1, label


def test_explanation_covers_what_is_known_when_a_bill_is_missing() -> None:
    report = explained(lacking())
    by_tier = {one.is_tier: one for one in report.explanations}
    for one in report.explanations:
        assert explanation_view.explanation_json(report, one)["reason"] == report.reason
    out = io.StringIO()
    Console(file=out, width=100).print(explanation_view.render_explanation(report, by_tier[False], 100))
    assert f" known so far: {report.reason}" in out.getvalue().splitlines()[0]
    whole = explained(day_report())
    assert [explanation_view.explanation_json(whole, one)["reason"] for one in whole.explanations] == [None, None]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("report", [evil_day(), explained(day_report(), ("disk-1", "x" * 70))])
def test_explanation_has_no_control_sequences_and_no_cut_numbers(report: DayReport, width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, force_terminal=True, color_system=None)
    console.print(explanation_view.render_explanation(report, report.explanations[0], width))
    text = out.getvalue()
    assert "\x1b[31m" not in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    one = report.explanations[0]
    for amount in (one.amount, one.rest, *(line.amount for line in one.lines)):
        assert f" {amount:,.4f}" in text
    assert "disk-1" in text or report.keys[0].key_id != "k1"


@pytest.mark.parametrize("report", [day_report(), period_report(3)])
def test_tiers_and_unattributed_cost_sum_to_the_spend(report: Report) -> None:
    part = shown(report).partition("\ntier ")[2].partition("\n \n")[0] or shown(report).partition("\ntier ")[2]
    lines = [line.split() for line in part.partition("model")[0].splitlines()[1:] if line.strip()]
    assert [line[0] for line in lines] == ["h100x2", "l4x2", "unattributed", "total"]
    amounts = [Decimal(line[1].replace(",", "")) for line in lines]
    assert report.spend is not None
    assert lines[-1][1] == f"{report.spend:,.2f}"
    assert abs(sum(amounts[:-1]) - amounts[-1]) <= Decimal("0.02"), "each is rounded"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("report", [day_report(), evil_day(), unknown(), period_report(92)])
def test_report_fits_the_terminal_and_cuts_no_number(report: Report, width: int) -> None:
    text = shown(report, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for day in getattr(report, "days", ()):
        (line,) = [line for line in lines if line.split()[:2] == [day.day, day.state]]
        assert line.split()[-1] == f"{day.usd_per_mtok:,.4f}"


def test_long_name_is_broken_and_a_number_is_not() -> None:
    report = day_report(spend="123456789.5", keys=("k" * 60, None), tokens=10**15)
    for width in (40, 72):
        (line,) = [line for line in shown(report, width).splitlines() if re.match(r"k+ +\d", line)]
        assert line.split()[1] == f"{report.keys[0].spend:,.2f}"


def test_number_without_room_ends_in_an_ellipsis(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=10).print(figure_table(("key", "USD"), [("k1", "1,234,567.89")]))
    assert capsys.readouterr().out.split()[-1].endswith("…")
    Console(width=20).print(figure_table(("key", "USD"), [("k" * 12, "12,345,678.90")]))
    assert "12,345,678.90" in capsys.readouterr().out, "the name gives way"


def test_sparkline_keeps_the_last_days_when_it_does_not_fit() -> None:
    report = period_report(92)
    lines = shown(report, 40).splitlines()
    assert sparkline([day.usd_per_mtok for day in report.days[-40:]]) in lines


def test_hostile_text_is_escaped() -> None:
    text = shown(evil_day(), 200)
    assert "\\x1b[31mred\\x1b[0m\\n[bold]two[/bold] lines" in text
    assert "nul\\x00 \\u202egnol" in text
    assert all(character.isprintable() or character == "\n" for character in _without_bold(text))


def _without_bold(text: str) -> str:
    return text.replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_statement_lists_its_lines_and_what_has_no_price(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    statement.print_statement(sample_statement())
    assert ["qwen3-coder", "2026-05-03", "2,400,000", "2.5000", "6.000000"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    monkeypatch.setenv("COLUMNS", "120")
    statement.print_statement(sample_statement())
    output = capsys.readouterr().out
    assert "k1, 2026-05: $6.0000 for 2,400,002 tokens, complete" in output
    assert ["qwen3-coder", "2026-05-03", "1,800,000", "100,000", "600,000", "2.5000", "6.000000"] in [
        line.split() for line in output.splitlines()
    ]
    line = replace(sample_statement().lines[0], amount=None, usd_per_mtok=None, reason="too few tokens", model=EVIL[3])
    statement.print_statement(
        replace(sample_statement(key_id=EVIL[3]), amount=None, complete=False, lines=(line,), reasons=("r",))
    )
    output = capsys.readouterr().out
    assert "not available for 2,400,002 tokens, not complete" in output.replace("\n", " ")
    assert "too few tokens" in output
    assert "\x1b" not in output


def test_bands_are_printed_with_the_costs_behind_them(capsys: pytest.CaptureFixture[str]) -> None:
    known = Band(
        model="[bold]m[/bold]",
        day="2026-05-03",
        low=Decimal("2.0"),
        high=Decimal("2.5"),
        trailing_7=Decimal("2.25"),
        trailing_28=None,
    )
    none = replace(known, model="n", low=None, high=None, reason="fewer than 1000000 tokens")
    bands.print_bands(Bands(day="2026-05-03", bands=(known, none)))
    output = capsys.readouterr().out
    assert "[bold]m[/bold]" in output
    assert "2.0 to 2.5" in output
    assert "n: fewer than 1000000 tokens" in output
