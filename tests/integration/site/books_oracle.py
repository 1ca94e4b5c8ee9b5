"""A day's cost and tokens in fractions, from invoice files, the ledger's file and machine moves. Shares no code."""

import csv
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path

BILLABLE = {"serving", "warm_idle", "waking", "failed_wake"}
WEIGHTS = {"input": Fraction(1), "cached": Fraction(1, 10), "output": Fraction(4)}
Row = Mapping[str, str]
Where = tuple[str | None, str]
"""Tier, None for no tier's own, and cause."""


@dataclass(frozen=True)
class Machine:
    """A machine: its tier, the ids of itself and its disk, and its states from moments on, the last one for ever."""

    tier: str
    instance: str
    disk: str
    moves: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Served:
    """A request as the ledger has it."""

    end: Fraction
    start: Fraction
    tier: str
    model: str
    input: int
    cached: int
    output: int
    failed: bool

    @property
    def tokens(self) -> int:
        return self.input + self.cached + self.output


def moment(text: str) -> Fraction:
    """Unix seconds of an RFC 3339 time."""
    return Fraction(int(datetime.fromisoformat(text).astimezone(UTC).timestamp()))


def read_ledger(file: Path) -> list[Served]:
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as ledger:
        rows = ledger.execute(
            "SELECT completed_at, duration, tier, model, prompt_tokens, cached_tokens, completion_tokens,"
            " outcome = 'failed'"
            " FROM events"
        ).fetchall()
    return [
        Served(Fraction(at), Fraction(at) - Fraction(lasted), tier, model, prompt - cached, cached, output, failed)
        for at, lasted, tier, model, prompt, cached, output, failed in rows
    ]


def read_bill(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def rounded(value: Fraction, places: int = 12) -> Decimal:
    with localcontext(prec=100):
        return (Decimal(value.numerator) / value.denominator).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)


class Oracle:
    """All days' figures."""

    def __init__(
        self,
        bills: Sequence[Row],
        ledger: Sequence[Served],
        machines: Sequence[Machine],
        per_usd: Mapping[str, Fraction],
    ) -> None:
        self.bills, self.ledger, self.machines, self.per_usd = bills, ledger, machines, per_usd

    def day(self, day: str) -> "Day":
        return Day(self, day)

    def days(self, last: str, number: int) -> list["Day"]:
        end = date.fromisoformat(last)
        return [self.day((end - timedelta(days=back)).isoformat()) for back in range(number - 1, -1, -1)]


class Day:
    """One UTC day."""

    def __init__(self, oracle: Oracle, day: str) -> None:
        self.oracle, self.name = oracle, day
        self.start = moment(f"{day}T00:00:00Z")
        self.end = self.start + 86400
        self.rows = [r for r in oracle.bills if self.amount(r)]
        self.requests = [use for use in oracle.ledger if self.start <= use.end < self.end]

    def amount(self, row: Row) -> Fraction:
        """USD of a charge that fall on the day, by its time."""
        start, end = moment(row["ChargePeriodStart"]), moment(row["ChargePeriodEnd"])
        part = max(Fraction(0), min(end, self.end) - max(start, self.start))
        return Fraction(row["BilledCost"]) / self.oracle.per_usd[row["BillingCurrency"]] * part / (end - start)

    @property
    def is_billed(self) -> bool:
        return any(row["ChargeCategory"] != "Tax" for row in self.rows)

    @cached_property
    def tokens(self) -> int:
        return sum(use.tokens for use in self.requests if not use.failed)

    @cached_property
    def spend(self) -> Fraction:
        return sum((self.amount(row) for row in self.rows if row["ChargeCategory"] != "Tax"), Fraction(0))

    @cached_property
    def tax(self) -> Fraction:
        return sum((self.amount(row) for row in self.rows if row["ChargeCategory"] == "Tax"), Fraction(0))

    def direction(self, name: str) -> Fraction | None:
        """USD per million tokens of it."""
        counts = {d: sum(getattr(use, d) for use in self.requests if not use.failed) for d in WEIGHTS}
        weight = sum((WEIGHTS[d] * counts[d] for d in WEIGHTS), Fraction(0))
        return self.spend * WEIGHTS[name] * 10**6 / weight if counts[name] else None

    def parts(self, counts: Callable[[Row], bool] = lambda _: True) -> list[tuple[Row, dict[Where, Fraction]]]:
        """Each charge but tax, and where it goes. A credit goes as the machine's other charges do."""
        result: list[tuple[Row, dict[Where, Fraction]]] = []
        by_machine = defaultdict[str, dict[Where, Fraction]](lambda: defaultdict(Fraction))
        for row in sorted(self.rows, key=lambda row: row["ChargeCategory"] == "Credit"):
            if row["ChargeCategory"] == "Tax" or not counts(row):
                continue
            machine = next((m for m in self.oracle.machines if row["ResourceId"] in (m.instance, m.disk)), None)
            if machine is None:
                cause = "unattributed" if row["ServiceCategory"] in {"Compute", "Storage"} else "shared"
                result.append((row, {(None, cause): self.amount(row)}))
                continue
            if row["ChargeCategory"] == "Credit":
                weights = {w: cost for w, cost in by_machine[machine.instance].items() if cost > 0}
            else:
                weights = {(machine.tier, cause): time for cause, time in self._weights(row, machine).items()}
            whole = sum(weights.values(), Fraction(0))
            split = {where: self.amount(row) * weight / whole for where, weight in weights.items()}
            for where, part in split.items():
                by_machine[machine.instance][where] += part
            result.append((row, split))
        return result

    def causes(self) -> dict[str, Fraction]:
        sums: dict[str, Fraction] = defaultdict(Fraction)
        for _, parts in self.parts():
            for (_tier, cause), part in parts.items():
                sums[cause] += part
        return sums

    def tiers(self, *, with_credits: bool = True) -> dict[str, Fraction]:
        """Each with its part of the shared cost, which follows the positive direct cost, else tokens, else is even."""
        direct = {machine.tier: Fraction(0) for machine in self.oracle.machines}
        shared = Fraction(0)
        for _, parts in self.parts(lambda row: with_credits or row["ChargeCategory"] != "Credit"):
            for (tier, cause), part in parts.items():
                if tier is not None:
                    direct[tier] += part
                shared += part if cause == "shared" else 0
        tokens = {t: Fraction(sum(u.tokens for u in self.requests if u.tier == t and not u.failed)) for t in direct}
        weights = {tier: max(Fraction(0), cost) for tier, cost in direct.items()}
        for keys in (weights, tokens, dict.fromkeys(direct, Fraction(1))):
            if whole := sum(keys.values(), Fraction(0)):
                return {tier: cost + shared * keys[tier] / whole for tier, cost in direct.items()}
        raise AssertionError("there is no tier")

    def _weights(self, row: Row, machine: Machine) -> dict[str, Fraction]:
        start = max(self.start, moment(row["ChargePeriodStart"]))
        times = self._times(machine, start, min(self.end, moment(row["ChargePeriodEnd"])))
        if row["ResourceId"] == machine.disk:
            return times
        return {cause: time for cause, time in times.items() if cause in BILLABLE} or {"unexplained": Fraction(1)}

    def _times(self, machine: Machine, start: Fraction, end: Fraction) -> dict[str, Fraction]:
        """Seconds by cause, second by second between any two things that happened."""
        moves = [(moment(at), state) for at, state in machine.moves]
        busy = [(use.start, use.end) for use in self.oracle.ledger if use.tier == machine.tier]
        cuts = {start, end, *(at for at, _ in moves), *(at for span in busy for at in span)}
        times: dict[str, Fraction] = defaultdict(Fraction)
        ordered = sorted(at for at in cuts if start <= at <= end)
        for begin, until in pairwise(ordered):
            place = max(number for number, (at, _) in enumerate(moves) if at <= begin)
            state, following = moves[place][1], (moves[place + 1][1] if place + 1 < len(moves) else "")
            if state == "ready" and any(first <= begin and until <= last for first, last in busy):
                cause = "serving"
            elif state == "waking":
                cause = "waking" if following == "ready" else "failed_wake"
            else:
                cause = "asleep" if state == "asleep" else "warm_idle"
            times[cause] += until - begin
        return times


def band(days: Sequence[Day], tier: str, model: str, steps: Sequence[Fraction]) -> tuple[Fraction, Fraction]:
    """The step in which the dearer of the last 7 and the last 28 billed days lies, before credits.

    All of the tier's tokens are the model's.
    """
    ratios = []
    for length in (7, 28):
        billed = [day for day in days[-length:] if day.is_billed]
        served = {day: sum(u.tokens for u in day.requests if u.model == model and not u.failed) for day in billed}
        cost = sum((day.tiers(with_credits=False)[tier] for day in billed if served[day]), Fraction(0))
        ratios.append(cost * 10**6 / sum(served.values()))
    high = next(step for step in steps if max(ratios) <= step)
    return max((step for step in steps if step < high), default=Fraction(0)), high
