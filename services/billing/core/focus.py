"""Reads a FOCUS 1.0 to 1.2 file: CSV or gzipped CSV, by column name, text in and exact numbers out.

Every fault of a file is gathered (the first hundred): a file is read whole or not at all.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from services.billing.core import days
from services.billing.core.money import PLACES
from shared.messages.invoices import Refusal

MAX_REFUSALS = 100
MAX_BYTES = 512 * 1024 * 1024
"""Unpacked: what one host can hold in memory; a month of a large account is a tenth of it."""
MAX_CHARGE_PERIOD = 3700 * days.DAY
"""Ten years: no provider sells longer, and each day of a row is one part of it."""
MAX_INTEGER_DIGITS = 15
MAX_QUANTITY_PLACES = 30
CATEGORIES = ("Usage", "Purchase", "Tax", "Credit", "Adjustment")

_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class CostRow:
    """One charge, or the sum of several alike. Costs in `currency`; times in milliseconds, the end exclusive."""

    charge_start: int
    charge_end: int
    billed: Decimal
    category: str
    service_category: str | None = None
    effective: Decimal | None = None
    list_cost: Decimal | None = None
    charge_class: str | None = None
    resource_id: str | None = None
    tags: str | None = None
    """JSON text of one flat object."""
    invoice_id: str | None = None
    consumed_quantity: Decimal | None = None
    consumed_unit: str | None = None
    currency: str = "USD"
    per_usd: str = "1"
    """How much of `currency` is one USD."""
    parent_id: str | None = None
    """The resource that this one belongs to, as a disk to its machine."""
    service_name: str | None = None
    rows: int = 1
    """How many delivered charges it is the sum of."""


@dataclass(frozen=True, order=True)
class SnapshotKey:
    """What one import replaces as a whole."""

    issuer: str
    account: str
    period_start: int
    period_end: int


@dataclass(frozen=True)
class FocusFile:
    """What was read; with any refusal there are no snapshots."""

    snapshots: Mapping[SnapshotKey, tuple[CostRow, ...]]
    refusals: tuple[Refusal, ...]


def read(data: bytes, file: str) -> FocusFile:
    """All snapshots of the file, or why not. `file` is its name, for the refusals."""
    faults = _Faults(file)
    snapshots: dict[SnapshotKey, list[CostRow]] = {}
    text = _text(data, faults)
    if text is not None:
        for key, row in _rows(text, faults):
            snapshots.setdefault(key, []).append(row)
        if not snapshots and not faults.found:
            faults.add(0, "", "no rows: an export without charges says nothing; leave it out")
    if faults.found:
        return FocusFile({}, tuple(faults.found))
    return FocusFile({key: tuple(rows) for key, rows in sorted(snapshots.items())}, ())


@dataclass
class _Faults:
    file: str
    found: list[Refusal] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.found) >= MAX_REFUSALS

    def add(self, line: int, column: str, reason: str) -> None:
        if not self.full:
            self.found.append(Refusal(file=self.file, line=line, column=column, reason=reason))


def _text(data: bytes, faults: _Faults) -> str | None:
    try:
        if data.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            faults.add(0, "", f"larger than {MAX_BYTES} bytes unpacked: export it in parts, one billing period each")
            return None
        return data.decode("utf-8-sig")
    except (EOFError, OSError, zlib.error) as error:
        faults.add(0, "", f"damaged gzip ({error}): fetch the file again")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.add(line, "", f"not UTF-8 at byte {error.start}: export it as UTF-8 CSV")
    return None


def _rows(text: str, faults: _Faults) -> Iterator[tuple[SnapshotKey, CostRow]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: _Columns | None = None
    line = 1
    try:
        for cells in reader:
            if cells and columns is None:
                columns = _header(cells, line, faults)
                if columns is None:
                    return
            elif cells and columns is not None and (parsed := _row(cells, columns, line, faults)):
                yield parsed
            if faults.full:
                return
            line = reader.line_num + 1
    except csv.Error as error:
        faults.add(line, "", f"not CSV ({error}): fetch the file again")
        return
    if columns is None:
        faults.add(1, "", "empty: expected FOCUS's column names in the first line")


@dataclass(frozen=True)
class _Columns:
    places: Mapping[str, int]
    width: int


def _header(names: list[str], line: int, faults: _Faults) -> _Columns | None:
    stripped = [name.strip() for name in names]
    places = {name: number for number, name in enumerate(stripped)}
    for name in (*_CELLS, *_ISSUERS):
        if stripped.count(name) > 1:
            faults.add(line, name, "this column is there twice: keep one")
    for name, cell in _CELLS.items():
        if cell.mandatory and name not in places:
            faults.add(line, name, "this column is missing: FOCUS wants it; export the file with it")
    if not any(name in places for name in _ISSUERS):
        faults.add(line, _ISSUERS[0], "this column is missing: FOCUS wants it; export the file with it")
    return None if faults.found else _Columns(places, len(names))


def _row(cells: list[str], columns: _Columns, line: int, faults: _Faults) -> tuple[SnapshotKey, CostRow] | None:
    if len(cells) != columns.width:
        faults.add(line, "", f"{len(cells)} fields where the header has {columns.width}: fetch the file again")
        return None
    before = len(faults.found)
    values: dict[str, Any] = {}
    for name, cell in _CELLS.items():
        if name in columns.places:
            try:
                values[cell.field] = _value(cell, cells[columns.places[name]])
            except ValueError as error:
                faults.add(line, name, str(error))
    named = (_known(cells[columns.places[name]]) for name in _ISSUERS if name in columns.places)
    issuer = next(filter(None, named), None)
    if issuer is None:
        faults.add(line, _ISSUERS[0], "empty: every charge has an issuer; export the file with it")
    if len(faults.found) == before:
        _check_periods(values, line, faults)
    if len(faults.found) > before or issuer is None:
        return None
    key = SnapshotKey(issuer, values.pop("account"), values.pop("period_start"), values.pop("period_end"))
    return key, CostRow(**values)


def _check_periods(values: Mapping[str, Any], line: int, faults: _Faults) -> None:
    if values["charge_end"] < values["charge_start"]:
        faults.add(line, "ChargePeriodEnd", "before ChargePeriodStart: the row needs a charge period")
    elif values["charge_end"] - values["charge_start"] > MAX_CHARGE_PERIOD:
        faults.add(line, "ChargePeriodEnd", "more than ten years after ChargePeriodStart: correct the date")
    if values["period_end"] <= values["period_start"]:
        faults.add(line, "BillingPeriodEnd", "not after BillingPeriodStart: the row needs a billing period")


def _known(raw: str) -> str | None:
    """The text, or None for what FOCUS files write where there is nothing."""
    text = raw.strip()
    return None if text in ("", "NULL") else text


def _value(cell: "_Cell", raw: str) -> Any:
    text = _known(raw)
    if text is None:
        if not cell.nullable:
            raise ValueError("empty: every charge has this; export the file with it")
        return None
    if "\x00" in text:
        raise ValueError("holds a NUL character: fetch the file again")
    return cell.parse(text)


def _text_cell(text: str) -> str:
    return text


def _number(text: str, places: int) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f'expected a number such as "12.5" or "35.2E-7", without signs of thousands, got {text!r}')
    number = Decimal(text)
    if number and number.adjusted() >= MAX_INTEGER_DIGITS:
        raise ValueError(f"{text} has more than {MAX_INTEGER_DIGITS} digits before the point: correct it")
    _, digits, exponent = number.as_tuple()
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    if number and isinstance(exponent, int) and -exponent - zeros > places:
        raise ValueError(f"{text} has more than {places} decimals: it cannot be kept exactly; have it rounded")
    return number or Decimal(0)


def _cost(text: str) -> Decimal:
    return _number(text, PLACES)


def _quantity(text: str) -> Decimal:
    return _number(text, MAX_QUANTITY_PLACES)


def _category(text: str) -> str:
    if text not in CATEGORIES:
        raise ValueError(f"expected one of {', '.join(CATEGORIES)}, got {text!r}")
    return text


def _currency(text: str) -> str:
    if text != "USD":
        raise ValueError(f"currency {text!r}: only USD can be booked; export the file in USD")
    return text


def _tags(text: str) -> str:
    try:
        msgspec.json.decode(text, type=dict[str, str | float | bool | None])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"expected one flat JSON object: {error}") from error
    return text


@dataclass(frozen=True)
class _Cell:
    field: str
    parse: Callable[[str], Any]
    mandatory: bool = False
    """The column has to be there."""
    nullable: bool = True


_ISSUERS = ("InvoiceIssuerName", "ProviderName", "ServiceProviderName")
"""AWS leaves the first one empty at times, against the standard: the provider then issues its own invoices."""
_CELLS: Mapping[str, _Cell] = {
    "BilledCost": _Cell("billed", _cost, mandatory=True, nullable=False),
    "BillingAccountId": _Cell("account", _text_cell, mandatory=True, nullable=False),
    "BillingCurrency": _Cell("currency", _currency, mandatory=True, nullable=False),
    "BillingPeriodStart": _Cell("period_start", days.moment, mandatory=True, nullable=False),
    "BillingPeriodEnd": _Cell("period_end", days.moment, mandatory=True, nullable=False),
    "ChargePeriodStart": _Cell("charge_start", days.moment, mandatory=True, nullable=False),
    "ChargePeriodEnd": _Cell("charge_end", days.moment, mandatory=True, nullable=False),
    "ChargeCategory": _Cell("category", _category, mandatory=True, nullable=False),
    "ServiceCategory": _Cell("service_category", _text_cell, mandatory=True),
    "ChargeClass": _Cell("charge_class", _text_cell),
    "EffectiveCost": _Cell("effective", _cost),
    "ListCost": _Cell("list_cost", _cost),
    "ResourceId": _Cell("resource_id", _text_cell),
    "ServiceName": _Cell("service_name", _text_cell),
    "Tags": _Cell("tags", _tags),
    "InvoiceId": _Cell("invoice_id", _text_cell),
    "ConsumedQuantity": _Cell("consumed_quantity", _quantity),
    "ConsumedUnit": _Cell("consumed_unit", _text_cell),
}
