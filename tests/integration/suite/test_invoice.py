"""`spotinference invoice` against a billing service on a real bus."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import Result

from shared.bus.jetstream import JetStreamBus
from tests.integration.billing.billing_service import Billing, billing, configured
from tests.integration.suite.conftest import Shell
from tests.unit.billing.cost_row_builders import focus_csv

MAY = {"InvoiceId": "MAY-1", "BilledCost": "100.00"}


@pytest.fixture
async def books(tmp_path: Path, bus: JetStreamBus) -> AsyncIterator[Billing]:
    home = tmp_path / "billing"
    home.mkdir()
    async with billing(home, configured(), bus) as (service, _):
        yield service


def assert_failed(result: Result, *messages: str) -> None:
    assert result.exit_code == 1, result.output
    assert [part for part in messages if part not in result.stderr] == [], result.stderr


async def test_from_file_to_tie(books: Billing, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "may.csv"
    file.write_bytes(focus_csv(MAY, {**MAY, "InvoiceId": "MAY-2", "BilledCost": "7.005"}))
    result = await shell("invoice", "import", str(file), "--source", "cloud")
    assert result.exit_code == 0, result.output
    assert "2026-05-01 to 2026-06-01  Cloud Inc.  account acc-1  2 rows  107.005 USD" in result.stdout
    assert (await books.report()).spend == Decimal("107.005")

    result = await shell("invoice", "check")
    assert (result.exit_code, result.stdout.count("open:")) == (0, 2)
    result = await shell("invoice", "payable", "MAY-1", "100.00", "--source", "cloud")
    assert result.exit_code == 0, result.output
    assert "ties" in result.stdout
    assert (await shell("invoice", "payable", "MAY-2", "8", "--source", "cloud")).exit_code == 0
    assert_failed(await shell("invoice", "check"), "invoice MAY-2", "the charges are 7.005 USD, the amount to pay is 8")
    assert (await shell("invoice", "payable", "MAY-2", "7.01", "--source", "cloud")).exit_code == 0

    result = await shell("invoice", "check", "--json")
    reply = json.loads(result.stdout)
    assert (result.exit_code, reply["ties"]) == (0, True)
    assert {one["invoice_id"]: (one["state"], one["rounding"]) for one in reply["invoices"]} == {
        "MAY-1": ("ties", "0"),
        "MAY-2": ("ties", "0.005"),
    }


async def test_a_voided_invoice_counts_no_more(books: Billing, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "may.csv"
    file.write_bytes(focus_csv({"InvoiceId": "A", "BilledCost": "500.00"}, {"InvoiceId": "B", "BilledCost": "480.00"}))
    await shell("invoice", "import", str(file), "--source", "cloud")
    result = await shell("invoice", "payable", "B", "480.00", "--source", "cloud", "--voids", "A")
    assert "voided" in result.stdout
    assert (await shell("invoice", "check")).exit_code == 0
    assert (await books.report()).spend == 480


async def test_a_credit_is_payable_too(books: Billing, shell: Shell, tmp_path: Path) -> None:
    del books  # it only has to run
    file = tmp_path / "june.csv"
    file.write_bytes(focus_csv({"InvoiceId": "C", "BilledCost": "-10.00", "ChargeCategory": "Credit"}))
    await shell("invoice", "import", str(file), "--source", "cloud")
    result = await shell("invoice", "payable", "C", "-10.00", "--source", "cloud")
    assert result.exit_code == 0, result.output
    assert "ties" in result.stdout
    assert (await shell("invoice", "payable", "C", "-10.00", "--sauce", "cloud")).exit_code == 2


async def test_charges_without_a_number_are_payable_by_month(books: Billing, shell: Shell, tmp_path: Path) -> None:
    del books  # it only has to run
    file = tmp_path / "may.csv"
    file.write_bytes(focus_csv({"BilledCost": "10.00"}, {"BilledCost": "4.00", "BillingAccountId": "acc-2"}))
    await shell("invoice", "import", str(file), "--source", "cloud")
    for words in (("10.00",), ("MAY-1", "10.00", "--period", "2026-05")):
        assert (await shell("invoice", "payable", *words, "--source", "cloud")).exit_code == 2
    month = ("--source", "cloud", "--period", "2026-05", "--issuer", "Cloud Inc.")
    assert_failed(await shell("invoice", "payable", "10.00", *month), "account: acc-1 and acc-2 have charges")
    for account, amount in (("acc-1", "10.00"), ("acc-2", "-4.00")):
        result = await shell("invoice", "payable", *month, "--account", account, amount)
        assert result.exit_code == 0, result.output
    assert_failed(
        await shell("invoice", "check"),
        "Cloud Inc., charges without an invoice number, account acc-2: the charges are 4",
    )


async def test_a_list_has_what_counts_and_what_was_replaced(books: Billing, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "may.csv"
    for amount in ("1.00", "2.00"):
        file.write_bytes(focus_csv({"BilledCost": amount}))
        await shell("invoice", "import", str(file), "--source", "cloud")
    reply = json.loads((await shell("invoice", "list", "--json")).stdout)["imported"]
    assert [(one["billed"], one["active"], one["files"][0]["name"]) for one in reply] == [
        ("2", True, "may.csv"),
        ("1", False, "may.csv"),
    ]
    assert "replaced" in (await shell("invoice", "list")).stdout
    file.write_bytes(focus_csv({"BilledCost": "0.50"}))
    result = await shell("invoice", "import", str(file), "--source", "cloud")
    assert (result.exit_code, result.stderr.count("warning: Cloud Inc., account acc-1, 2026-05: 0.5")) == (0, 1)
    assert "WARNING" in (await shell("invoice", "list")).stdout


async def test_a_folder_is_one_delivery_and_a_fault_in_it_keeps_all_out(
    books: Billing, shell: Shell, tmp_path: Path
) -> None:
    folder = tmp_path / "bills"
    folder.mkdir()
    (folder / "a.csv").write_bytes(focus_csv({"BilledCost": "1.00"}))
    (folder / "b.csv").write_bytes(focus_csv({"BilledCost": "2.00"}, {"BilledCost": "two"}))
    result = await shell("invoice", "import", str(folder), "--source", "cloud")
    assert_failed(result, "b.csv:3: BilledCost: expected a number", "nothing was imported and no figure has changed")
    assert result.stdout == ""
    (folder / "b.csv").write_bytes(b"date,resource,cost,currency\n2026-05-03,i-a,2.00,USD\n")
    result = await shell("invoice", "import", str(folder), "--source", "cloud")
    assert result.exit_code == 0, result.output
    assert (await books.report()).spend == 3


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("import", "nowhere.csv", "--source", "x"), "nowhere.csv: unreadable"),
        (("import", "s3:///key", "--source", "x"), "s3:///key: expected s3://bucket/prefix"),
        (("payable", "MAY-9", "1", "--source", "x"), "invoice_id: no charge from x names invoice 'MAY-9'"),
    ],
)
async def test_invalid_invoice_command_is_rejected(
    books: Billing, shell: Shell, words: tuple[str, ...], shown: str
) -> None:
    assert_failed(await shell("invoice", *words), shown)


@pytest.mark.parametrize("amount", ["1,000.00", "12,50", "NaN", "ten"])
async def test_amount_that_is_no_number_is_wrong_usage(shell: Shell, amount: str) -> None:
    result = await shell("invoice", "payable", "MAY-1", amount, "--source", "x")
    assert result.exit_code == 2
    assert "AMOUNT: " in result.output
