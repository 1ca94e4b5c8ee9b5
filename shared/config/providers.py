"""The providers: the traits of each in one table, and the accounts in the configuration."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from shared.config.values import Section

ProviderName = Literal["ec2", "hyperstack", "process", "static"]


@dataclass(frozen=True, kw_only=True)
class ProviderTraits:
    """What the suite has to know about a provider, apart from how to call it."""

    account_hint: str | None = None
    """What its required section `[provider.<name>]` must contain; None if it needs no account."""
    needs_instance: bool = False
    """Its API and its invoice identify each machine by an `instance`."""
    has_running_bill: bool = False
    """Its API reports what a machine has cost so far, so today's spend is known without a price."""
    can_sleep: bool = True
    """False if its machines are never started or stopped; the waker only watches them."""
    is_local: bool = False
    """Its engines are processes on this host: started by a `command`, observed at once, never billed.

    All others are observed over a network: an observation may be some seconds old, and a running machine may not be
    reachable yet.
    """


@cache
def traits_of(name: ProviderName) -> ProviderTraits:
    """Return the traits of a provider. mypy rejects a provider without a row."""
    match name:
        case "ec2":
            return ProviderTraits(account_hint="set its region", needs_instance=True)
        case "hyperstack":
            return ProviderTraits(account_hint="the section may be empty", needs_instance=True, has_running_bill=True)
        case "process":
            return ProviderTraits(is_local=True)
        case "static":
            return ProviderTraits(can_sleep=False)


class Ec2Section(Section, frozen=True, kw_only=True):
    """Credentials come from boto3's default chain."""

    region: str
    endpoint_url: str | None = None
    """Default: AWS's own."""
    calls_per_minute: int = 250
    """Calls of this waker to this account."""


class HyperstackSection(Section, frozen=True, kw_only=True):
    """The key comes from `HYPERSTACK_API_KEY` or the file that `HYPERSTACK_API_KEY_FILE` names."""

    base_url: str = "https://infrahub-api.nexgencloud.com/v1"
    calls_per_minute: int = 250
    """The provider allows each source address 500."""


class ProviderSection(Section, frozen=True, kw_only=True):
    """Accounts at cloud providers."""

    ec2: Ec2Section | None = None
    hyperstack: HyperstackSection | None = None

    def account(self, name: ProviderName) -> Section | None:
        """Return the account of a provider; None if the file has none, or the provider needs none."""
        match name:
            case "ec2":
                return self.ec2
            case "hyperstack":
                return self.hyperstack
            case "process" | "static":
                return None
