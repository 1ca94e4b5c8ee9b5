"""The part of the configuration that names the fleet: tiers, machines and models."""

from pathlib import Path
from typing import Literal

from shared.config.providers import ProviderName, ProviderTraits, traits_of
from shared.config.section import Section
from shared.config.values import Duration, Money

IdlePolicy = Literal["fixed", "break_even", "histogram"]


class Tier(Section, frozen=True, kw_only=True):
    """What is absent is as `[waker]` has it."""

    name: str
    provider: ProviderName
    price_per_hour: Money | None = None
    """USD per machine; for the estimate until the bill comes."""
    asleep_price_per_hour: Money = Money("0")
    """USD per machine that sleeps: its disks and addresses. For `plan` and `break_even`."""
    daily_budget: Money | None = None
    """USD per UTC day, of this tier's machines; absent: no gate of its own."""
    max_concurrency: int = 64
    """Requests in flight per machine."""
    key_file: Path | None = None
    """The file with the key that its engines ask for, as vLLM's `--api-key`. Absent: they ask for none."""
    idle_policy: IdlePolicy | None = None
    idle_timeout: Duration | None = None
    min_awake: Duration | None = None
    max_cycles_per_hour: int | None = None
    keep_warm: tuple[str, ...] | None = None

    @property
    def traits(self) -> ProviderTraits:
        """What its provider is like."""
        return traits_of(self.provider)


class Machine(Section, frozen=True, kw_only=True):
    id: str
    tier: str
    instance: str | None = None
    """The provider's id for it, as its API and the invoice have it."""
    resources: tuple[str, ...] = ()
    """Other resource ids of the invoice that belong to it: disks, addresses."""
    endpoint: str | None = None
    """Origin without `/v1`, where its engine listens; not for `process` machines."""
    command: tuple[str, ...] = ()
    """For `process` machines; `{port}` becomes a free port."""
    environment: tuple[str, ...] = ()
    """For `process` machines: variables of the suite's environment that its command gets beside the usual ones."""
    sleep_level: Literal[1, 2] | None = None
    """For `process` machines: vLLM's sleep mode, 1 or 2. Absent: asleep is not running."""
    pair: str | None = None
    """For `process` machines: those of one pair share GPUs, and one of them is awake at a time."""


class Model(Section, frozen=True, kw_only=True):
    name: str
    lineup: tuple[str, ...]
    """Tiers in order of preference."""
    served_as: str | None = None
    """The engine's name for it; the client's when absent."""
