"""What the waker asks of the world beside the bus: providers of machines, and engines that answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from services.waker.core.events import Observation, Orphan, RefusalScope
from shared.messages.waker import CallOutcome


@dataclass(frozen=True, kw_only=True)
class CallResult:
    """`refused`: it will not happen, `reason` says why and how to mend it. `unknown`: look before doing more."""

    outcome: CallOutcome
    code: str = ""
    reason: str = ""
    endpoint: str | None = None
    generation: int | None = None
    """Of an engine that only slept; None: as it was asked for."""
    scope: RefusalScope = ""
    """Whom a refusal concerns."""


ACCEPTED = CallResult(outcome="accepted")


@dataclass(frozen=True, kw_only=True)
class AccountSnapshot:
    """What a provider reports of an account's machines. A machine missing from `observations` proves nothing."""

    observations: Mapping[str, Observation]
    orphans: tuple[Orphan, ...] = ()


class ProviderUnavailable(Exception):
    """The provider could not be looked at; in words, with the provider's code."""


class Provider(Protocol):
    """One account. Machines go by our ids; a stray by its own. No call makes a second engine or creates anything.

    Every call is bounded in time and, with the account's other calls, in number. None raises but `observe`.
    """

    async def observe(self) -> AccountSnapshot:
        """All of our machines, as few calls as it takes; `ProviderUnavailable`."""
        ...

    async def start(self, machine: str, generation: int) -> CallResult:
        """Wake it. Accepted: it is on its way; an endpoint comes as soon as one is known."""
        ...

    async def stop(self, machine: str, *, force: bool) -> CallResult:
        """Put it to sleep, also when it sleeps. Accepted: it is on its way. `force`: it was asked before."""
        ...

    async def test(self) -> tuple[str, ...]:
        """Whether we may start and stop and the clocks agree, without doing anything: the faults, each with its fix."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe got. `tokens` is what it made the engine work."""

    answered: bool
    code: str = ""
    tokens: int = 0
    host: bool = False
    """Something of the machine answered, be it with a refusal: its network is up."""
    wrong: str = ""
    """It answers, and is no engine of this model: what it is."""
    max_model_len: int | None = None
    """The longest context in tokens, where the engine tells it."""


class Prober(Protocol):
    """Asks engines. `endpoint` is an origin without `/v1`; both take at most `timeout` seconds and never raise."""

    async def reach(
        self, machine: str, endpoint: str, model: str, timeout: float, *, must_list: bool = False
    ) -> ProbeResult:
        """Whether the engine answers at all. `must_list`: where it lists its models, it has to list this one."""
        ...

    async def work(self, machine: str, endpoint: str, model: str, timeout: float) -> ProbeResult:
        """Whether it does what its model is for: one token, or one embedding."""
        ...
