"""What `invoice list` and `doctor` say of the sources that billing fetches by itself."""

from rich.console import Console

from shared.messages.invoices import SourceState
from spotinference.doctor_links import invoices
from spotinference.invoice_view import sources_table

GOOD = SourceState(
    name="aws",
    url="s3://bills/",
    looked_at=1_795_888_800,
    good_at=1_795_888_800,
    refused_at=5,
    reasons=(),
    deliveries=3,
)
REFUSED = SourceState(
    name="azure",
    url="/bills",
    looked_at=1_795_888_800,
    good_at=None,
    refused_at=1_795_885_200,
    reasons=("a.csv:2: BilledCost: empty",),
    deliveries=0,
)
NEW = SourceState(name="gcp", url="/gcp", looked_at=None, good_at=None, refused_at=None, reasons=(), deliveries=0)


def test_a_table_says_when_all_was_well_and_what_is_refused_since_when() -> None:
    console = Console(width=200, force_terminal=False)
    with console.capture() as shown:
        console.print(sources_table([GOOD, REFUSED, NEW]))
    _, good, refused, new = shown.get().splitlines()
    assert good.split() == ["aws", "s3://bills/", *["2026-11-28", "18:00:00Z"] * 2, "3"]
    assert "not yet" in refused
    assert "REFUSED since 2026-11-28 17:00:00Z: a.csv:2: BilledCost: empty" in refused
    assert new.count("not yet") == 2


def test_a_source_that_cannot_be_imported_is_wrong_and_a_new_one_is_not() -> None:
    levels = {link.figures["source"]: link.finding.level for link in invoices([GOOD, REFUSED, NEW])}
    assert levels == {"aws": "ok", "azure": "wrong", "gcp": "note"}
