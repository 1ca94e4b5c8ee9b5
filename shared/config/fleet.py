"""The tables that describe the fleet: tiers, machines and models."""

from pathlib import Path
from typing import Literal

from shared.config.providers import ProviderName, ProviderTraits, traits_of
from shared.config.values import Duration, Money, PositiveInt, Section

IdlePolicy = Literal["fixed", "break_even", "histogram"]


class Tier(Section, frozen=True, kw_only=True):
    """A class of machine. Idle settings that are absent come from `[waker]`."""

    name: str
    provider: ProviderName
    price_per_hour: Money | None = None
    """USD per machine; the estimate until the bill arrives."""
    asleep_price_per_hour: Money = Money("0")
    """USD per sleeping machine, for its disks and addresses. Used by `plan` and `break_even`."""
    daily_budget: Money | None = None
    """USD per UTC day for this tier's machines. Default: no gate of its own."""
    max_concurrency: PositiveInt = 64
    """Requests in flight per machine."""
    key_file: Path | None = None
    """The file with the key that the tier's engines require, as set by vLLM's `--api-key`. Default: none. A file that
    changes is read again."""
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
    """The provider's id of the machine, as in its API and on the invoice."""
    resources: tuple[str, ...] = ()
    """Ids of other resources on the invoice that belong to the machine, such as disks and addresses."""
    endpoint: str | None = None
    """The origin where its engine listens, without `/v1`. Not for `process` machines."""
    key_file: Path | None = None
    """The same for this machine alone. Default: its tier's."""
    command: tuple[str, ...] = ()
    """For `process` machines: starts the engine; `{port}` becomes a free port."""
    environment: tuple[str, ...] = ()
    """For `process` machines: further variables of the suite's environment that the command receives."""
    sleep_level: Literal[1, 2] | None = None
    """For `process` machines: vLLM's sleep mode, 1 or 2. Default: a sleeping machine's process does not run."""
    pair: str | None = None
    """For `process` machines: machines of the same pair share GPUs, so only one of them is awake at a time."""


class Model(Section, frozen=True, kw_only=True):
    name: str
    lineup: tuple[str, ...]
    """Tiers in order of preference."""
    served_as: str | None = None
    """The engine's name for the model. Default: the client's name."""
