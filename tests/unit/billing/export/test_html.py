"""Pages say what the reports say, escape what comes from outside and need nothing but themselves."""

import re
from collections.abc import Iterator
from decimal import Decimal

import pytest
from msgspec.structs import replace

from services.billing.adapters.export.html import MOST_ROWS, report_html, statement_html
from services.billing.core.reports.period_report import build_period_report
from shared.messages.billing import CAUSES, Cause
from shared.report_forms.charts import plot_days
from shared.report_forms.words import MINUS, NOTHING, format_usd
from tests.unit.billing.export.full_reports import (
    EVIL,
    WEIGHTS,
    day_report,
    evil_day,
    explained,
    lacking,
    period_report,
    statement,
    unknown,
)
from tests.unit.billing.export.html_page import Page

ABOUT_STATES = ("estimated", "provisional", "final", "restated", "not available")


def pages() -> Iterator[tuple[str, str]]:
    yield "day", report_html(day_report())
    yield "unknown day", report_html(unknown())
    yield "hostile day", report_html(evil_day())
    yield "period", report_html(period_report(30))
    yield "period without figures", report_html(build_period_report([unknown()], WEIGHTS))
    yield "statement", statement_html(statement())
    yield "hostile statement", statement_html(statement(key_id=EVIL[1], model=EVIL[2]))


EACH = pytest.mark.parametrize("html", [pytest.param(page, id=name) for name, page in pages()])


def test_day_page_shows_state_revision_and_change() -> None:
    page = Page(report_html(day_report()))
    for text in ("$2.4753", "provisional", "Revision 3, changed: late usage", "$990.12", "400,000,000", "SHA-256 abab"):
        assert text in page.text, text
    assert ["Serving" + "machines with requests in flight", "$396.05", "40.0%"] in page.rows
    assert ["qwen3-coder", "$460.41", "266,666,667", "$1.7265"] in page.rows
    assert ["nobody", "$153.47", "0", "no tokens", "$0.50"] in page.rows
    assert ["Always on", "$5,760.00", "$14.4000"] in page.rows
    assert ["$115.20", "$104.64", f"{MINUS}$10.56 (-9.2%)"] in page.rows
    assert "Made from 12 charges; shared cost is spread by direct cost." in page.text
    assert "75.0% of the spend comes from charges" in page.text


def test_a_period_leads_with_its_own_figure() -> None:
    report = period_report(30)
    page = Page(report_html(report))
    last = build_period_report(report.days[-7:], WEIGHTS)
    assert last.usd_per_mtok is not None
    first = page.text.index(format_usd(report.usd_per_mtok, 4))
    assert first < page.text.index("served, all 30 days") < page.text.index("Day by day")
    assert page.text.index("All 30") < page.text.index("The last 7")
    assert [
        "The last 7",
        format_usd(last.usd_per_mtok, 4),
        "estimated",
        format_usd(last.spend),
        "2,800,000,000",
    ] in page.rows
    assert [row[0] for row in page.rows if row[0].startswith("2026-")] == [day.day for day in report.days]
    assert [row[0] for row in Page(report_html(last)).rows if row[0].startswith("The last")] == []
    assert f"complete usage through {report.complete_through}" in page.text


def test_chart_marks_each_day_with_its_state_and_has_a_legend() -> None:
    report = period_report(30)
    page = Page(report_html(report))
    marks = [(a["class"] or "").split()[1] for a in page.of("rect") if (a.get("class") or "").startswith("day ")]
    assert marks[: len(report.days)] == [day.state for day in report.days]
    assert all(state in page.text for state in ABOUT_STATES)


def test_columns_are_in_proportion_and_a_day_without_a_figure_has_none() -> None:
    days = [day_report("2026-05-01", "100"), replace(unknown("2026-05-02"), tokens=0), day_report("2026-05-03", "400")]
    page = Page(report_html(build_period_report(days, WEIGHTS)))
    heights = [float((a["height"] or "")[:-1]) for a in page.of("rect") if "%" in (a.get("height") or "")]
    assert len(heights) == 2
    assert heights[1] == pytest.approx(4 * heights[0], rel=1e-3)
    assert "2026-05-02 not available" in page.text
    (row,) = [row for row in page.rows if row[0] == "2026-05-02"]
    assert row[1:3] == ["not available" + "cost not delivered", "not available"]


def test_columns_stand_on_the_zero_line_and_hang_from_it_below_zero() -> None:
    days = [replace(day_report(), usd_per_mtok=Decimal(ratio)) for ratio in ("0.9", "-0.5", "0")]
    shown_part = plot_days(days)
    assert shown_part.labels == ("$1.00", "$0.25", f"{MINUS}$0.50")
    assert shown_part.zero == "66.667%"
    assert [(column.y, column.height) for column in shown_part.columns] == [
        ("6.667%", "60.000%"),
        ("66.667%", "33.333%"),
        ("66.667%", "0.000%"),
    ]


def test_bars_are_in_proportion_and_a_credit_grows_to_the_left() -> None:
    causes = {**dict.fromkeys(CAUSES, Decimal(0)), "serving": Decimal("1300.5"), "shared": Decimal(-66)}
    page = Page(report_html(replace(day_report(), causes=causes)))
    shown_part = dict(zip(CAUSES, page.of("rect"), strict=True))

    def of(cause: Cause, name: str) -> float:
        return float((shown_part[cause][name] or "").removesuffix("%"))

    assert of("serving", "width") / of("shared", "width") == pytest.approx(1300.5 / 66, rel=1e-2)
    assert of("shared", "x") == 0
    assert of("shared", "width") == of("serving", "x")
    assert "credit" in (shown_part["shared"]["class"] or "")


def test_unknown_figures_are_described_in_words() -> None:
    page = Page(report_html(unknown()))
    assert "not available, cost not delivered" in page.text
    assert "Usage: not complete, because:the day is not over" in re.sub(r"\n", "", page.text)
    assert "Not available: no tier has a price_per_hour" in page.text
    assert "$0.00" not in page.text.partition("Recoverable tax")[0]
    assert page.of("svg") == []


def test_tier_without_bill_has_a_reason_that_wraps() -> None:
    report = lacking()
    html = report_html(report)
    assert f'not available<span class="meaning">{report.tiers[0].reason}</span>' in html
    page = Page(html)
    for row in ([report.tiers[0].tier, NOTHING], ["Spend", NOTHING]):
        (shown_part,) = [cells for cells in page.rows if cells[:2] == row]
        assert shown_part[3] == f"not available{report.reason}"
    assert f"{format_usd(report.spend_known)} known of it" in page.text


def test_null_is_never_shown_as_none() -> None:
    """Also of a figure that should not be: a ratio without a state."""
    page = Page(report_html(build_period_report([replace(day_report(), state=None), unknown()], WEIGHTS)))
    assert "None" not in page.text


def test_many_keys_are_the_dearest_and_the_rest_in_one_row() -> None:
    report = day_report(keys=tuple(f"k{number}" for number in range(1000)))
    page = Page(report_html(report))
    (rest,) = [row for row in page.rows if row[0] == f"{1000 - MOST_ROWS} more"]
    assert rest[1] == format_usd(sum((key.spend for key in report.keys[MOST_ROWS:]), Decimal(0)))
    assert [f"k{MOST_ROWS}"] not in [row[:1] for row in page.rows]


def test_keys_have_their_names_with_the_id_below() -> None:
    names: dict[str | None, str] = {"k1": "Acme", "k2": "<b>Acme</b>"}
    page = Page(report_html(day_report(names=names)))
    assert [row[0] for row in page.rows if "Acme" in row[0]] == ["Acmek1", "<b>Acme</b>k2"]
    page = Page(statement_html(statement(name="<b>Acme</b>")))
    assert "Statement of <b>Acme</b> (k1), 2026-05" in page.text


def test_tiers_and_what_belongs_to_none_sum_to_the_spend() -> None:
    report = day_report()
    rows = Page(report_html(report)).rows
    at = next(number for number, row in enumerate(rows) if row[0] == "Tier")
    assert [row[0] for row in rows[at + 1 : at + 5]] == ["h100x2", "l4x2", "unattributed", "Spend"]
    assert rows[at + 3][1] == format_usd(report.causes["unattributed"])
    assert rows[at + 4][1:] == [format_usd(report.spend), "400,000,000", format_usd(report.usd_per_mtok, 4)]


def test_what_a_figure_is_made_of_lies_folded_below_the_tiers() -> None:
    report = explained(day_report())
    page = Page(report_html(report))
    assert len(page.of("details")) == len(report.explanations)
    assert "open" not in page.of("details")[0]
    lines = report.explanations[0].lines
    rows = [row for row in page.rows if row[0].startswith(tuple(line.resource or "" for line in lines))]
    assert [row[1:] for row in rows] == [
        [format_usd(x.amount), x.service, x.tag, f"{x.source}{x.file}", "1,234"] for x in lines
    ]
    assert ["1,234 more", format_usd(report.explanations[0].rest), "", "", "", ""] in page.rows
    assert "no bill yet: disk-1, estimated" in page.text
    assert Page(report_html(day_report())).of("details") == []
    lacking = replace(report.tiers[0], spend=None, usd_per_mtok=None, reason="no bill yet: m1", spend_known=Decimal(3))
    page = Page(report_html(replace(report, tiers=(lacking, *report.tiers[1:]))))
    assert "h100x2, $3.00 known: no bill yet: m1" in page.text


def test_statement_page_lists_each_line_and_sums_by_model() -> None:
    page = Page(statement_html(statement()))
    assert "$6.00" in page.text
    assert ["2026-05-03", "qwen3-coder", "$6.00", "$2.5000", "1,800,000", "100,000", "600,000"] in page.rows
    assert ["qwen3-coder", "2,400,002", "$6.00"] in page.rows
    first = statement().lines[0]
    page = Page(statement_html(replace(statement(), amount=None, lines=(first, replace(first, amount=None)))))
    assert ["qwen3-coder", "4,800,000", "not available"] in page.rows
    without = replace(statement().lines[0], amount=None, usd_per_mtok=None, reason="too few tokens")
    page = Page(statement_html(replace(statement(), amount=None, complete=False, lines=(without,))))
    assert "not available, a line below has no price" in page.text
    assert "not availabletoo few tokens" in page.rows[-1]


@EACH
def test_it_is_one_file_that_trusts_nothing(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    attributes = [name for _, named in page.tags for name in named]
    assert [name for name in attributes if name in ("src", "href", "srcset") or name.startswith("on")] == []
    assert set(re.findall(r"url\(.", html)) <= {"url(#"}
    assert "@import" not in html
    assert all(character.isprintable() or character == "\n" for character in html)


def test_hostile_names_are_text() -> None:
    page = Page(report_html(evil_day()))
    for name in ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\\x1b[31mred", "{{ 7 * 7 }}", "\\x00"):
        assert any(name in row[0] for row in page.rows), name


@EACH
def test_charts_and_tables_have_names(html: str) -> None:
    page = Page(html)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)
    for chart in page.of("svg"):
        assert (
            chart.get("aria-hidden") == "true"
            or "x" in chart
            or (chart["role"], bool(chart["aria-labelledby"]))
            == (
                "img",
                True,
            )
        )
    assert len(page.of("table")) == len(page.of("caption"))
    assert all("scope" in attributes for attributes in page.of("th"))
    assert (
        len(page.of("h1"))
        == len(page.of("main"))
        == len(page.of("title")) - len([a for a in page.of("svg") if a.get("role")])
    )
    assert page.of("html") == [{"lang": "en"}]
    assert all(a.get("tabindex") == "0" for a in page.of("div") if a.get("class") == "wide"), "scrolled by keys, too"


@EACH
def test_every_word_has_enough_contrast(html: str) -> None:
    """WCAG AA: 4.5 for text, 3 for marks of a chart; in both schemes."""
    for scheme in re.findall(r":root \{(.*?)\}", html):
        colour = dict(re.findall(r"--(\w+): (#\w+);", scheme))
        for text in ("ink", "soft"):
            for ground in ("paper", "card"):
                assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
        assert contrast(colour["ink"], colour["badge"]) >= 4.5
        for mark in ("bar", "credit"):
            assert contrast(colour[mark], colour["card"]) >= 3, mark


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_small_amounts_are_seen() -> None:
    assert [format_usd(Decimal(a)) for a in ("0.0004", "-2", "0", "1234567.891")] == [
        "$0.000400",
        f"{MINUS}$2.00",
        "$0.00",
        "$1,234,567.89",
    ]
    assert format_usd(Decimal("0.00004"), 4) == "$0.000040"
    assert format_usd(Decimal("-0.000000000012"), 4) == f"{MINUS}$0.00000000001", "what is not 0 never reads as 0"
