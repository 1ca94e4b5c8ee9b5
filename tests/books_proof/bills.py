"""What six vendors bill for a month of machine time, each in its own way."""

import random
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from tests.books_proof.facts import DAY, HOUR, Charge, Delivery, Machine, Payable
from tests.books_proof.machine_time import MachineTime

PLAN = Fraction("2.75")
"""USD per hour that a Savings Plan commits to."""
RATES = {"h100x2": Fraction("5.0"), "a100x2": Fraction("3.673385"), "g6e": Fraction("2.103875")}


def rounded(amount: Fraction, places: int) -> Fraction:
    """To so many decimals."""
    return Fraction(round(amount * 10**places), 10**places)


@dataclass
class Bills:
    """The bills of a month that begins at `first` and has `days` days."""

    random: random.Random
    first: int
    days: int
    period: tuple[int, int]
    time: Mapping[str, MachineTime]
    machines: Mapping[str, Machine]
    missing: frozenset[tuple[str, int]]
    """Machine and day of which no bill comes."""
    gaps: bool
    """Whether hours are missing of `g6e-1`."""
    repeats: bool
    """Whether the same comes again, in another order and as it was."""

    @property
    def end(self) -> int:
        """Of the month."""
        return self.first + self.days * DAY

    def deliveries(self) -> Iterator[Delivery]:
        """In the order in which they come: some twice, some late, some in another order."""
        azure, aws = tuple(self._azure()), list(self._aws())
        early = tuple(row for row in azure if row.end <= self.end - 2 * DAY)
        oracle = Delivery("oracle", "oracle", "gzip", tuple(self._oracle()))
        yield Delivery("azure", "azure", "csv", early)
        yield Delivery("hyperstack", "plain", "csv", tuple(self._hyperstack()))
        yield from [Delivery("aws", "aws", "csv", tuple(aws)), oracle] if self.repeats else []
        self.random.shuffle(aws)
        yield Delivery("aws", "aws", "gzip", tuple(aws))
        yield Delivery("aws-cur", "cur", "parquet", tuple(self._cur()))
        yield oracle
        yield Delivery("gcp", "google", "csv", tuple(self._google()))
        yield Delivery("azure", "azure", "parquet", azure)

    def _daily(self) -> range:
        return range(self.first, self.end, DAY)

    def _hourly(self) -> range:
        return range(self.first, self.end, HOUR)

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _ran(self, machine: str, start: int, length: int) -> Fraction:
        """Hours that the vendor counted: those of the journal, at times more."""
        hours = Fraction(int(self.time[machine].billable(start, start + length) * 10**6 // HOUR), 10**6)
        if self._chance(0.03):
            return min(rounded(hours + Fraction(self.random.randrange(1, 400), 1000), 6), Fraction(length, HOUR))
        return hours

    def _hyperstack(self) -> Iterator[Charge]:
        row = self._made("hyperstack", "hyperstack", "hyperstack", "HS-202611", currency="USD")
        for day in self._daily():
            for machine in ("h100-1", "h100-2", "h100-3"):
                hours = self.time[machine].billable(day, day + DAY) / HOUR
                if hours and (machine, day) not in self.missing:
                    cost = rounded(hours * RATES["h100x2"], 6)
                    yield row(day, DAY, cost, resource=self.machines[machine].instance)
            yield row(day, DAY, Fraction("1.29"), service="Storage", resource="vol-hs-9")
            yield row(day, DAY, Fraction("0.033333333333"), service="Storage", resource="vol-v")
            yield row(day, DAY, Fraction("4.00"), service=None)
        for day in self.random.sample(self._daily(), 2):
            yield row(day, DAY, Fraction("3.00"), resource="gpu-dev")
            yield row(day, DAY, Fraction("-2.50"), service=None, category="Credit")
            yield row(day, DAY, Fraction("0.75"), resource="lent-1", tier_tag="h100x2")

    def _azure(self) -> Iterator[Charge]:
        row = self._made("azure", "Microsoft", "de", "E0300ABCDE", currency="EUR")
        machine = self.machines["a100-azure"]
        for day in self._daily():
            hours = self._ran("a100-azure", day, DAY)
            if hours:
                cost = rounded(hours * RATES["a100x2"], 10)
                yield row(day, DAY, cost, resource=machine.instance, hours=hours)
            yield row(day, DAY, Fraction("0.6451612903"), service="Storage", resource=machine.resources[0])
        whole = self.end - self.first
        yield row(self.first, whole, Fraction("29.00"), service="Other", resource=None)
        yield row(self.first, whole, Fraction("101.17"), service="Other", category="Tax")
        yield row(self.first + DAY, (self.days - 2) * DAY, Fraction("7.77"), service="Networking", resource="vnet-1")
        yield row(self.first + 3 * DAY, DAY, Fraction("-3.3333"), category="Adjustment", service="Other")

    def _aws(self) -> Iterator[Charge]:
        row = self._made("aws", "Amazon Web Services, Inc.", "dev", "900000001", currency="USD")
        machine = self.machines["g6e-1"]
        for hour in self._hourly():
            hours = self._ran("g6e-1", hour, HOUR)
            if hours and not (self.gaps and self._chance(0.03)):
                cost = rounded(hours * RATES["g6e"], 10)
                yield row(hour, HOUR, cost, resource=machine.instance, hours=hours)
                if self._chance(0.05):
                    yield row(hour, HOUR, -rounded(cost / 3, 10), resource=machine.instance, category="Credit")
        for day in self._daily():
            yield row(day, DAY, Fraction("1.2903225806"), service="Storage", resource=machine.resources[0])
            yield row(day, DAY, Fraction("0.0301"), service="Networking", resource=machine.instance)
            nat = row(day, DAY, Fraction("0.045"), service="Networking", resource=None)
            yield nat
            yield nat
            if self._chance(0.3):
                yield row(day, DAY, Fraction("0.31"), service="Storage", resource="vol-0lost1234567890v")
            if self._chance(0.2):
                yield row(day, DAY, Fraction("0.9"), service="Compute", resource="i-0tagged", tier_tag="g6e")
        whole = self.end - self.first
        yield row(self.first, whole, Fraction("100.00"), service="Other", category="Purchase")
        yield row(self.first, whole, Fraction("33.19"), service="Other", category="Tax")
        night = self.first + self.days // 2 * DAY + 2 * HOUR
        yield row(night, HOUR, Fraction("-2.29"), resource=machine.instance, category="Adjustment")
        later = self._made("aws", "Amazon Web Services, Inc.", "dev", None, currency="USD")
        fixed = later(self.first + 4 * DAY, HOUR, Fraction("-1.5"), resource=machine.instance, category="Adjustment")
        yield replace(fixed, correction=True, period=(self.end, self.end + 31 * DAY))

    def _cur(self) -> Iterator[Charge]:
        row = self._made("aws-cur", "Amazon Web Services, Inc.", "210987654321", "900000002", currency="USD")
        machine = self.machines["g6e-2"]
        for hour in self._hourly():
            hours = self._ran("g6e-2", hour, HOUR)
            used = min(rounded(hours * Fraction("1.9"), 10), PLAN)
            if hours:
                cost = rounded(hours * RATES["g6e"], 10)
                covered = row(hour, HOUR, cost, resource=machine.instance, hours=hours, effective=used)
                yield replace(covered, line="SavingsPlanCoveredUsage")
                negated = row(hour, HOUR, -cost, service="Compute", effective=Fraction(0))
                yield replace(negated, line="SavingsPlanNegation")
            fee = row(hour, HOUR, PLAN, service="Other", category="Purchase", effective=PLAN - used)
            yield replace(fee, line="SavingsPlanRecurringFee", plan_used=(PLAN, used))
        for day in self._daily():
            yield row(day, DAY, Fraction("0.9677419354"), service="Storage", resource=machine.resources[0])
        yield row(self.first, self.end - self.first, Fraction("55.01"), service="Other", category="Tax")
        yield row(self.first + 3 * DAY, DAY, Fraction("-5"), service="Other", category="Credit")
        yield row(self.first + 5 * DAY, DAY, Fraction("-0.77"), service="Other", category="Adjustment")

    def _oracle(self) -> Iterator[Charge]:
        row = self._made("oracle", "Oracle", "c02b", None, currency="USD")
        machine = self.machines["a100-oci"]
        for hour in self._hourly():
            hours = self._ran("a100-oci", hour, HOUR)
            if hours:
                cost = rounded(hours * RATES["a100x2"], 9)
                yield row(hour, HOUR, cost, resource=machine.instance, hours=hours)
        for day in self._daily():
            yield row(day, DAY, Fraction("0.4250"), service="Storage", resource=machine.resources[0])

    def _google(self) -> Iterator[Charge]:
        row = self._made("gcp", "Google Cloud", "010101-F0FFF0-61C528", None, currency="USD")
        project = "//compute.googleapis.com/projects/412345678901/zones/us-central1-a/instances"
        resource = f"{project}/{self.machines['a100-gcp'].instance}"
        for hour in self._hourly():
            hours = self._ran("a100-gcp", hour, HOUR)
            if hours:
                cost = rounded(hours * RATES["a100x2"], 6)
                yield row(hour, HOUR, cost, resource=resource)
                if self._chance(0.1):
                    yield row(hour, HOUR, -rounded(cost / 4, 6), resource=resource, category="Credit")
        for day in self._daily():
            yield row(day, DAY, Fraction("0.12"), service="Networking", resource=None)

    def _made(
        self, source: str, issuer: str, account: str, invoice: str | None, currency: str
    ) -> Callable[..., Charge]:
        """A maker of rows of one account: `row(start, length, cost, …)`. Only some forms tell an effective cost.

        Google's month begins at midnight in California.
        """

        def row(start: int, length: int, billed: Fraction, **more: object) -> Charge:
            effective = None if source == "hyperstack" else billed
            known: dict[str, object] = {"currency": currency, "invoice": invoice, "effective": effective, **more}
            if known.get("category") == "Purchase" and "effective" not in more:
                known["effective"] = Fraction(0)
            later = 8 * HOUR if source == "gcp" else 0
            period = self.period[0] + later, self.period[1] + later
            return Charge(source, issuer, account, period, start, start + length, billed, **known)  # type: ignore[arg-type]  # as the fields have them

        return row


def payables(charges: Iterable[Charge], skipped: Container[str], disputed: Container[str]) -> Iterator[Payable]:
    """What is to be paid for each invoice, to the cent; of all but `skipped` sources, and 2 cents off of `disputed`."""
    sums: dict[tuple[str, str, str, tuple[int, int], str | None], Fraction] = {}
    for row in charges:
        bill = row.source, row.issuer, row.account, row.period, row.invoice
        sums[bill] = sums.get(bill, Fraction(0)) + row.billed
    for bill, amount in sums.items():
        if bill[0] not in skipped:
            yield Payable(*bill, rounded(amount, 2) + (Fraction(2, 100) if bill[0] in disputed else 0))
