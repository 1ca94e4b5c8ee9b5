"""Each key's wakes: how many there were within the hour, and what they cost today.

Only the waker counts them; gateways read the counts. A wake counts for every key whose requests waited when it began.
Its cost is the price of its machines from the start until their first use, or until they sleep again unused. The keys
share it evenly.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from services.waker.core.machine import Machine, PendingCharge
from shared.messages.gateway import WakeCause
from shared.messages.waker import KeyWakes
from shared.units import DAY_S, HOUR_S

if TYPE_CHECKING:
    from services.waker.core.step import Step

MAX_STARTS = 1000
"""Wakes remembered for one key: the highest limit that a key can have."""
_MICRODOLLAR = Decimal("0.000001")


@lru_cache(maxsize=4)
def _day_of(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_S, UTC).date().isoformat()


@dataclass(frozen=True, kw_only=True)
class KeyAccount:
    """One key's wakes. Times are Unix seconds."""

    starts: tuple[float, ...] = ()
    """When its wakes of the last hour began."""
    day: str = ""
    cost: Decimal = Decimal(0)
    """USD of `day`."""

    def as_of(self, now: float) -> "KeyAccount":
        """Return the account without what is over. A start in the future comes from a waker whose clock was ahead."""
        day = _day_of(int(now // DAY_S))
        starts = self.starts
        if starts and (now - starts[0] >= HOUR_S or starts[-1] > now):
            starts = tuple(min(at, now) for at in starts if now - at < HOUR_S)
        if day == self.day and starts is self.starts:
            return self
        return KeyAccount(starts=starts, day=day, cost=self.cost if self.day == day else Decimal(0))

    def with_wake(self, now: float) -> "KeyAccount":
        account = self.as_of(now)
        return replace(account, starts=(*account.starts, now)[-MAX_STARTS:])

    def with_charge(self, cost: Decimal, now: float) -> "KeyAccount":
        account = self.as_of(now)
        return replace(account, cost=account.cost + cost)

    def allows(self, cause: WakeCause) -> bool:
        """Whether the key may cause another wake."""
        return len(self.starts) < cause.wakes_per_hour and self.cost < cause.cost_per_day

    @property
    def is_empty(self) -> bool:
        return not self.starts and not self.cost

    def message(self, key_id: str, under_way: tuple[str, ...]) -> KeyWakes:
        return KeyWakes(
            key_id=key_id,
            wakes=len(self.starts),
            cost=self.cost,
            day=self.day,
            starts=self.starts,
            under_way=under_way,
        )


def account_of(message: KeyWakes, now: float) -> KeyAccount:
    return KeyAccount(starts=message.starts, day=message.day, cost=message.cost).as_of(now)


def count(step: "Step", keys: Iterable[str]) -> None:
    """Count a wake that begins because of these keys."""
    for key in keys:
        step.keys[key] = step.keys.get(key, KeyAccount()).with_wake(step.now)


def claim(step: "Step", machine: Machine, keys: tuple[str, ...]) -> None:
    """Count a wake for keys whose requests keep the machine from falling asleep: that is as good as one."""
    count(step, keys)
    step.put(replace(machine, charge=PendingCharge(keys, step.now) if keys else None))


def settle(step: "Step") -> None:
    """Charge the wakes of machines that were used or are no longer awake, and forget what is past."""
    for machine in list(step.machines.values()):
        charge = machine.charge
        if charge is None:
            continue
        is_used = machine.last_used_at > charge.since
        if is_used or machine.state not in ("waking", "ready", "draining"):
            _charge(step, machine, charge)
    for key, account in list(step.keys.items()):
        step.keys[key] = account.as_of(step.now)


def _charge(step: "Step", machine: Machine, charge: PendingCharge) -> None:
    price = step.spec.prices.get(machine.spec.tier)
    if price is not None:
        seconds = Decimal(str(round(max(0.0, step.now - charge.since), 3)))
        share = (price * seconds / Decimal(HOUR_S) / len(charge.keys)).quantize(_MICRODOLLAR)
        for key in charge.keys:
            step.keys[key] = step.keys.get(key, KeyAccount()).with_charge(share, step.now)
    step.put(replace(machine, charge=None))
