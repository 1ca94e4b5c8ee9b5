"""What is known of a machine from its provider. Times are Unix seconds."""

from dataclasses import dataclass

from services.waker.core.events import Observation


@dataclass(frozen=True, kw_only=True)
class ProviderView:
    """The provider's latest word about the machine."""

    observation: Observation | None = None
    requested_at: float = 0.0
    not_found_since: float | None = None
    """Since when the provider has consistently not known the machine."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """The machine's own word that its provider takes it back."""

    words: str
    at: float
    """When that happens."""
    observed_at: float
