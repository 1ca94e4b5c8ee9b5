"""Every published figure beside the oracle's; each that differs is one line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction

from shared.messages.billing import (
    Bands,
    DayReport,
    Directions,
    KeyFigure,
    ModelFigure,
    PeriodReport,
    Statement,
    TierFigure,
)
from shared.messages.invoices import Invoices
from tests.books_proof.amounts import Amount, apportioned, ratio, rounded, sum_of, total
from tests.books_proof.coverage import bills_of
from tests.books_proof.facts import CAUSES
from tests.books_proof.hours import hours_of
from tests.books_proof.oracle import WEIGHTS, Books, DayFigures, Tokens
from tests.books_proof.prices import band, used

HOURS_STEP = Fraction(1, 10_000)


@dataclass
class Comparison:
    """Counts what was compared and keeps what differs."""

    compared: int = 0
    differences: list[str] = field(default_factory=list)

    def same(self, what: str, published: object, expected: object) -> None:
        """They must be equal."""
        self.compared += 1
        if published != expected:
            self.differences.append(f"{what}: {published} and not {expected}")

    def amount(self, what: str, published: Decimal | None, expected: Amount | None) -> None:
        """Equal to the unit, but for what divisions may have moved it by."""
        self.compared += 1
        if published is None or expected is None:
            if (published is None) != (expected is None):
                self.differences.append(f"{what}: {published} and not {expected}")
        elif not expected.matches(published):
            right, moved = rounded(expected.value), float(expected.slack)
            self.differences.append(f"{what}: {published} and not {right} (within {moved:.1f} units)")

    def day(self, report: DayReport, figures: DayFigures) -> None:
        """All of a day's figures. What a missing bill is part of is null; what is known of it stands beside."""
        day, right, lacks = report.day, figures.all_of_it, bool(figures.missing)
        self.amount(f"{day} spend", report.spend, None if lacks else right.spend)
        self.amount(f"{day} known spend", report.spend_known, right.spend if lacks else None)
        self.same(f"{day} has a reason", report.reason is not None, lacks or not figures.tokens)
        self.same(f"{day} tokens", report.tokens, figures.tokens)
        self.same(f"{day} failed tokens", report.tokens_failed, figures.tokens_failed)
        self.amount(f"{day} tax", report.tax, figures.tax)
        self.amount(
            f"{day} before credits", report.spend_before_credits, None if lacks else figures.before_credits.spend
        )
        self.amount(f"{day} effective", report.effective_spend, None if lacks else figures.effective)
        self.same(f"{day} charges", report.charges, len(figures.rows))
        self.same(f"{day} shared by", report.shared_by, right.shared_by)
        self.same(f"{day} usage complete", report.usage_complete, True)
        self.same(f"{day} state", report.state, figures.state)
        self.amount(f"{day} billed share", report.billed_share, None if lacks else figures.billed_share)
        always_on = report.always_on.spend if report.always_on is not None else None
        self.same(f"{day} always on", always_on, None if figures.always_on is None else rounded(figures.always_on))
        without = {one.machine: one.since for one in report.unbilled if not one.estimated}
        missed = {machine: None if hour is None else moment_of(hour) for machine, hour in figures.missing.items()}
        self.same(f"{day} machines without a bill", without, missed)
        for cause in CAUSES:
            self.amount(f"{day} {cause}", report.causes.get(cause), right.cause(cause))
        self._tiers(day, report, figures)
        if lacks:
            self.same(f"{day} models and keys", (report.models, report.keys), ((), ()))
        else:
            self._models_and_keys(day, report, figures)
        self._variance(day, report, figures)
        self._hours(day, report, figures)
        self._ratios(day, report, figures.directions)
        self._sums(day, report)

    def _tiers(self, day: str, report: DayReport, figures: DayFigures) -> None:
        """Only a tier whose machine has no bill is null."""
        right = figures.all_of_it.tiers
        machines = figures.books.world.machines
        lacking = {machine.tier for machine in machines if machine.id in figures.missing}
        self.same(f"{day} tiers", [tier.tier for tier in report.tiers], list(right))
        for tier in report.tiers:
            amount, lacks = right.get(tier.tier), tier.tier in lacking
            self.amount(f"{day} tier {tier.tier}", tier.spend, None if lacks else amount)
            self.amount(f"{day} known of tier {tier.tier}", tier.spend_known, amount if lacks else None)
            self.same(f"{day} tokens of tier {tier.tier}", tier.tokens, figures.tier_tokens(tier.tier))

    def _models_and_keys(self, day: str, report: DayReport, figures: DayFigures) -> None:
        right = figures.all_of_it
        self._named(f"{day} model", [(m.model, m.spend, m.tokens) for m in report.models], figures.by(1, right))
        before = {name: amount for name, (amount, _) in figures.by(1, figures.before_credits).items()}
        for model in report.models:
            uncredited = before.get(model.model, Amount())
            self.amount(f"{day} model {model.model} before credits", model.spend_before_credits, uncredited)
        keys = figures.by(2, right)
        wakes = figures.wakes()
        for name in wakes:
            keys.setdefault(name, (Amount(), 0))
        self._named(f"{day} key", [(k.key_id, k.spend, k.tokens) for k in report.keys], keys)
        self._apportioned(day, report, figures)
        for key in report.keys:
            self.amount(f"{day} wakes of {key.key_id}", key.wakes, wakes.get(key.key_id, Amount()))

    def _apportioned(self, day: str, report: DayReport, figures: DayFigures) -> None:
        """Models and keys have the published tiers' spend by largest remainder, but for a unit where some tie."""
        sums: dict[tuple[str, str | None], tuple[Decimal, int]] = {}
        for tier in report.tiers:
            served = {
                who: count.weight for who, count in figures.served.items() if who[0] == tier.tier and count.weight
            }
            parts = apportioned(known_of(tier), served) if served else {None: (known_of(tier), False)}
            for who, (part, is_tied) in parts.items():
                _, model, key = who or (None, None, None)
                for name in (("model", model), ("key", key)):
                    so_far, ties = sums.get(name, (Decimal(0), 0))
                    sums[name] = so_far + part, ties + is_tied
        reported: dict[tuple[str, str | None], Decimal] = {("model", one.model): one.spend for one in report.models}
        reported |= {("key", one.key_id): one.spend for one in report.keys}
        for name, (right, ties) in sums.items():
            off = abs(reported.get(name, Decimal(0)) - right).scaleb(12)
            self.same(f"{day} {name}: {reported.get(name)}, {right} is right to the unit", off <= ties, True)

    def conserved(self, days: Sequence[DayReport], figures: Sequence[DayFigures]) -> None:
        """All days, their tax and what is estimated are what was billed: no part of a charge is lost over its days."""
        books = figures[0].books
        inside = [row for row in books.charges if figures[0].start <= row.start and row.end <= figures[-1].end]
        self.same("charges within the days", len(inside), len(books.charges))
        right = total([books.usd(row, row.billed) for row in inside] + [day.accrued for day in figures])
        self.amount("all days and their tax", sum_of([known_of(day) + day.tax for day in days]), right)

    def period(self, report: PeriodReport, days: Sequence[DayReport], tokens: Tokens) -> None:
        """A period's figures are the sums of its days', and ratios of those; null where a day lacks a bill."""
        what = f"{report.first} to {report.to}"
        lacking = any(day.spend is None for day in days)
        known = sum_of([known_of(day) for day in days])
        self.same(f"{what} spend", report.spend, None if lacking else known)
        self.same(f"{what} known spend", report.spend_known, known if lacking else None)
        self.same(f"{what} tokens", report.tokens, tokens.total)
        self.same(f"{what} failed tokens", report.tokens_failed, sum(day.tokens_failed for day in days))
        self.same(f"{what} tax", report.tax, sum_of([day.tax for day in days]))
        for name in ("spend_before_credits", "effective_spend"):
            right = None if lacking else sum_of([getattr(day, name) or Decimal(0) for day in days])
            self.same(f"{what} {name}", getattr(report, name), right)
        for cause in CAUSES:
            self.same(f"{what} {cause}", report.causes.get(cause), sum_of([day.causes[cause] for day in days]))
        every = [tier for day in days for tier in day.tiers]
        for reported in report.tiers:
            mine = [tier for tier in every if tier.tier == reported.tier]
            lacks = any(tier.spend is None for tier in mine)
            right = sum_of([known_of(tier) for tier in mine])
            self.same(f"{what} tier {reported.tier}", reported.spend, None if lacks else right)
            self.same(f"{what} known of tier {reported.tier}", reported.spend_known, right if lacks else None)
        through = [day.day for day in days if day.state == "estimated"]
        whole = [day.day for day in days if not through or day.day < through[0]]
        self.same(f"{what} complete through", report.complete_through, whole[-1] if whole else None)
        for name, kind in (("models", "model"), ("keys", "key_id")):
            sums: dict[object, tuple[Decimal, int]] = {}
            for figure in (figure for day in days if not lacking for figure in getattr(day, name)):
                spend, count = sums.get(getattr(figure, kind), (Decimal(0), 0))
                sums[getattr(figure, kind)] = spend + figure.spend, count + figure.tokens
            reported_parts = {getattr(figure, kind): (figure.spend, figure.tokens) for figure in getattr(report, name)}
            self.same(f"{what} {name}", reported_parts, sums)
        self._ratios(what, report, tokens)

    def bills(self, report: PeriodReport, figures: Sequence[DayFigures]) -> None:
        """How far the bills of each source reach, and which machines lack one on which day."""
        right = bills_of(figures)
        self.same("sources of bills", {one.source for one in report.bills}, set(right))
        for one in report.bills:
            missing = {day: tuple(sorted(machines)) for day, machines in one.missing.items()}
            reported = (tuple(sorted(one.machines)), one.charges_through, one.delivered_through, missing)
            self.same(f"bills of {one.source}", reported, right.get(one.source))

    def explanations(self, report: DayReport, figures: DayFigures) -> None:
        """Lines sum to their figure exactly; what is nobody's is by resource what the bills say."""
        spends = {tier.tier: known_of(tier) for tier in report.tiers}
        spends |= {name: report.causes[name] for name in ("unattributed", "shared")}
        reported = {one.figure: one for one in report.explanations}
        self.same(f"{report.day} explained", {name for name, spend in spends.items() if spend} - set(reported), set())
        for name, one in reported.items():
            self.same(f"{report.day} {name} explained", one.amount, spends[name])
            self.same(
                f"{report.day} lines of {name}", sum_of([line.amount for line in one.lines]) + one.rest, one.amount
            )
        right: dict[str | None, Amount] = {}
        for row in figures.rows:
            owner = figures.books.owners[id(row)]
            if owner.tier is None and not owner.shared and row.category != "Tax":
                right[row.resource] = right.get(row.resource, Amount()) + figures.amount(row, row.billed)
        lines = reported["unattributed"].lines if "unattributed" in reported else ()
        self.same(f"{report.day} resources of nobody", {line.resource for line in lines}, set(right))
        for resource, amount in right.items():
            parts = sum_of([line.amount for line in lines if line.resource == resource])
            self.amount(f"{report.day} unattributed {resource}", parts, amount)

    def invoices(self, published: Invoices, books: Books) -> None:
        """How each bill stands."""
        reported = {}
        for one in published.standings:
            period = one.period_start, one.period_end
            reported[one.source, one.issuer, period, one.invoice_id] = (
                one.billed,
                one.payable,
                one.rounding,
                one.state,
            )
        right = {}
        for (source, issuer, _, (start, end), invoice), bill in books.bills.items():
            payable = None if bill.payable is None else rounded(bill.payable)
            rounding = None if bill.payable is None else rounded(bill.payable - bill.billed)
            period = moment_of(start), moment_of(end)
            right[source, issuer, period, invoice] = (rounded(bill.billed), payable, rounding, bill.state)
        self.same("bills", set(reported), set(right))
        for name, figures in right.items():
            self.same(f"bill {name}", reported.get(name), figures)

    def bands(self, published: Bands, books: Books, day: int) -> None:
        """The price list of a day."""
        self.same("models with a band", [band.model for band in published.bands], list(books.world.models))
        for reported in published.bands:
            week, month, step = band(reported.model, books, day)
            self.same(f"{reported.model} band", (reported.low, reported.high), (None, None) if step is None else step)
            for name, ratio_of, right in (("7", reported.trailing_7, week), ("28", reported.trailing_28, month)):
                good = not right.tokens if ratio_of is None else right.tokens and right.matches(Fraction(ratio_of))
                self.same(f"{reported.model} of {name} days {ratio_of}: {right} is right", bool(good), True)

    def statement(self, published: Statement, books: Books, bands: Bands, span: tuple[int, int]) -> None:
        """A key's month by the price list in force: each line, and their sum."""
        what = f"{published.key_id} {published.month}"
        prices = {(date.fromisoformat(one.day), one.model): one.high for one in bands.bands}
        lines, amounts = {}, []
        for (start, model), (prompt, cached, completion) in used(published.key_id, books.world, *span).items():
            day = datetime.fromtimestamp(start, UTC).date()
            price = next((high for (since, name), high in prices.items() if name == model and since <= day), None)
            amount = None if price is None else rounded(Fraction(price) * (prompt + completion) / 1_000_000)
            lines[day.isoformat(), model] = (prompt, cached, completion, price, amount)
            amounts.append(amount)
        reported = {
            (one.day, one.model): (
                one.prompt_tokens,
                one.cached_tokens,
                one.completion_tokens,
                one.usd_per_mtok,
                one.amount,
            )
            for one in published.lines
        }
        self.same(f"{what} lines", reported, lines)
        self.same(f"{what} tokens", published.tokens, sum(line[0] + line[2] for line in lines.values()))
        known = [amount for amount in amounts if amount is not None]
        self.same(f"{what} amount", published.amount, sum_of(known) if len(known) == len(amounts) else None)

    def _named(
        self,
        what: str,
        published: Sequence[tuple[str | None, Decimal, int]],
        right: Mapping[str | None, tuple[Amount, int]],
    ) -> None:
        reported = {name for name, _, _ in published}
        self.same(
            f"{what}s",
            reported,
            {name for name, (amount, count) in right.items() if amount or count or name in reported},
        )
        for name, spend, tokens in published:
            amount, count = right.get(name, (Amount(), 0))
            self.amount(f"{what} {name}", spend, amount)
            self.same(f"{what} {name} tokens", tokens, count)

    def _hours(self, day: str, report: DayReport, figures: DayFigures) -> None:
        """Published with four decimals."""
        right = hours_of(figures)
        self.same(f"{day} machines with hours", {one.machine for one in report.hours}, set(right))
        for one in report.hours:
            mine = right.get(one.machine)
            for name in ("billed", "known", "unexplained", "asleep"):
                reported, hours = getattr(one, name), getattr(mine, name, None)
                near = (
                    reported is hours
                    if reported is None or hours is None
                    else abs(Fraction(reported) - hours) <= HOURS_STEP
                )
                self.same(
                    f"{day} hours of {one.machine} {name}: {reported}, {hours and float(hours)} is right", near, True
                )
            self.amount(f"{day} unexplained of {one.machine}", one.spend, None if mine is None else mine.spend)

    def _variance(self, day: str, report: DayReport, figures: DayFigures) -> None:
        right = figures.variance
        self.same(f"{day} has a variance", report.variance is not None, right is not None)
        if right is not None and report.variance is not None:
            self.amount(f"{day} accrued", report.variance.accrued, right[0])
            self.amount(f"{day} billed", report.variance.billed, right[1])
            self.amount(f"{day} difference", report.variance.difference, right[1] - right[0])

    def _ratios(self, what: str, report: DayReport | PeriodReport, tokens: Tokens) -> None:
        """From what is published of both, rounded once."""
        for name, spend, count in (
            ("usd_per_mtok", report.spend, tokens.total),
            ("usd_per_mtok_before_credits", report.spend_before_credits, tokens.total),
            ("usd_per_mtok_output", report.spend, tokens.output),
        ):
            self.same(f"{what} {name}", getattr(report, name), None if spend is None else ratio(spend, count))
        figures: tuple[TierFigure | ModelFigure | KeyFigure, ...] = (*report.tiers, *report.models, *report.keys)
        for figure in figures:
            self.same(
                f"{what} per million of {figure}",
                figure.usd_per_mtok,
                None if figure.spend is None else ratio(figure.spend, figure.tokens),
            )
        self._directions(what, report.directions, report.spend, tokens)

    def _directions(self, what: str, reported: Directions | None, spend: Decimal | None, tokens: Tokens) -> None:
        for name, weight in WEIGHTS.items():
            count, figure = getattr(tokens, name), getattr(reported, name, None)
            self.same(f"{what} {name} tokens", getattr(figure, "tokens", 0), count)
            price = (
                rounded(Fraction(spend) * weight * 1_000_000 / tokens.weight) if count and spend is not None else None
            )
            self.same(f"{what} {name} per million", getattr(figure, "usd_per_mtok", None), price)

    def _sums(self, day: str, report: DayReport) -> None:
        """Exactly: causes sum to the spend, tiers with what is nobody's too, models and keys to the tiers."""
        tiers = sum_of([known_of(tier) for tier in report.tiers])
        self.same(f"{day} sum of causes", sum_of(list(report.causes.values())), known_of(report))
        self.same(f"{day} sum of tiers", tiers + report.causes["unattributed"], known_of(report))
        if report.spend is None:
            return
        self.same(f"{day} sum of models", sum_of([model.spend for model in report.models]), tiers)
        self.same(f"{day} sum of keys", sum_of([key.spend for key in report.keys]), tiers)


def days_tokens(figures: Sequence[DayFigures]) -> Tokens:
    """Of several days."""
    tokens = Tokens()
    for day in figures:
        for name in WEIGHTS:
            setattr(tokens, name, getattr(tokens, name) + getattr(day.directions, name))
    return tokens


def known_of(figure: DayReport | TierFigure) -> Decimal:
    """Its spend, or what is known of it."""
    return (figure.spend_known if figure.spend is None else figure.spend) or Decimal(0)


def moment_of(seconds: int) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
