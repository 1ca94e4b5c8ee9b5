"""What billing makes of the configuration: currencies and ids as files are compared with them."""

import pytest

from services.billing.settings import settings
from shared.config.load import parse
from shared.errors import Misconfigured

MACHINE = '[[machine]]\nid = "{0}"\ntier = "t"\nendpoint = "http://h:1"\ninstance = "{1}"\n'
TIER = '[[tier]]\nname = "t"\nprovider = "static"\n'
RATE = '[[billing.rate]]\ncurrency = "{0}"\nper_usd = "{1}"\nfrom = "2026-01-01"\nsource = "s"\n'
AZURE = "/subscriptions/1/virtualMachines/vm"


@pytest.mark.parametrize(("written", "compared"), [("eur", "EUR"), ("EUR", "EUR"), ("Tokens", "Tokens")])
def test_a_currency_is_compared_in_capitals(written: str, compared: str) -> None:
    (rate,) = settings(parse(RATE.format(written, "0.9"), "test.toml")).rates
    assert rate.currency == compared


@pytest.mark.parametrize("text", [RATE.format("usd", "1"), RATE.format("eur", "1") + RATE.format("EUR", "2")])
def test_a_rate_that_another_spelling_has_already_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured):
        parse(text, "test.toml")


def test_an_id_of_azure_belongs_to_one_machine_in_whatever_capitals() -> None:
    with pytest.raises(Misconfigured, match="already belongs to machine a"):
        settings(parse(TIER + MACHINE.format("a", AZURE) + MACHINE.format("b", AZURE.upper()), "test.toml"))
    other = settings(parse(TIER + MACHINE.format("a", "i-A") + MACHINE.format("b", "i-a"), "test.toml"))
    assert other.fleet.machine_of == {"i-A": "a", "i-a": "b"}
