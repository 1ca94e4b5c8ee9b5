"""The list of imports fits into a message: what counts stays, the oldest of the rest is left out and counted."""

from decimal import Decimal

from services.billing.app.invoice_service import fit_to_message
from shared.bus.reply import MAX_REPLY_BYTES
from shared.messages.codec import encode
from shared.messages.invoices import DeliveredFile, Imported, Invoices


def imported(number: int, *, active: bool = False, files: int = 30) -> Imported:
    return Imported(
        source="aws",
        issuer="AWS",
        account=f"{number}",
        period_start="2026-05-01T00:00:00Z",
        period_end="2026-06-01T00:00:00Z",
        rows=1,
        billed=Decimal(1),
        currency="USD",
        active=active,
        imported_at=1.0,
        files=tuple(DeliveredFile(name=f"part-{n}.csv", sha256="0" * 64) for n in range(files)),
    )


def test_what_fits_stays_as_it_is() -> None:
    whole = Invoices(imported=(imported(1), imported(2, active=True)), standings=())
    assert fit_to_message(whole) == whole


def test_the_oldest_that_no_longer_count_are_left_out() -> None:
    ones = [imported(number, active=number % 100 == 0) for number in range(1000)]  # the newest first
    cut = fit_to_message(Invoices(imported=tuple(ones), standings=()))
    assert len(encode(cut)) <= MAX_REPLY_BYTES
    assert cut.left_out == 1000 - len(cut.imported) > 0
    assert [one.account for one in cut.imported if one.active] == [f"{100 * n}" for n in range(10)]
    kept = [int(one.account) for one in cut.imported if not one.active]
    assert kept == [one for one in range(1000) if one % 100][: len(kept)]
