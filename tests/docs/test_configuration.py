"""`docs/reference/configuration.md` has every section and key of the configuration, and each default as it is."""

from operator import attrgetter
from typing import get_args

import msgspec
import pytest

from shared.config.load import parse
from shared.config.providers import ProviderName, ProviderSection, traits_of
from shared.config.sections import Config, ServiceSection
from shared.config.values import Section
from tests.docs.pages import page, quoted
from tests.kit.accounts import smallest_account

PROVIDERS: tuple[ProviderName, ...] = get_args(ProviderName)
PAGE = page("docs/reference/configuration.md")
MINIMAL = {
    "site.github": '[site.github]\nclient_id = "x"\n',
    "site.key_limits": "[site.key_limits]\n",
    "site.oidc": '[site.oidc]\nissuer = "https://x"\nclient_id = "x"\n',
    "billing.rate": '[[billing.rate]]\ncurrency = "EUR"\nper_usd = "1"\nfrom = "2026-01-01"\nsource = "s"\n',
    "billing.source": '[[billing.source]]\nname = "s"\nurl = "u"\n',
    **{f"provider.{name}": smallest_account(name) for name in ProviderSection.__struct_fields__},
    "tier": '[[tier]]\nname = "t"\nprovider = "static"\n',
    "machine": '[[tier]]\nname = "t"\nprovider = "static"\n[[machine]]\nid = "m"\ntier = "t"\nendpoint = "http://h:1"\n',
    "model": '[[tier]]\nname = "t"\nprovider = "static"\n[[model]]\nname = "m"\nlineup = ["t"]\n',
}
"""The smallest file with each table of an array, the table itself last."""
SECTIONS = {
    "bus": "## `[bus]`",
    "database": "## `[database]`",
    "gateway": "## `[gateway]`",
    "waker": "## `[waker]`",
    "meter": "## `[meter]`",
    "otel": "## `[otel]`",
    "billing": "## `[billing]`",
    "site": "## `[site]`",
    "site.key_limits": "## `[site.key_limits]`",
    "site.github": "## `[site.github]`",
    "site.oidc": "## `[site.oidc]`",
    "billing.rate": "## `[[billing.rate]]`",
    "billing.source": "## `[[billing.source]]`",
    **{f"provider.{name}": f"## `[provider.{name}]`" for name in ProviderSection.__struct_fields__},
    "tier": "## `[[tier]]`",
    "machine": "## `[[machine]]`",
    "model": "## `[[model]]`",
}


def struct_of(section: str) -> type[Section]:
    least = "" if section in Config.__struct_fields__ else f"[{section}]\n"
    value = attrgetter(section)(parse(MINIMAL.get(section, least), "test"))
    kind: type[Section] = type(value[0] if isinstance(value, tuple) else value)
    return kind


def fields_of(section: str) -> dict[str, msgspec.structs.FieldInfo]:
    """The section's own, without those that every service takes."""
    kind = struct_of(section)
    common = ServiceSection.__struct_fields__ if issubclass(kind, ServiceSection) else ()
    return {field.encode_name: field for field in msgspec.structs.fields(kind) if field.name not in common}


def default_fault(section: str, field: msgspec.structs.FieldInfo, cell: str) -> str | None:
    """Return what is wrong with a cell of the column `default`."""
    if field.required or cell == "required":
        return None if field.required and cell == "required" else f"required: {field.required}"
    if cell == "absent":
        return None if field.default in (None, ()) else f"the default is {field.default!r}"
    (value,) = quoted(cell)
    least = MINIMAL.get(section, f"[{section}]\n")
    same = parse(f"{least}{field.name} = {value}\n", "test") == parse(least, "test")
    return None if same else f"{value} is not the default"


def test_every_section_is_described() -> None:
    top = [name for name in Config.__struct_fields__ if name != "provider"]
    accounts = [name for name in SECTIONS if name.startswith("provider.")]
    assert sorted(SECTIONS) == sorted(
        [*top, *accounts, "billing.rate", "billing.source", "site.github", "site.key_limits", "site.oidc"]
    )


def test_every_provider_is_described() -> None:
    tier = {quoted(cells[0])[0]: cells for cells in PAGE.rows(SECTIONS["tier"])}
    _, kind, _, meaning = tier["provider"]
    assert set(quoted(kind)) == set(quoted(meaning)) == set(PROVIDERS)
    machine = {quoted(cells[0])[0]: cells for cells in PAGE.rows(SECTIONS["machine"])}
    assert set(quoted(machine["instance"][3])) & {*PROVIDERS} == {p for p in PROVIDERS if traits_of(p).needs_instance}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_described_with_its_default(section: str) -> None:
    rows = {quoted(cells[0])[0]: cells for cells in PAGE.rows(SECTIONS[section])}
    fields = fields_of(section)
    assert list(rows) == list(fields)
    faults = {name: default_fault(section, field, rows[name][2]) for name, field in fields.items()}
    assert {name: fault for name, fault in faults.items() if fault} == {}
    assert all(len(cells) == 4 and cells[3] for cells in rows.values())


def test_keys_of_every_service_are_described_once() -> None:
    rows = {quoted(cells[0])[0]: cells for cells in PAGE.rows("## Every service")}
    fields = {field.name: field for field in msgspec.structs.fields(ServiceSection)}
    assert list(rows) == list(fields)
    for section in ("gateway", "waker", "meter", "billing", "site"):
        assert issubclass(struct_of(section), ServiceSection)
        assert [default_fault(section, field, rows[name][2]) for name, field in fields.items()] == [None] * len(fields)


def test_default_fault_reports_a_wrong_default() -> None:
    port = fields_of("gateway")["port"]
    assert default_fault("gateway", port, "`8080`") is None
    assert default_fault("gateway", port, "`80`") == "80 is not the default"
    assert default_fault("gateway", port, "absent") == "the default is 8080"
    assert default_fault("gateway", port, "required") == "required: False"
    assert default_fault("bus", fields_of("bus")["url"], "absent") is None
    assert default_fault("tier", fields_of("tier")["name"], "absent") == "required: True"
