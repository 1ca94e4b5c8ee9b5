"""`spotinference budget` on a real bus, with a billing that the test plays."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from shared.bus.jetstream import JetStreamBus
from shared.bus.subjects import BILLING_GATE
from shared.messages.budget import BudgetGate, GateOrder, Gates, GatesQuery
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import ErrorReply
from tests.integration.suite.conftest import Shell

AT = 1_800_000_000.0


class FakeBilling:
    def __init__(self) -> None:
        self.orders: list[GateOrder] = []
        self.refusal = ""
        self.gates = {
            "fleet": BudgetGate(
                open=True, reason="", spend=Decimal(9), limit=Decimal(10), observed_at=AT, warning=True
            ),
            "tier.a b": BudgetGate(
                open=False,
                reason="closed_by_operator",
                spend=Decimal("0.5"),
                limit=Decimal(5),
                observed_at=AT,
                observed=False,
                ordered="close",
                ordered_day="2027-01-15",
                ordered_by="ann@host",
                ordered_why="a runaway job",
            ),
        }

    async def answer(self, data: bytes) -> bytes:
        try:
            decode(data, GatesQuery)
        except Unreadable:
            self.orders.append(decode(data, GateOrder))
        return encode(ErrorReply(reason=self.refusal) if self.refusal else Gates(gates=self.gates))


@pytest.fixture
async def billing(bus: JetStreamBus) -> AsyncIterator[FakeBilling]:
    fake = FakeBilling()
    handle = await bus.respond("billing", BILLING_GATE, fake.answer)
    yield fake
    await handle.stop()


async def test_budget_shows_every_gate(shell: Shell, billing: FakeBilling) -> None:
    reply = json.loads((await shell("budget", "--json")).stdout)
    assert reply["gates"][0] == {
        "scope": "fleet",
        "open": True,
        "reason": "",
        "spend": "9",
        "limit": "10",
        "warning": True,
        "observed_at": "2027-01-15T08:00:00.000Z",
        "ordered": "auto",
        "ordered_day": "",
        "ordered_by": "",
        "ordered_why": "",
    }
    assert reply["gates"][1]["spend"] is None, "what is not known is not 0"
    assert reply["gates"][1]["ordered_why"] == "a runaway job"
    table = (await shell("budget")).stdout
    for word in ("fleet", "warning", "9 of 10", "tier.a b", "closed:", "unknown", "ann@host"):
        assert word in table
    assert not billing.orders


@pytest.mark.parametrize("word", ["open", "close", "auto"])
async def test_override_records_the_gate_the_operator_and_the_reason(
    shell: Shell, billing: FakeBilling, word: str
) -> None:
    result = await shell("budget", word, "--tier", "a b", "--reason", "a demo", "--json")
    assert result.exit_code == 0, result.output
    (order,) = billing.orders
    assert (order.scope, order.order, order.reason) == ("tier.a b", word, "a demo")
    assert "@" in order.by
    assert [gate["scope"] for gate in json.loads(result.stdout)["gates"]] == ["tier.a b"]
    assert (await shell("budget", word, "--reason", "all")).exit_code == 0
    assert billing.orders[1].scope == "fleet"


async def test_a_refusal_is_status_1_and_no_reason_is_wrong_usage(shell: Shell, billing: FakeBilling) -> None:
    billing.refusal = "scope: 'tier.x' has no daily_budget"
    result = await shell("budget", "close", "--tier", "x", "--reason", "r")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no daily_budget" in result.stderr
    assert (await shell("budget", "close")).exit_code == 2


async def test_budget_explains_when_none_is_configured(shell: Shell, billing: FakeBilling) -> None:
    billing.gates = {}
    assert "daily_budget" in (await shell("budget")).stdout
    assert json.loads((await shell("budget", "--json")).stdout) == {"gates": []}
