"""The table of providers: complete, and in step with the accounts and the waker's adapters."""

from pathlib import Path
from typing import get_args

import pytest

from services.billing.wiring import hyperstack_bill
from services.waker.wiring import build_providers
from shared.config.load import parse
from shared.config.providers import ProviderName, ProviderSection, traits_of
from shared.config.sections import Config
from shared.errors import Misconfigured
from tests.kit.accounts import smallest_account

PROVIDERS: tuple[ProviderName, ...] = get_args(ProviderName)


def test_accounts_are_exactly_those_that_providers_need() -> None:
    needing = {name for name in PROVIDERS if traits_of(name).account_hint is not None}
    assert needing == set(ProviderSection.__struct_fields__)


@pytest.mark.parametrize("name", PROVIDERS)
def test_provider_without_its_account_is_rejected_with_the_hint(name: ProviderName) -> None:
    traits = traits_of(name)
    machine = '[[machine]]\nid = "m"\ntier = "t"\n'
    machine += 'command = ["e", "{port}"]\n' if traits.is_local else 'endpoint = "http://127.0.0.1:1"\n'
    machine += 'instance = "i"\n' if traits.needs_instance else ""
    text = f'[[tier]]\nname = "t"\nprovider = "{name}"\n{machine}'
    if traits.account_hint is None:
        parse(text, "test")
        return
    with pytest.raises(Misconfigured, match=traits.account_hint):
        parse(text, "test")


@pytest.mark.parametrize("name", PROVIDERS)
async def test_waker_has_an_adapter_for_every_provider(
    name: ProviderName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERSTACK_API_KEY", "key")
    provider = build_providers(config_with_tier_of(name), tmp_path)[name]
    await provider.close()


@pytest.mark.parametrize("name", PROVIDERS)
async def test_billing_reads_the_running_bill_of_every_provider_that_has_one(
    name: ProviderName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERSTACK_API_KEY", "key")
    bill = hyperstack_bill(config_with_tier_of(name))
    assert traits_of(name).has_running_bill == (bill is not None and bill.provider == name)
    if bill is not None:
        await bill.close()


def config_with_tier_of(name: ProviderName) -> Config:
    """With the smallest account that the provider takes."""
    return parse(f'{smallest_account(name)}[[tier]]\nname = "t"\nprovider = "{name}"\n', "test")
