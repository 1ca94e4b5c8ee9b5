"""A day's figures from the facts alone, in fractions, by the rules that the books promise."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

from tests.books_proof.amounts import Amount, by_cost, spread, total
from tests.books_proof.attribution import Owner, active, owner
from tests.books_proof.facts import DAY, HOUR, Charge, Machine, Use, World
from tests.books_proof.machine_time import UNKNOWN, Doing, MachineTime, Times, running
from tests.books_proof.settlement import bill_of, concerned, is_settled, standings

OF_A_MACHINE = ("Compute", "AI and Machine Learning", None)
"""What a machine's own use is called."""
WEIGHTS = {"input": Fraction(1), "cached": Fraction(1, 10), "output": Fraction(4)}
UNEXPLAINED = Doing("unexplained")
Served = tuple[str, str, str]
"""Tier, model and key."""


@dataclass(frozen=True)
class Part:
    """Some of a day's cost: whose it is, and what for."""

    tier: str | None
    doing: Doing
    amount: Amount


@dataclass
class Tokens:
    """Tokens by direction."""

    input: int = 0
    cached: int = 0
    output: int = 0

    def add(self, use: Use) -> None:
        """Count a request."""
        self.input += use.prompt - use.cached
        self.cached += use.cached
        self.output += use.completion

    @property
    def total(self) -> int:
        """Prompt and completion."""
        return self.input + self.cached + self.output

    @property
    def weight(self) -> Fraction:
        """What they bear of the cost, in proportion."""
        return sum((WEIGHTS[name] * getattr(self, name) for name in WEIGHTS), Fraction(0))


@dataclass
class Allocation:
    """A day's cost, each part with its tier and cause; `tiers` with their part of what is shared."""

    parts: list[Part] = field(default_factory=list)
    shared: Amount = field(default_factory=Amount)
    shared_by: str | None = None
    tiers: dict[str, Amount] = field(default_factory=dict)

    @property
    def unattributed(self) -> Amount:
        """Nobody's."""
        return total(part.amount for part in self.parts if part.doing.cause == "unattributed")

    @property
    def spend(self) -> Amount:
        """All of it."""
        return total(part.amount for part in self.parts) + self.shared

    def cause(self, name: str) -> Amount:
        """What went for it."""
        if name == "shared":
            return self.shared
        return total(part.amount for part in self.parts if part.doing.cause == name)


class Books:
    """What a world's bills, journal and usage come to."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.charges = active(world)
        self.owners: dict[int, Owner] = {id(charge): owner(charge, world) for charge in self.charges}
        self.time = {
            machine.id: MachineTime(
                (move for move in world.moves if move.machine == machine.id),
                (use for use in world.uses if use.machine == machine.id),
                world.now,
            )
            for machine in world.machines
        }
        self.bills = standings(world, self.charges)
        self.prices = {tier.name: tier.price for tier in world.tiers}

    def usd(self, charge: Charge, amount: Fraction) -> Amount:
        """By the rate in force when the charge began."""
        if charge.currency == "USD":
            return Amount(amount)
        rates = [r for r in self.world.rates if r.currency == charge.currency and r.start <= charge.start]
        return Amount(amount).part(1, max(rates, key=lambda rate: rate.start).per_usd)

    def day(self, start: int) -> "DayFigures":
        """The UTC day that begins at `start`."""
        return DayFigures(self, start)


class DayFigures:
    """One day's figures."""

    def __init__(self, books: Books, start: int) -> None:
        self.books, self.start, self.end = books, start, start + DAY
        self.rows = [row for row in books.charges if row.start < self.end and row.end > start]
        self.uses = [use for use in books.world.uses if start <= use.end < self.end]
        self.served: dict[Served, Tokens] = defaultdict(Tokens)
        for use in self.uses:
            if not use.failed:
                self.served[use.tier, use.model, use.key].add(use)

    @cached_property
    def all_of_it(self) -> Allocation:
        """With credits: the headline."""
        return self._allocate(lambda _: True)

    @cached_property
    def before_credits(self) -> Allocation:
        """Without them."""
        return self._allocate(lambda row: row.category != "Credit")

    @cached_property
    def tax(self) -> Amount:
        """Recoverable, beside the spend."""
        return total(self.amount(row, row.billed) for row in self.rows if row.category == "Tax")

    @cached_property
    def effective(self) -> Amount | None:
        """By EffectiveCost; None where no charge tells it. A charge that does not tell it counts as billed."""
        rows = [row for row in self.rows if row.category != "Tax"]
        if all(row.effective is None for row in rows):
            return None
        effective = (row.billed if row.effective is None else row.effective for row in rows)
        return total(self.amount(row, amount) for row, amount in zip(rows, effective, strict=True)) + self.accrued

    @cached_property
    def missing(self) -> dict[str, int | None]:
        """Machines of which neither a charge nor a price tells the cost; with the first such hour, None for all day.

        Up to five minutes of an hour are not missed where other hours of the day have charges; else, neither is a start
        that failed within a minute.
        """
        result: dict[str, int | None] = {}
        for machine in self.books.world.machines:
            if self.books.prices[machine.tier] is not None or self._is_whole(machine):
                continue
            is_billed = any(self._billed_in(machine, hour) for hour in range(self.start, self.end, HOUR))
            for hour in range(self.start, self.end, HOUR):
                ran = running(self.books.time[machine.id].times(hour, hour + HOUR))
                seconds = sum(ran.values(), Fraction(0))
                served = any(doing.cause in {"serving", "warm_idle"} for doing in ran)
                matters = seconds > 300 if is_billed else served or seconds > 60
                if matters and machine.id not in result and not self._billed_in(machine, hour):
                    result[machine.id] = hour if is_billed else None
        return result

    @cached_property
    def unbilled(self) -> set[str]:
        """Machines whose charges are still to come, be their cost unknown or estimated."""
        return {*self.missing, *(machine.id for machine, part in self._accruals() if part.amount)}

    def _is_whole(self, machine: Machine) -> bool:
        """Whether a settled bill has the machine: none of its charges is still to come."""
        return self.is_settled and machine.id in self._on_bill

    @cached_property
    def _on_bill(self) -> set[str]:
        """The machines that the day's bills have charges for."""
        bills = concerned(self.books.bills, self.rows, self.start, self.end)
        rows = (row for row in self.books.charges if bill_of(row) in bills and row.category != "Tax")
        owners = (self.books.owners[id(row)].machine for row in rows)
        return {machine.id for machine in owners if machine is not None}

    @cached_property
    def is_settled(self) -> bool:
        """Whether no charge is still to come."""
        return is_settled(self.books.world, self.books.bills, self.rows, self.start, self.end)

    @cached_property
    def state(self) -> str:
        """An accrual, or a bill that is missing, makes it an estimate. The generator's usage is complete."""
        if self.missing or self.accrued:
            return "estimated"
        return "final" if self.is_settled else "provisional"

    @cached_property
    def billed_share(self) -> Amount:
        """How much of the spend no estimate is in, by amounts without their signs."""
        spend, accrued = self.all_of_it.spend, self.accrued
        billed, rest = abs(spend.value - accrued.value), abs(accrued.value)
        if not billed + rest:
            return Amount(Fraction(1))
        return Amount(billed / (billed + rest), 1 + 2 * (spend.slack + accrued.slack) / (billed + rest))

    @cached_property
    def always_on(self) -> Fraction | None:
        """The machines' prices for all of the day; None where one has none."""
        prices = [self.books.prices[machine.tier] for machine in self.books.world.machines]
        hours = Fraction(min(self.end, self.books.world.now) - self.start, HOUR)
        return None if None in prices else sum((price * hours for price in prices if price), Fraction(0))

    @cached_property
    def tokens(self) -> int:
        """Prompt and completion of all that was served."""
        return sum(tokens.total for tokens in self.served.values())

    @cached_property
    def tokens_failed(self) -> int:
        """Of failed requests."""
        return sum(use.prompt + use.completion for use in self.uses if use.failed)

    @cached_property
    def directions(self) -> Tokens:
        """Tokens by direction."""
        result = Tokens()
        for use in self.uses:
            if not use.failed:
                result.add(use)
        return result

    def tier_tokens(self, tier: str) -> int:
        """What it served."""
        return sum(tokens.total for (name, _, _), tokens in self.served.items() if name == tier)

    def by(self, place: int, allocation: Allocation) -> dict[str | None, tuple[Amount, int]]:
        """The tiers' cost by model (1) or key (2), by weighted tokens; None: of a tier without any."""
        amounts: dict[str | None, Amount] = defaultdict(Amount)
        tokens: dict[str | None, int] = defaultdict(int)
        for tier, amount in allocation.tiers.items():
            served = {who: count for who, count in self.served.items() if who[0] == tier}
            for who, count in served.items():
                tokens[who[place]] += count.total
            if not any(count.weight for count in served.values()):
                amounts[None] += amount
                continue
            for who, part in spread(amount, {who: count.weight for who, count in served.items()}).items():
                amounts[who[place]] += part
        return {name: (amounts[name], tokens[name]) for name in {*amounts, *tokens}}

    def wakes(self) -> dict[str | None, Amount]:
        """What each key's wakes cost, failed ones included; None: nobody's."""
        result: dict[str | None, Amount] = defaultdict(Amount)
        for part in self.all_of_it.parts:
            if part.doing.cause in {"waking", "failed_wake"}:
                result[part.doing.key] += part.amount
        return dict(result)

    @cached_property
    def accrued(self) -> Amount:
        """What no charge covers yet."""
        return total(part.amount for _, part in self._accruals())

    @cached_property
    def variance(self) -> tuple[Amount, Amount] | None:
        """What would have been accrued for the machine hours that are billed, and what was billed for them."""
        accrued, billed, result = Amount(), Amount(), False
        for machine in self.books.world.machines:
            price, usage = self.books.prices[machine.tier], self.usage(machine)
            if price is None or not usage:
                continue
            hours = [hour for hour in range(self.start, self.end, HOUR) if self._billed_in(machine, hour)]
            time = self.books.time[machine.id]
            if not any(doing.cause != UNKNOWN for hour in hours for doing in time.times(hour, hour + HOUR)):
                continue
            seconds = sum((time.billable(hour, hour + HOUR) for hour in hours), Fraction(0))
            result, accrued = True, accrued + Amount(price).part(seconds, HOUR)
            billed += total(self.amount(row, row.billed) for row in usage)
        return (accrued, billed) if result else None

    def usage(self, machine: Machine) -> list[Charge]:
        """Charges for its running."""
        return [
            row
            for row in self.rows
            if row.category == "Usage" and row.service in OF_A_MACHINE and self.books.owners[id(row)].machine is machine
        ]

    def amount(self, row: Charge, amount: Fraction) -> Amount:
        """The day's part of it, by overlapping seconds."""
        seconds = min(row.end, self.end) - max(row.start, self.start)
        return self.books.usd(row, amount).part(seconds, row.end - row.start)

    def _allocate(self, counts: Callable[[Charge], bool]) -> Allocation:
        result = Allocation()
        adjustments: list[tuple[Machine, Charge]] = []
        owned: dict[str, list[Part]] = defaultdict(list)
        for row in self.rows:
            if row.category == "Tax" or not counts(row):
                continue
            whose, amount = self.books.owners[id(row)], self.amount(row, row.billed)
            if whose.machine is not None and row.category != "Usage":
                adjustments.append((whose.machine, row))
            elif whose.machine is not None:
                parts = spread(amount, self.weights(row, whose.machine)).items()
                owned[whose.machine.id] += [Part(whose.tier, doing, part) for doing, part in parts]
            elif whose.tier is not None:
                result.parts.append(Part(whose.tier, UNEXPLAINED, amount))
            elif whose.shared:
                result.shared += amount
            else:
                result.parts.append(Part(None, Doing("unattributed"), amount))
        for machine, part in self._accruals():
            owned[machine.id].append(part)
        result.parts += [part for parts in owned.values() for part in parts]
        for machine, row in adjustments:
            result.parts += self._adjusted(machine, row, owned)
        self._share(result)
        return result

    def _adjusted(self, machine: Machine, row: Charge, owned: Mapping[str, Sequence[Part]]) -> list[Part]:
        """A credit or refund goes as the machine's other costs of the day do, else as its tier's, else by its time."""
        amount = self.amount(row, row.billed)
        tiers_own = [part for parts in owned.values() for part in parts if part.tier == machine.tier]
        for parts in (owned.get(machine.id, ()), tiers_own):
            costs: dict[Doing, Amount] = defaultdict(Amount)
            for part in parts:
                costs[part.doing] += part.amount
            positive = {doing: cost for doing, cost in costs.items() if cost.value > 0}
            if positive:
                return [Part(machine.tier, doing, part) for doing, part in by_cost(amount, positive).items()]
        weights = self._by_time(self.books.time[machine.id].times(self.start, self.end))
        return [Part(machine.tier, doing, part) for doing, part in spread(amount, weights).items()]

    def weights(self, row: Charge, machine: Machine) -> Times:
        """What the machine did in the charge's time on this day, in proportion."""
        start, end = max(row.start, self.start), min(row.end, self.end)
        times = self.books.time[machine.id].times(start, end)
        if row.service == "Storage":
            return _or_unexplained(times)
        if row.service not in OF_A_MACHINE:
            return self._by_time(times)
        ran = running(times)
        known = sum(ran.values(), Fraction(0))
        if not known:
            return {UNEXPLAINED: Fraction(1)}
        if row.hours is None:
            return self._by_time(times)
        billed = row.hours * HOUR * (end - start) / (row.end - row.start)
        surplus = max(billed - known, Fraction(0))
        return {doing: seconds * (billed - surplus) / known for doing, seconds in ran.items()} | {UNEXPLAINED: surplus}

    def _by_time(self, times: Times) -> Times:
        """In proportion to the time awake, else asleep; the part of the time that is silent is unexplained."""
        ran = running(times)
        known, whole = sum(ran.values(), Fraction(0)), sum(times.values(), Fraction(0))
        if not known:
            return _or_unexplained(times)
        silent = times.get(Doing(UNKNOWN), Fraction(0))
        return {doing: seconds * (whole - silent) / known for doing, seconds in ran.items()} | {UNEXPLAINED: silent}

    def _accruals(self) -> list[tuple[Machine, Part]]:
        """Hours without a charge for the machine's use cost the tier's price for its billable time.

        Nothing, where the day is settled and has other charges of the machine: no charge is still to come.
        """
        return [
            (machine, Part(machine.tier, doing, Amount(price).part(seconds, HOUR)))
            for machine, hour, times, price in self._priced_hours()
            if not self._billed_in(machine, hour) and not self._is_whole(machine)
            for doing, seconds in running(times).items()
        ]

    def _priced_hours(self) -> Iterable[tuple[Machine, int, Times, Fraction]]:
        for machine in self.books.world.machines:
            price = self.books.prices[machine.tier]
            if price is None:
                continue
            for hour in range(self.start, self.end, HOUR):
                yield machine, hour, self.books.time[machine.id].times(hour, hour + HOUR), price

    def _billed_in(self, machine: Machine, hour: int) -> bool:
        return any(row.start < hour + HOUR and row.end > hour for row in self.usage(machine))

    def _share(self, result: Allocation) -> None:
        """Shared cost over the tiers: by their own cost, else by tokens, else evenly."""
        direct: dict[str, Amount] = defaultdict(Amount)
        for part in result.parts:
            if part.tier is not None:
                direct[part.tier] += part.amount
        names = [tier.name for tier in self.books.world.tiers]
        result.tiers = {name: direct[name] for name in names}
        if not result.shared:
            return
        weights = {tier: max(amount.value, Fraction(0)) for tier, amount in direct.items()}
        result.shared_by = "direct cost"
        if not sum(weights.values()):
            weights = {tier: Fraction(self.tier_tokens(tier)) for tier in names}
            result.shared_by = "tokens"
        if not sum(weights.values()):
            weights = {tier: Fraction(1) for tier in names}
            result.shared_by = "nothing: evenly"
        positive = {tier: amount for tier, amount in direct.items() if amount.value > 0}
        is_by_cost = result.shared_by == "direct cost"
        shares = by_cost(result.shared, positive) if is_by_cost else spread(result.shared, weights)
        for tier, share in shares.items():
            result.tiers[tier] += share


def _or_unexplained(times: Times) -> Times:
    """All of the time, the silent one as unexplained; the silence of no time at all, too."""
    named = {(UNEXPLAINED if doing.cause == UNKNOWN else doing): seconds for doing, seconds in times.items()}
    return named or {UNEXPLAINED: Fraction(1)}
