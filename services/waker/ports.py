"""What the waker needs beside the bus: providers of machines, and engines that can be probed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from services.waker.core.events import Observation, Orphan, RefusalScope
from shared.messages.waker import CallOutcome


@dataclass(frozen=True, kw_only=True)
class CallResult:
    """`refused`: it will not happen; `reason` says why and how to fix it. `unknown`: observe before doing more."""

    outcome: CallOutcome
    code: str = ""
    reason: str = ""
    endpoint: str | None = None
    generation: int | None = None
    """The generation of an engine that only slept; None: the one that was requested."""
    scope: RefusalScope | None = None
    """What a refusal concerns."""


ACCEPTED = CallResult(outcome="accepted")


@dataclass(frozen=True, kw_only=True)
class AccountSnapshot:
    """What a provider reports of an account's machines. A machine missing from `observations` proves nothing."""

    observations: Mapping[str, Observation]
    orphans: tuple[Orphan, ...] = ()


class ProviderUnavailable(Exception):
    """The provider could not be observed; the text says why, with the provider's code."""


class Provider(Protocol):
    """One account. Machines go by our ids, orphans by their own. No call starts a second engine or creates anything.

    Every call is bounded in time and, together with the account's other calls, in rate. Only `observe` raises.
    """

    async def observe(self) -> AccountSnapshot:
        """Observe all of our machines, in as few calls as possible.

        Raises:
            ProviderUnavailable: the provider did not answer, or refused.
        """
        ...

    async def start(self, machine: str, generation: int) -> CallResult:
        """Wake the machine. Accepted: it is on its way; the endpoint follows as soon as it is known."""
        ...

    async def stop(self, machine: str, *, force: bool) -> CallResult:
        """Put the machine to sleep, even if it sleeps. Accepted: it is on its way. `force`: this is a further call."""
        ...

    async def test(self) -> tuple[str, ...]:
        """Check without any change whether we may start and stop and the clocks agree. Each fault names its fix."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe got. `tokens` is the work that it caused."""

    answered: bool
    code: str = ""
    tokens: int = 0
    is_host_up: bool = False
    """Something on the machine responded, even with a refusal: its network is up."""
    mismatch: str = ""
    """What responded instead, if it is no engine of this model."""
    max_model_len: int | None = None
    """The longest context in tokens, if the engine reports it."""


@dataclass(frozen=True, kw_only=True)
class RequestCount:
    """How many requests an engine says that it runs."""

    running: int | None
    """Running or queued; None: unknown."""
    answered: bool
    """It responded: if `running` is unknown, it does not publish the number."""
    code: str = ""
    """Why the number is unknown."""


class Prober(Protocol):
    """Probes engines. `endpoint` is an origin without `/v1`. Each call takes at most `timeout_s` and never raises."""

    async def reach(
        self, machine: str, endpoint: str, model: str, timeout_s: float, *, must_list: bool = False
    ) -> ProbeResult:
        """Whether the engine responds at all. `must_list`: if it lists its models, this one must be among them."""
        ...

    async def work(self, machine: str, endpoint: str, model: str, timeout_s: float) -> ProbeResult:
        """Whether the engine does what its model is for: one token, or one embedding."""
        ...

    async def count_requests(self, machine: str, endpoint: str, timeout_s: float) -> RequestCount:
        """How many requests the engine runs, from its `/metrics`."""
        ...

    async def close(self) -> None: ...
