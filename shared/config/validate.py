"""Finds the faults of a configuration that its types allow. Each fault names its place, the reason and the fix."""

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from shared.config.fleet import Machine, Model, Tier
from shared.config.identity import identity_faults, is_loopback, provider_faults, proxy_faults
from shared.config.invoices import CurrencyRate, InvoiceSource, currency_code
from shared.config.providers import HyperstackSection, traits_of
from shared.config.sections import BusSection, Config, GatewaySection, OtelSection, SiteSection
from shared.config.values import Bounds, Money, Section
from shared.weekly_window import window_fault

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:-]+")
_LOCAL_KEYS = ("command", "environment", "sleep_level", "pair")


def find_faults(config: Config) -> list[str]:
    """Return names that refer to nothing, duplicates and values out of their bounds; an empty list if all is right."""
    return [
        *_name_faults("tier", "name", [t.name for t in config.tier]),
        *_name_faults("machine", "id", [m.id for m in config.machine]),
        *_name_faults("model", "name", [m.name for m in config.model]),
        *_fleet_faults(config),
        *_account_faults(config),
        *_instance_faults(config),
        *_bus_faults(config.bus),
        *_gateway_faults(config.gateway),
        *_site_faults(config.site),
        *_keep_warm_faults("waker.keep_warm", config.waker.keep_warm),
        *_billing_faults(config),
        *_otel_faults(config.otel),
        *_bound_faults(config, ""),
    ]


def table_place(table: str, number: int, name: object) -> str:
    """Return how a fault names a table of an array: `tier "h100x2"`, or `tier[2]` if it has no usable name."""
    usable = isinstance(name, str) and name and name.isprintable()
    return f'{table} "{name}"' if usable else f"{table}[{number}]"


def _name_faults(table: str, key: str, names: list[str]) -> Iterator[str]:
    for number, name in enumerate(names, 1):
        if not name or not name.isprintable():
            yield f"{table}[{number}]: {key} must be a non-empty printable string, got {name!r}"
        if name in names[: number - 1]:
            yield f'{table}[{number}]: {key} "{name}" is used twice: remove one or rename it'


def _fleet_faults(config: Config) -> Iterator[str]:
    for number, tier in enumerate(config.tier, 1):
        place = table_place("tier", number, tier.name)
        yield from (f"{place}: {fault}" for fault in _tier_faults(tier))
    for number, machine in enumerate(config.machine, 1):
        place = table_place("machine", number, machine.id)
        yield from (f"{place}: {fault}" for fault in _machine_faults(config, machine))
    for number, model in enumerate(config.model, 1):
        place = table_place("model", number, model.name)
        yield from (f"{place}: {fault}" for fault in _lineup_faults(config, model))


def _tier_faults(tier: Tier) -> Iterator[str]:
    yield from _keep_warm_faults("keep_warm", tier.keep_warm or ())
    if tier.daily_budget is not None and tier.price_per_hour is None and not tier.traits.has_running_bill:
        yield "daily_budget requires price_per_hour: without it, today's spend is unknown"


def _lineup_faults(config: Config, model: Model) -> Iterator[str]:
    if not model.lineup:
        yield "lineup must name at least one tier"
    yield from (f'lineup: no [[tier]] is named "{tier}"' for tier in model.lineup if tier not in config.tiers)


def _machine_faults(config: Config, machine: Machine) -> Iterator[str]:
    tier = config.tiers.get(machine.tier)
    if tier is None:
        yield f'tier: no [[tier]] is named "{machine.tier}"'
    elif tier.traits.is_local:
        yield from _local_machine_faults(tier.provider, machine)
    else:
        yield from (
            f'{key} does not apply to a machine of provider "{tier.provider}"'
            for key in _LOCAL_KEYS
            if getattr(machine, key)
        )
        if tier.traits.needs_instance and not machine.instance:
            yield f'instance is required for provider "{tier.provider}": set the provider\'s id of the machine'
        yield from _endpoint_faults(tier.provider, machine.endpoint)


def _local_machine_faults(provider: str, machine: Machine) -> Iterator[str]:
    if not machine.command:
        yield f'command is required for provider "{provider}", e.g. ["vllm", "serve", "…", "{{port}}"]'
    elif not any("{port}" in part for part in machine.command):
        yield 'command must contain "{port}", or the engine cannot know where to listen'
    if machine.endpoint:
        yield f'endpoint does not apply to a machine of provider "{provider}": it follows from {{port}}'
    yield from (
        f"environment[{number}] must be the name of a variable, without a value"
        for number, name in enumerate(machine.environment, 1)
        if not _VARIABLE.fullmatch(name)
    )
    if machine.pair == "":
        yield "pair must not be empty: set a name, or remove the key"


def _endpoint_faults(provider: str, endpoint: str | None) -> Iterator[str]:
    if endpoint is None:
        yield f'endpoint is required for provider "{provider}", e.g. "http://10.0.4.11:8000"'
        return
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield f"endpoint must be an origin, e.g. http://10.0.4.11:8000, got {endpoint!r}"
    elif parts.path.rstrip("/") or parts.query or parts.fragment:
        yield f"endpoint must be an origin without a path: remove {parts.path!r}"


def _account_faults(config: Config) -> Iterator[str]:
    for provider in sorted({tier.provider for tier in config.tier}):
        hint = traits_of(provider).account_hint
        if hint is not None and config.provider.account(provider) is None:
            yield f'provider.{provider} is required by a tier of provider "{provider}": {hint}'
    if config.provider.hyperstack is not None:
        yield from _hyperstack_faults(config.provider.hyperstack)


def _hyperstack_faults(account: HyperstackSection) -> Iterator[str]:
    parts = urlsplit(account.base_url)
    is_loopback = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not parts.hostname or not (parts.scheme == "https" or is_loopback):
        yield f"provider.hyperstack.base_url must be an https:// URL: it receives the API key, got {account.base_url!r}"


def _instance_faults(config: Config) -> Iterator[str]:
    """Two machines that are the same instance of a provider."""
    owners: dict[tuple[str, str], str] = {}
    for number, machine in enumerate(config.machine, 1):
        tier = config.tiers.get(machine.tier)
        if tier is None or not machine.instance:
            continue
        owner = owners.setdefault((tier.provider, machine.instance), machine.id)
        if owner != machine.id:
            place = table_place("machine", number, machine.id)
            yield f'{place}: instance {machine.instance!r} already belongs to machine "{owner}"'


def _bus_faults(bus: BusSection) -> Iterator[str]:
    if bus.url is not None and bus.urls:
        yield "bus: url and urls are both set: list every server in urls"
    if bus.nkey_file is not None and bus.creds_file is not None:
        yield "bus: nkey_file and creds_file are both set: a user has one key, remove one of them"


def _gateway_faults(gateway: GatewaySection) -> Iterator[str]:
    for origin in gateway.cors_origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            yield (
                'gateway.cors_origins must contain origins as browsers send them, e.g. "https://chat.example.org", or '
                f'"*", got {origin!r}'
            )
    body = Bounds(gateway.max_body_bytes)
    for name in ("max_buffered_bytes", "max_buffered_bytes_per_key"):
        size_bytes: int | None = getattr(gateway, name)
        if size_bytes is not None and (fault := body.fault(size_bytes)):
            yield f"gateway.{name} {fault}"


def _site_faults(site: SiteSection) -> Iterator[str]:
    for name in ("public_url", "api_url"):
        url: str | None = getattr(site, name)
        if url is not None and not _ORIGIN.fullmatch(url):
            yield f'site.{name} must be an origin such as "https://site.example", got {url!r}'
    for name in ("allowed", "operators", "viewers"):
        yield from identity_faults(f"site.{name}", getattr(site, name))
    yield from provider_faults(site.github, site.oidc)
    yield from proxy_faults(site.trusted_proxies)
    if (site.github or site.oidc) and site.public_url and not (site.is_https or is_loopback(site.public_url)):
        yield f"site.public_url must be an https:// URL where people sign in, got {site.public_url!r}"


def _keep_warm_faults(place: str, windows: tuple[str, ...]) -> Iterator[str]:
    for number, text in enumerate(windows, 1):
        if fault := window_fault(text):
            yield f"{place}[{number}]: {fault}"


def _billing_faults(config: Config) -> Iterator[str]:
    share = config.billing.budget_warning
    if not 0 < share <= 1:
        yield f'billing.budget_warning must be a share above 0 and at most 1, e.g. "0.8", got {share}'
    yield from _step_faults(config.billing.band_steps)
    yield from _rate_faults(config.billing.rate)
    yield from _source_faults(config.billing.source)


def _step_faults(steps: tuple[Money, ...]) -> Iterator[str]:
    if not steps:
        yield 'billing.band_steps must have at least one step, e.g. "1.00": remove the key for the default steps'
    for number, (before, step) in enumerate(zip((Decimal(0), *steps), steps, strict=False), 1):
        if step <= before:
            yield f"billing.band_steps[{number}] must be greater than {before}, got {step}"


def _rate_faults(rates: tuple[CurrencyRate, ...]) -> Iterator[str]:
    for number, rate in enumerate(rates, 1):
        place = f"billing.rate[{number}]"
        currency = currency_code(rate.currency)
        if not currency.strip() or currency == "USD":
            yield f"{place}: currency must be another currency than USD, e.g. EUR, got {rate.currency!r}"
        if rate.per_usd <= 0:
            yield f"{place}: per_usd must be greater than 0, got {rate.per_usd}"
        if not _is_date(rate.from_):
            yield f'{place}: from must be a date, e.g. "2026-01-31", got {rate.from_!r}'
        if (currency, rate.from_) in [(currency_code(other.currency), other.from_) for other in rates[: number - 1]]:
            yield f"{place}: {rate.currency} already has a rate from {rate.from_}: remove one"
        if not rate.source.strip():
            yield f"{place}: source must say where the rate comes from"


def _source_faults(sources: tuple[InvoiceSource, ...]) -> Iterator[str]:
    for number, source in enumerate(sources, 1):
        place = table_place("billing.source", number, source.name)
        if not source.name.strip() or not source.name.isprintable():
            yield f"{place}: name must be a non-empty printable string, got {source.name!r}"
        if source.name in [other.name for other in sources[: number - 1]]:
            yield f'{place}: name "{source.name}" is used twice: each delivery would replace the other source\'s'
        parts = urlsplit(source.url)
        if not source.url or ("://" in source.url and (parts.scheme != "s3" or not parts.netloc)):
            yield f"{place}: url must be a file, a folder or s3://bucket/prefix, got {source.url!r}"


def _otel_faults(otel: OtelSection) -> Iterator[str]:
    if otel.endpoint is None:
        return
    parts = urlsplit(otel.endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        yield f"otel.endpoint must be a URL, e.g. http://otel-collector:4318, got {otel.endpoint!r}"
    elif parts.username or parts.password:
        yield "otel.endpoint must not contain a password: let a collector add what its backend requires"
    elif parts.path.endswith(("/v1/traces", "/v1/metrics")):
        yield "otel.endpoint must be the base URL: remove /v1/traces or /v1/metrics, which are appended"


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _bound_faults(section: Section, place: str) -> Iterator[str]:
    """Values outside the `Bounds` of their fields, in this section and all below it."""
    hints = get_type_hints(type(section), include_extras=True)
    for key in section.__struct_fields__:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from _bound_faults(value, f"{place}{key}.")
        elif isinstance(value, tuple):
            for number, row in enumerate(value, 1):
                if isinstance(row, Section):
                    name = getattr(row, "name", getattr(row, "id", None))
                    yield from _bound_faults(row, f"{table_place(place + key, number, name)}: ")
        elif value is not None:
            faults = (bounds.fault(value) for bounds in _bounds_of(hints[key]))
            yield from (f"{place}{key} {fault}" for fault in faults if fault)


def _bounds_of(hint: Any) -> Iterator[Bounds]:
    if get_origin(hint) is Annotated:
        yield from (extra for extra in hint.__metadata__ if isinstance(extra, Bounds))
    else:
        for part in get_args(hint):
            yield from _bounds_of(part)
