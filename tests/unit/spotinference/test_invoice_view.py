"""What `invoice list` and `doctor` print about the sources that billing fetches."""

from decimal import Decimal
from typing import Any

from rich.console import Console

from shared.messages.invoices import ImportAnswer, Imported, SnapshotSummary, SourceState
from spotinference.doctor.links import invoices
from spotinference.invoice.view import imported_lines, imported_table, sources_table

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


def test_sources_table_shows_the_last_success_and_since_when_files_are_rejected() -> None:
    console = Console(width=200, force_terminal=False)
    with console.capture() as shown:
        console.print(sources_table([GOOD, REFUSED, NEW]))
    _, good, refused, new = shown.get().splitlines()
    assert good.split() == ["aws", "s3://bills/", *["2026-11-28", "18:00:00Z"] * 2, "3"]
    assert "not yet" in refused
    assert "REJECTED since 2026-11-28 17:00:00Z: a.csv:2: BilledCost: empty" in refused
    assert new.count("not yet") == 2


def test_source_is_wrong_when_it_cannot_be_imported() -> None:
    levels = {link.figures["source"]: link.diagnostic.level for link in invoices([GOOD, REFUSED, NEW])}
    assert levels == {"aws": "ok", "azure": "wrong", "gcp": "note"}


def test_imports_show_what_was_rounded_or_read_again() -> None:
    same: dict[str, Any] = {"issuer": "Cloud", "account": "a", "period_start": "2026-05-01", "period_end": "2026-06-01"}
    residue, billed = Decimal("5.5e-15"), Decimal("0.1")
    summary = SnapshotSummary(**same, rows=1, billed=billed, currency="USD", replaced=False, residue=residue)
    assert "rounded (residue 0.0000000000000055)" in "".join(
        imported_lines(ImportAnswer(sha256="0", snapshots=(summary,)))
    )
    one = Imported(
        **same,
        source="aws",
        rows=1,
        billed=billed,
        currency="USD",
        active=True,
        imported_at=0.0,
        files=(),
        residue=residue,
        reread="by a newer version",
        not_reread="nothing named 'x'",
    )
    console = Console(width=200, force_terminal=False)
    with console.capture() as shown:
        console.print(imported_table([one]))
    assert "yes, read again: by a newer version, rounded (residue 0.0000000000000055)" in shown.get()
    assert "NOT READ AGAIN: nothing named 'x'" in shown.get()
