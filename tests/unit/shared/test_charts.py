"""Where the marks of charts stand: what is missing is a mark, and never 0."""

from decimal import Decimal

from msgspec.structs import replace

from shared.messages.billing import CAUSES
from shared.report_forms.charts import stack_days
from tests.unit.billing.export.full_reports import day_report

NONE = dict.fromkeys(CAUSES, Decimal(0))


def test_causes_stand_on_the_zero_line_and_credits_hang_from_it() -> None:
    causes = {**NONE, "serving": Decimal(2), "waking": Decimal(1), "shared": Decimal(-1)}
    plot = stack_days([replace(day_report(), causes=causes)])
    assert plot.labels == ("$3.00", "$1.00", "\N{MINUS SIGN}$1.00")
    assert plot.zero == "75.000%"
    assert plot.causes == ("serving", "waking", "shared")
    segments = plot.stacks[0].segments
    assert segments is not None
    assert [(segment.cause, segment.y, segment.height) for segment in segments] == [
        ("serving", "25.000%", "50.000%"),
        ("waking", "0.000%", "25.000%"),
        ("shared", "75.000%", "25.000%"),
    ]


def test_a_day_without_figures_has_no_stack_and_a_day_without_cost_an_empty_one() -> None:
    plot = stack_days([replace(day_report(), causes={}), replace(day_report(), causes=NONE)])
    assert [stack.segments for stack in plot.stacks] == [None, ()]
