"""Billing's settings, derived from the configuration in the terms of the core."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from services.billing.core.allocation.attribution import Fleet, is_azure
from services.billing.core.allocation.fleet_history import KeptFleet, KnownFleet, fleet_of
from services.billing.core.invoice_files.schema import ExchangeRate
from services.billing.core.money import to_units, to_usd
from services.billing.core.pricing.bands import Ladder
from services.billing.core.revisions.revision import HASH_PREFIX, sha256
from services.billing.core.utc_time import Window, day_window
from shared.config.invoices import currency_code
from shared.config.sections import Config
from shared.errors import Misconfigured


@dataclass(frozen=True, kw_only=True)
class Settings:
    fleet: Fleet
    machines: Mapping[str, str]
    """Machine to tier: those that may be awake at the end of the time that the settings are for."""
    prices: Mapping[str, int]
    """By tier, in units of money per machine and hour."""
    weights: Mapping[str, int]
    """By direction, in proportion to the published ones."""
    append_sources: frozenset[str]
    rates: tuple[ExchangeRate, ...]
    ladder: Ladder
    models: tuple[str, ...]

    @property
    def known(self) -> KnownFleet:
        """What the books keep of them."""
        fleet = self.fleet
        return KnownFleet(
            tiers=fleet.tiers,
            tier_of=dict(fleet.tier_of),
            machine_of=dict(fleet.machine_of),
            parts=tuple(sorted(fleet.parts)),
            never_billed=tuple(sorted(fleet.never_billed)),
            prices=dict(self.prices),
        )

    def at(self, window: Window, kept: Sequence[KeptFleet], now: int) -> "Settings":
        """Return them with the machines, tiers and prices of the window. `kept` is what the books keep of it."""
        then, last, later = fleet_of(window, kept, self.known, now)
        fleet = Fleet(
            tiers=then.tiers,
            tier_of=then.tier_of,
            machine_of=then.machine_of,
            tier_tag=self.fleet.tier_tag,
            parts=frozenset(then.parts),
            never_billed=frozenset(then.never_billed),
            later=later,
        )
        return replace(self, fleet=fleet, machines=last.tier_of, prices=then.prices)

    @property
    def digest(self) -> str:
        """Changes whenever these settings may change a figure."""
        content = [self.fleet.tiers, self.fleet.tier_of, self.fleet.machine_of, self.fleet.tier_tag]
        content += [self.prices, self.weights]
        return sha256(content)

    @property
    def named(self) -> dict[str, str]:
        """The settings that a figure may depend on, by name: a revision names what changed."""
        fleet = self.fleet
        machines = [
            [*map(sorted, (fleet.tier_of.items(), fleet.machine_of.items()))],
            [*map(sorted, (fleet.parts, fleet.never_billed))],
        ]
        return {
            **{f"price of tier {tier}": f"{to_usd(price):f}" for tier, price in self.prices.items()},
            "tiers": ", ".join(fleet.tiers),
            "tier tag": fleet.tier_tag,
            "machine list": HASH_PREFIX + sha256(machines),
            "direction weights": ", ".join(f"{name} {to_usd(weight):f}" for name, weight in self.weights.items()),
            "exchange rates": HASH_PREFIX + sha256([[r.currency, r.per_usd, r.start] for r in self.rates]),
        }


def settings(config: Config) -> Settings:
    """Return the settings, or raise `Misconfigured` if an amount has too many decimals."""
    machine_of: dict[str, str] = {}
    known: dict[str, str] = {}
    for machine in config.machine:
        for resource in filter(None, (machine.instance, *machine.resources)):
            machine_of[resource] = machine.id
            taken = known.setdefault(resource.lower() if is_azure(resource) else resource, machine.id)
            if taken != machine.id:
                raise Misconfigured(
                    f"machine {machine.id}: {resource!r} already belongs to machine {taken}: name it only once"
                )
    fleet = Fleet(
        tiers=tuple(config.tiers),
        tier_of={machine.id: machine.tier for machine in config.machine},
        machine_of=machine_of,
        tier_tag=config.billing.tier_tag,
        parts=frozenset(resource for machine in config.machine if machine.instance for resource in machine.resources),
        # A process on a host of ours costs nothing by itself, unless an id says that a bill names it.
        never_billed=frozenset(
            machine.id
            for machine in config.machine
            if config.tiers[machine.tier].traits.is_local and not (machine.instance or machine.resources)
        ),
    )
    return Settings(
        fleet=fleet,
        machines=fleet.tier_of,
        prices={
            tier.name: _units(f"tier {tier.name}: price_per_hour", tier.price_per_hour)
            for tier in config.tier
            if tier.price_per_hour is not None
        },
        weights={
            name: _units(f"billing.direction_weights.{name}", weight)
            for name, weight in config.billing.direction_weights.items()
        },
        append_sources=frozenset(config.billing.append_sources),
        rates=tuple(
            ExchangeRate(
                currency=currency_code(rate.currency), per_usd=str(rate.per_usd), start=day_window(rate.from_).start
            )
            for rate in config.billing.rate
        ),
        ladder=Ladder(
            steps=tuple(to_usd(_units("billing.band_steps", step)) for step in config.billing.band_steps),
            min_tokens=config.billing.band_min_tokens,
        ),
        models=tuple(config.models),
    )


def _units(place: str, amount: Decimal) -> int:
    try:
        return to_units(amount)
    except ValueError as error:
        raise Misconfigured(f"{place}: {error}") from error
