"""The providers: what each of them is like, in one table, and the accounts that the configuration names."""

from dataclasses import dataclass
from typing import Literal

from shared.config.section import Section

ProviderName = Literal["ec2", "hyperstack", "process", "static"]


@dataclass(frozen=True, kw_only=True)
class ProviderTraits:
    """What the rest of the suite needs to know of a provider, apart from how to call it."""

    account_hint: str | None = None
    """What to write into its `[provider.<name>]`, which it needs; None: it needs no account."""
    needs_instance: bool = False
    """Each machine is known to its API and its invoice by an `instance`."""
    has_running_bill: bool = False
    """Its API tells what a machine has cost so far, so today's spend is known without a price."""
    can_sleep: bool = True
    """False: nobody starts or stops its machines, the waker only watches them."""
    is_local: bool = False
    """Its engines are processes on this host: started by a `command`, observed at once, billed by nobody.

    All others are observed over a network: a look may show an old state for some seconds, and a running machine may
    not be reachable yet.
    """


def traits_of(name: ProviderName) -> ProviderTraits:
    """The row of a provider. mypy rejects a provider that has none."""
    match name:
        case "ec2":
            return ProviderTraits(account_hint="name its region", needs_instance=True)
        case "hyperstack":
            return ProviderTraits(account_hint="it may be empty", needs_instance=True, has_running_bill=True)
        case "process":
            return ProviderTraits(is_local=True)
        case "static":
            return ProviderTraits(can_sleep=False)


class Ec2Section(Section, frozen=True, kw_only=True):
    """Credentials come from boto3's usual chain."""

    region: str
    endpoint_url: str | None = None
    """Absent: AWS's own."""
    calls_per_minute: int = 250
    """Of this account, by this waker."""


class HyperstackSection(Section, frozen=True, kw_only=True):
    """The key comes from `HYPERSTACK_API_KEY` or the file that `HYPERSTACK_API_KEY_FILE` names."""

    base_url: str = "https://infrahub-api.nexgencloud.com/v1"
    calls_per_minute: int = 250
    """Of 500 that the provider allows each source address."""


class ProviderSection(Section, frozen=True, kw_only=True):
    """Accounts at clouds."""

    ec2: Ec2Section | None = None
    hyperstack: HyperstackSection | None = None

    def account(self, name: ProviderName) -> Section | None:
        """The account of a provider; None: the file names none, or the provider needs none."""
        match name:
            case "ec2":
                return self.ec2
            case "hyperstack":
                return self.hyperstack
            case "process" | "static":
                return None
