"""The page says what the report says, escapes what comes from outside and needs nothing but itself."""

from decimal import Decimal
from html.parser import HTMLParser

from services.billing.html import MINUS, render, usd
from shared.messages.billing import CAUSES, DayReport, DirectionFigure, Directions, TierFigure

EMPTY = DirectionFigure(tokens=0, usd_per_mtok=None)
KNOWN = DayReport(
    day="2026-05-03",
    state="provisional",
    revision=3,
    currency="USD",
    spend=Decimal("1234.5"),
    tokens=400_000_000,
    usd_per_mtok=Decimal("3.08625"),
    reason=None,
    causes={**dict.fromkeys(CAUSES, Decimal(0)), "serving": Decimal("1300.5"), "shared": Decimal(-66)},
    tiers=(TierFigure(tier="<h100>", spend=Decimal("1234.5"), tokens=400_000_000, usd_per_mtok=Decimal("3.08625")),),
    directions=Directions(input=DirectionFigure(tokens=5, usd_per_mtok=Decimal(1)), cached=EMPTY, output=EMPTY),
    tax=Decimal(0),
    spend_before_credits=Decimal("1300.5"),
    sources=("bill.csv from cloud, SHA-256 abc",),
)
UNKNOWN = DayReport(
    day="2026-05-03",
    state=None,
    revision=1,
    currency="USD",
    spend=None,
    tokens=7,
    usd_per_mtok=None,
    reason="cost not delivered",
    causes={},
    tiers=(),
    directions=Directions(input=EMPTY, cached=EMPTY, output=EMPTY),
    tax=Decimal(0),
    spend_before_credits=None,
)
VOID = {"meta", "line", "rect", "br"}


class Page(HTMLParser):
    """Refuses what is not well nested; keeps the tags with their attributes and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_the_figures_with_state_and_revision() -> None:
    page = Page(render(KNOWN, 1_777_800_000.0))
    for said in ("$3.0862", "provisional", "Revision 3", "$1 234.50", "400 000 000", f"{MINUS}$66.00", "SHA-256 abc"):
        assert said in page.text, said
    assert "written 2026-05-03 09:20 UTC" in page.text


def test_bars_are_in_proportion_and_a_credit_grows_to_the_left() -> None:
    rects = [attributes for tag, attributes in Page(render(KNOWN, 0.0)).tags if tag == "rect"]
    assert len(rects) == len(CAUSES)
    serving, shared = rects[CAUSES.index("serving")], rects[CAUSES.index("shared")]
    assert float(serving["width"] or 0) / float(shared["width"] or 1) > 19
    assert float(shared["x"] or 0) == 0
    assert float(shared["width"] or 0) == float(serving["x"] or -1)


def test_what_is_not_known_is_said_in_words() -> None:
    page = Page(render(UNKNOWN, 0.0))
    assert "not available, cost not delivered" in page.text
    assert "$0.00" not in page.text.partition("Recoverable tax")[0]
    assert not [tag for tag, _ in page.tags if tag == "svg"]


def test_it_is_one_file_that_trusts_nothing() -> None:
    html = render(KNOWN, 0.0)
    page = Page(html)
    assert "&lt;h100&gt;" in html
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not [a for _, attributes in page.tags for a in attributes if a in ("src", "href") or a.startswith("on")]
    assert "url(" not in html
    assert "http" not in html


def test_the_chart_has_a_name_and_a_table_with_headings() -> None:
    tags = Page(render(KNOWN, 0.0)).tags
    chart = next(attributes for tag, attributes in tags if tag == "svg")
    assert chart["role"] == "img"
    named = {attributes["id"] for tag, attributes in tags if "id" in attributes}
    assert set((chart["aria-labelledby"] or "").split()) <= named
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")


def test_small_amounts_are_seen() -> None:
    assert [usd(Decimal(a)) for a in ("0.0004", "-2", "0", "1234567.891")] == [
        "$0.000400",
        f"{MINUS}$2.00",
        "$0.00",
        "$1 234 567.89",
    ]
