"""What every term of a replica uses, as one value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.waker.core.fleet_spec import FleetSpec
from services.waker.metrics import Metrics
from services.waker.ports import Prober, Provider
from shared.bus.lease import Lease
from shared.bus.ports import Bus
from shared.config.providers import ProviderName


@dataclass(frozen=True, kw_only=True)
class TermResources:
    """The bus, the fleet as configured, and access to the outside world."""

    bus: Bus
    lease: Lease
    spec: FleetSpec
    providers: Mapping[ProviderName, Provider]
    prober: Prober
    metrics: Metrics
    closed_tiers: Callable[[], frozenset[str]] = frozenset
    """The tiers whose budget gate is closed now."""

    async def close(self) -> None:
        """Close the ways to the outside, which touches no machine."""
        await self.prober.close()
        for provider in self.providers.values():
            await provider.close()
