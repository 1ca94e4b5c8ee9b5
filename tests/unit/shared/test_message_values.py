"""Numbers that no clock, counter or invoice can show are refused where a message is decoded."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from shared.config.values import Money
from shared.messages.budget import BudgetGate
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.gateway import Activity, QuotaReport, WakeRequest
from shared.messages.invoices import PayableNote
from shared.messages.keys import KeyRecord
from shared.messages.values import check_amounts
from shared.messages.waker import MachineRecord, Transition

EXAMPLES = Path(__file__).parents[2] / "contract" / "messages"


@pytest.mark.parametrize(
    ("kind", "example", "field", "value"),
    [
        (Transition, "transition.v1", "at", 1e308),
        (Transition, "transition.v1", "at", -1.0),
        (Transition, "transition.v1", "generation", 2**63),
        (MachineRecord, "machine.v1", "since", 253_402_300_800),
        (MachineRecord, "machine.v1", "generation", -1),
        (WakeRequest, "wake_request.v1", "waiting", -1),
        (WakeRequest, "wake_request.v1", "deadline", 1e300),
        (Activity, "activity.v1", "sent_at", -1e308),
        (QuotaReport, "limits.v1", "number", -(2**63)),
        (KeyRecord, "key.v1", "expires_at", 1e99),
        (KeyRecord, "key.v1.wakes", "wakes_per_hour", -1),
        (KeyRecord, "key.v1.wakes", "wake_cost_per_day", "sNaN"),
        (PayableNote, "payable_note.v1", "amount", "NaN"),
        (BudgetGate, "budget.v1", "spend", "NaN"),
        (BudgetGate, "budget.v1", "limit", "1e999999"),
        (BudgetGate, "budget.v1", "observed_at", 1e18),
    ],
)
def test_an_absurd_number_makes_a_message_unreadable(
    kind: type[object], example: str, field: str, value: object
) -> None:
    message = json.loads((EXAMPLES / f"{example}.json").read_text())
    assert field in message
    with pytest.raises(Unreadable):
        decode(json.dumps({**message, field: value}), kind)


def test_a_gate_keeps_its_amounts_to_the_last_digit() -> None:
    spend, limit = Decimal("-12.000000000001"), Decimal("999999999999999.123456789012")
    gate = BudgetGate(open=True, reason="", spend=spend, limit=limit, observed_at=0.0)
    assert decode(encode(gate), BudgetGate) == gate


@pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity", "-Infinity", "1e15", "1e999999999", "1e-31", "-1e15"])
def test_what_is_no_amount_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match="expected an amount"):
        check_amounts(None, Decimal(text))


@pytest.mark.parametrize("text", ["0", "-0", "0e10", "1e14", "-999999999999999.999999999999", "1e-30"])
def test_an_amount_passes(text: str) -> None:
    check_amounts(Decimal(text))


def test_the_configuration_takes_no_amount_that_no_message_can_carry() -> None:
    assert Money.parse("999999999999999.99") == Decimal("999999999999999.99")
    with pytest.raises(ValueError, match="expected an amount"):
        Money.parse("1e15")
