"""Hyperstack's running bill: the cost of each virtual machine in the current billing cycle.

https://docs.hyperstack.cloud/docs/api-reference: its amounts are binary fractions, rounded here to twelve decimals.
"""

from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from services.billing.core.money import PLACES, to_units
from shared.clouds.hyperstack import HyperstackAccount, HyperstackError

PAGE_SIZE = 100
MAX_PAGES = 50
MOST = Decimal(10) ** 15
_LAST_PLACE = Decimal(1).scaleb(-PLACES)


class _Attributes(msgspec.Struct):
    id: str | None = None
    infrahub_id: int | None = None


class _Metrics(msgspec.Struct):
    incurred_bill: Decimal | None = None


class _Row(msgspec.Struct):
    attributes: _Attributes
    metrics: _Metrics


class _Pagination(msgspec.Struct):
    pages: int | None = None


class _History(msgspec.Struct):
    billing_history: list[_Row] | None = None
    pagination: _Pagination | None = None


class _Bills(msgspec.Struct):
    status: bool
    billing_history_vm: _History | None = None
    message: str | None = None


class HyperstackBill:
    """The bill of all machines that the account's API key can see."""

    provider = "hyperstack"

    def __init__(self, account: HyperstackAccount) -> None:
        self._account = account

    async def close(self) -> None:
        await self._account.close()

    async def cumulative(self) -> dict[str, int]:
        """Return the cost so far in units of money, by the provider's machine id. A machine without a bill is left out.

        Raises:
            HyperstackError: the bill could not be read.
        """
        amounts: dict[tuple[int, str], int] = {}
        for page in range(1, MAX_PAGES + 1):
            history = await self._page(page)
            rows = history.billing_history or []
            for row in rows:
                if row.attributes.infrahub_id is not None and row.metrics.incurred_bill is not None:
                    key = (row.attributes.infrahub_id, row.attributes.id or "")
                    amounts[key] = _units(row.metrics.incurred_bill)
            pages = history.pagination.pages if history.pagination is not None else None
            if not rows or (pages is not None and page >= pages):
                break
        else:
            raise HyperstackError("answer", f"the bill has more than {MAX_PAGES} pages of {PAGE_SIZE} machines")
        cost_by_machine: dict[str, int] = {}
        for (machine, _), amount in amounts.items():
            cost_by_machine[str(machine)] = cost_by_machine.get(str(machine), 0) + amount
        return cost_by_machine

    async def _page(self, page: int) -> _History:
        answer = await self._account.get(
            _Bills, "/billing/billing/history/virtual-machine", page=str(page), per_page=str(PAGE_SIZE)
        )
        if not answer.status or answer.billing_history_vm is None:
            raise HyperstackError("answer", self._account.clean(answer.message or "no bill in the answer"), status=200)
        return answer.billing_history_vm


def _units(amount: Decimal) -> int:
    if not amount.is_finite() or not 0 <= amount < MOST:
        raise HyperstackError("answer", f"{amount} cannot be the cost of a machine", status=200)
    return to_units(amount.quantize(_LAST_PLACE, ROUND_HALF_EVEN))
