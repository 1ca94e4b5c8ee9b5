"""Files are read exactly, or refused by file, line and column with nothing read."""

import gzip
from decimal import Decimal

import pytest

from services.billing.adapters.row_errors import MAX_ROW_ERRORS
from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.core.utc_time import parse_time_ms
from tests.unit.billing.cost_row_builders import ROW, focus_csv
from tests.unit.billing.file_reading import read

MINE = ImportSettings(source="cloud", mine=frozenset({"i-a"}))


def refusal(data: bytes) -> tuple[int, str, str]:
    result = read(data)
    assert not result.charges
    assert len(result.refusals) == 1, result.refusals
    assert result.refusals[0].file == "bill.csv"
    return result.refusals[0].line, result.refusals[0].column, result.refusals[0].reason


def test_a_row_is_read_by_column_name_with_every_digit() -> None:
    columns = list(reversed(ROW))
    cells = {**ROW, "BilledCost": "35.2E-7", "ListCost": "1234567890123.123456789012", "EffectiveCost": "NULL"}
    text = ",".join(columns) + "\n" + ",".join(cells[name] for name in columns) + "\n"
    ((key, (row,)),) = read(text.encode()).charges.items()
    assert (key.issuer, key.account) == ("Cloud Inc.", "acc-1")
    assert (key.period_start, key.period_end) == (
        parse_time_ms("2026-05-01T00:00:00Z"),
        parse_time_ms("2026-06-01T00:00:00Z"),
    )
    assert row.billed == Decimal("0.00000352")
    assert row.list_cost == Decimal("1234567890123.123456789012")
    assert row.effective is None
    assert row.tags is None
    assert row.invoice_id is None


def test_the_same_rows_come_out_of_a_gzipped_file_and_one_with_a_byte_order_mark() -> None:
    plain = focus_csv({}, {"BilledCost": "2"})
    packed, marked = read(gzip.compress(plain)), read(b"\xef\xbb\xbf" + plain)
    assert packed.charges == marked.charges == read(plain).charges
    assert not packed.refusals


@pytest.mark.parametrize("text", ["2026-05-03 00:00:00", "2026-05-03T00:00:00.000Z", "2026-05-03T00:00:00Z"])
def test_every_usual_form_of_a_time_is_utc(text: str) -> None:
    ((row,),) = read(focus_csv({"ChargePeriodStart": text})).charges.values()
    assert row.charge_start == parse_time_ms("2026-05-03T00:00:00Z")


def test_equal_rows_stay_two_rows() -> None:
    ((first, second),) = read(focus_csv({}, {}), terms=MINE).charges.values()
    assert first == second


def test_a_file_holds_one_snapshot_per_issuer_account_and_period() -> None:
    june = {"BillingPeriodStart": "2026-06-01T00:00:00Z", "BillingPeriodEnd": "2026-07-01T00:00:00Z"}
    other = {"BillingAccountId": "acc-2"}
    issuer = {"InvoiceIssuerName": "Cloud EMEA"}
    assert len(read(focus_csv({}, june, other, issuer, {})).charges) == 4


def test_an_empty_issuer_is_the_provider() -> None:
    ((key, _),) = read(focus_csv({"InvoiceIssuerName": "", "ProviderName": "AWS"})).charges.items()
    assert key.issuer == "AWS"


BAD_VALUES = [
    ("BilledCost", "NaN", "expected a number"),
    ("BilledCost", "Infinity", "expected a number"),
    ("BilledCost", "1,000.00", "expected a number"),
    ("BilledCost", "1_000", "expected a number"),
    ("BilledCost", "$5", "expected a number"),
    ("BilledCost", "٣", "expected a number"),
    ("BilledCost", "NULL", "empty"),
    ("BilledCost", "", "empty"),
    ("BilledCost", "0.0000000000001", "more than 12 decimals"),
    ("BilledCost", "1e-999", "more than 12 decimals"),
    ("BilledCost", "1e999", "digits before the point"),
    ("ConsumedQuantity", "nan", "expected a number"),
    ("ChargeCategory", "Usages", "expected one of"),
    ("ChargePeriodStart", "03.05.2026", "expected a UTC time"),
    ("ChargePeriodStart", "2026-05-03T00:00:00 CET", "expected a UTC time"),
    ("ChargePeriodStart", "2026-05-03T00:00:00+02:00", "expected a UTC time"),
    ("ChargePeriodStart", "2026-13-03T00:00:00Z", "no such time"),
    ("ChargePeriodStart", "NULL", "empty"),
    ("ChargePeriodEnd", "2026-05-02T00:00:00Z", "before the start"),
    ("ChargePeriodEnd", "9026-05-02T00:00:00Z", "more than ten years"),
    ("BillingPeriodEnd", "2026-05-01T00:00:00Z", "not after"),
    ("BillingAccountId", "NULL", "empty"),
    ("InvoiceIssuerName", "NULL", "empty"),
    ("BillingCurrency", "EUR", "'EUR'"),
    ("BillingCurrency", "NULL", "empty"),
    ("ServiceProviderName", "a\x00b", "NUL"),
    ("x_Labels", '[{"Key": "tier", "Value": ["A"]}]', "JSON"),
    ("Tags", "tier=A", "JSON"),
    ("Tags", '{"tier": {"name": "A"}}', "JSON"),
    ("ServiceName", "a\x00b", "NUL"),
]


def test_a_bad_value_is_refused_by_line_and_column() -> None:
    rows = [row for column, value, _ in BAD_VALUES for row in ({column: value}, {})]
    result = read(focus_csv(*rows))
    assert not result.charges
    assert [(refusal.line, refusal.column) for refusal in result.refusals] == [
        (2 * number + 2, column) for number, (column, _, _) in enumerate(BAD_VALUES)
    ]
    for refusal, (_, value, reason) in zip(result.refusals, BAD_VALUES, strict=True):
        assert reason in refusal.reason, value


@pytest.mark.parametrize(
    "column", ["BilledCost", "BillingCurrency", "ChargeCategory", "ChargePeriodEnd", "InvoiceIssuerName"]
)
def test_a_missing_column_is_named(column: str) -> None:
    line, named, why = refusal(focus_csv({}, drop=(column,)))
    assert (line, named) == (1, column)
    assert "missing" in why


def test_a_column_that_is_there_twice_is_refused() -> None:
    header, row, _ = focus_csv({}).split(b"\r\n")
    assert refusal(header + b",BilledCost\n" + row + b",9\n")[:2] == (1, "BilledCost")


@pytest.mark.parametrize("spoil", [lambda row: row + b",more", lambda row: row.rpartition(b",")[0]])
def test_a_row_with_another_number_of_fields_is_refused(spoil) -> None:  # type: ignore[no-untyped-def]  # a lambda
    header, row, _ = focus_csv({}).split(b"\r\n")
    line, _, why = refusal(b"\n".join([header, row, spoil(row), b""]))
    assert line == 3
    assert "fields" in why


def test_lines_are_counted_in_the_file_not_in_rows() -> None:
    line, column, _ = refusal(focus_csv({"ChargeDescription": "two\nlines"}, {"BilledCost": "x"}))
    assert (line, column) == (4, "BilledCost")


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"", 1, "empty"),
        (focus_csv(), 0, "no rows"),
        (focus_csv({}) + b'1.00,"open', 3, "not CSV"),
        (focus_csv({}) + b"\xff\xfe", 3, "not UTF-8"),
        (gzip.compress(focus_csv({}) * 50)[:-20], 0, "stopped early"),
        (b"\x1f\x8bnonsense", 0, "damaged gzip"),
        (gzip.compress(focus_csv({}))[:-8] + b"\x00" * 8, 0, "damaged gzip"),
    ],
)
def test_a_damaged_file_is_refused(data: bytes, line: int, reason: str) -> None:
    error_line, _, why = refusal(data)
    assert error_line == line
    assert reason in why


def test_all_errors_of_a_file_are_reported_up_to_a_hundred() -> None:
    result = read(focus_csv({"BilledCost": "x", "ChargeCategory": "y"}, {}, {"BilledCost": ""}))
    assert [(r.line, r.column) for r in result.refusals] == [
        (2, "BilledCost"),
        (2, "ChargeCategory"),
        (4, "BilledCost"),
    ]
    assert len(read(focus_csv(*[{"BilledCost": "x", "Tags": "y"}] * 150)).refusals) == MAX_ROW_ERRORS
