"""What is wrong with a configuration that its types allow: each fault with its path and the fix."""

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from urllib.parse import urlsplit

from shared.config.fleet import Machine, Model
from shared.config.invoices import CurrencyRate, InvoiceSource, currency_code
from shared.config.providers import traits_of
from shared.config.sections import Config, ServiceSection
from shared.config.values import Money
from shared.units import DAY_S
from shared.weekly_window import window_fault

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def faults(config: Config) -> list[str]:
    """What no type can say: names that point nowhere, doubles, numbers out of range."""
    found = _name_faults("tier", [t.name for t in config.tier])
    found += _name_faults("machine", [m.id for m in config.machine])
    found += _name_faults("model", [m.name for m in config.model])
    for number, machine in enumerate(config.machine, 1):
        found += (f"machine[{number}] ({machine.id}): {fault}" for fault in _machine_faults(config, machine))
    for number, model in enumerate(config.model, 1):
        found += (f"model[{number}] ({model.name}): lineup: {fault}" for fault in _lineup_faults(config, model))
    found += (f"gateway.cors_origins: {fault}" for fault in map(_origin_fault, config.gateway.cors_origins) if fault)
    found += _account_faults(config)
    found += _schedule_faults(config)
    found += _ladder_faults(config.billing.band_steps)
    found += _rate_faults(config.billing.rate) + _source_faults(config.billing.source)
    found += _budget_faults(config)
    found += (
        f"{at}: must be at least {least:g}, got {value:g}" for at, value, least in _least(config) if value < least
    )
    found += (f"{at}: a port is 0 to 65535, got {port}" for at, port in _ports(config) if not 0 <= port <= 65535)
    return found


_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:-]+")


def _origin_fault(origin: str) -> str:
    if origin == "*" or _ORIGIN.fullmatch(origin):
        return ""
    return f'expected an origin as browsers send it, such as "https://chat.example.org", or "*", got {origin!r}'


def _name_faults(what: str, names: list[str]) -> list[str]:
    found: list[str] = []
    for number, name in enumerate(names, 1):
        if not name or not name.isprintable():
            found.append(f"{what}[{number}]: the name must be a non-empty printable string, got {name!r}")
        if name in names[: number - 1]:
            found.append(f"{what}[{number}]: {name!r} is named twice: remove one or rename it")
    return found


def _lineup_faults(config: Config, model: Model) -> list[str]:
    if not model.lineup:
        return ["name at least one tier"]
    return [f"no [[tier]] is named {tier!r}" for tier in model.lineup if tier not in config.tiers]


def _machine_faults(config: Config, machine: Machine) -> list[str]:
    tier = config.tiers.get(machine.tier)
    if tier is None:
        return [f"tier: no [[tier]] is named {machine.tier!r}"]
    if tier.traits.is_local:
        return _local_faults(tier.provider, machine)
    local = ("command", "environment", "sleep_level", "pair")
    found = [f'{name}: not for provider "{tier.provider}"' for name in local if getattr(machine, name)]
    if tier.traits.needs_instance and not machine.instance:
        found.append(f'instance: a machine of provider "{tier.provider}" needs the provider\'s id for it')
    return [*found, *_endpoint_faults(tier.provider, machine.endpoint)]


def _is_private(url: str) -> bool:
    """Nobody on the way can read what goes there."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"))
    )


def _local_faults(provider: str, machine: Machine) -> list[str]:
    found: list[str] = []
    if not machine.command:
        found.append(
            f'command: a machine of provider "{provider}" needs one, such as ["vllm", "serve", "…", "{{port}}"]'
        )
    elif not any("{port}" in part for part in machine.command):
        found.append('command: nothing in it says "{port}": the engine would not know where to listen')
    if machine.endpoint:
        found.append(f'endpoint: not for provider "{provider}": it follows from {{port}}')
    found += (
        f"environment: {name!r} is no variable's name: only names stand here, never values"
        for name in machine.environment
        if not _VARIABLE.fullmatch(name)
    )
    if machine.pair == "":
        found.append("pair: name it, or leave the key out")
    return found


def _account_faults(config: Config) -> list[str]:
    """Machines without an account, and two names for one."""
    found: list[str] = []
    for provider in sorted({tier.provider for tier in config.tier}):
        hint = traits_of(provider).account_hint
        if hint is not None and config.provider.account(provider) is None:
            found.append(f'provider.{provider}: a tier of provider "{provider}" needs it: {hint}')
    if config.provider.hyperstack is not None and not _is_private(config.provider.hyperstack.base_url):
        url = config.provider.hyperstack.base_url
        found.append(f"provider.hyperstack.base_url: the key goes there: expected https://, got {url!r}")
    seen: dict[tuple[str, str], str] = {}
    for number, machine in enumerate(config.machine, 1):
        tier = config.tiers.get(machine.tier)
        if tier is None or not machine.instance:
            continue
        first = seen.setdefault((tier.provider, machine.instance), machine.id)
        if first != machine.id:
            found.append(f"machine[{number}] ({machine.id}): instance: {machine.instance!r} is machine {first!r}")
    return found


def _schedule_faults(config: Config) -> list[str]:
    """Windows of `keep_warm` that cannot be read."""
    rows = [("waker.keep_warm", config.waker.keep_warm)]
    rows += [(f"tier[{n}] ({t.name}): keep_warm", t.keep_warm or ()) for n, t in enumerate(config.tier, 1)]
    return [
        f"{at}[{number}]: {fault}"
        for at, windows in rows
        for number, text in enumerate(windows, 1)
        if (fault := window_fault(text))
    ]


def _ladder_faults(steps: tuple[Money, ...]) -> list[str]:
    if not steps:
        return ['billing.band_steps: name at least one, such as "1.00", or leave the key out']
    return [
        f"billing.band_steps[{number}]: each step is above the one before it, got {step} after {before}"
        for number, (before, step) in enumerate(zip((Decimal(0), *steps), steps, strict=False), 1)
        if step <= before
    ]


def _budget_faults(config: Config) -> list[str]:
    found: list[str] = []
    share = config.billing.budget_warning
    if not 0 < share <= 1:
        found.append(
            f'billing.budget_warning: a share of the budget, such as "0.8": above 0 and at most 1, got {share}'
        )
    for number, tier in enumerate(config.tier, 1):
        if tier.daily_budget is not None and tier.price_per_hour is None and not tier.traits.has_running_bill:
            found.append(
                f"tier[{number}] ({tier.name}): daily_budget: needs the tier's price_per_hour: without it nobody knows "
                "what it has cost today"
            )
    return found


def _endpoint_faults(provider: str, endpoint: str | None) -> list[str]:
    if endpoint is None:
        return [f'endpoint: a machine of provider "{provider}" needs one, such as "http://10.0.4.11:8000"']
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return [f"endpoint: expected an origin such as http://10.0.4.11:8000, got {endpoint!r}"]
    if parts.path.rstrip("/") or parts.query or parts.fragment:
        return [f"endpoint: an origin has no path: leave out {parts.path!r}"]
    return []


def _least(config: Config) -> list[tuple[str, float, float]]:
    per_address = config.gateway.max_connections_per_address
    rows: list[tuple[str, float, float]] = [
        ("gateway.hold_cap", config.gateway.hold_cap, 0.001),
        ("gateway.max_waiting", config.gateway.max_waiting, 1),
        ("gateway.max_waiting_per_key", config.gateway.max_waiting_per_key, 1),
        ("gateway.heartbeat", config.gateway.heartbeat, 0.1),
        ("gateway.wake_repeat", config.gateway.wake_repeat, 0.1),
        ("gateway.wakes_per_hour", config.gateway.wakes_per_hour, 1),
        ("gateway.workers", config.gateway.workers, 1),
        ("gateway.max_connections", config.gateway.max_connections, 1),
        ("gateway.max_connections_per_address", 1 if per_address is None else per_address, 1),
        ("gateway.max_head_bytes", config.gateway.max_head_bytes, 1024),
        ("gateway.max_body_bytes", config.gateway.max_body_bytes, 1024),
        ("gateway.max_buffered_bytes", config.gateway.max_buffered_bytes, config.gateway.max_body_bytes),
        (
            "gateway.max_buffered_bytes_per_key",
            config.gateway.max_buffered_bytes_per_key,
            config.gateway.max_body_bytes,
        ),
        ("gateway.max_event_bytes", config.gateway.max_event_bytes, 65536),
        *(
            (f"gateway.{name}", getattr(config.gateway, name), 0.1)
            for name in (
                "keepalive_timeout",
                "head_timeout",
                "body_timeout",
                "write_timeout",
                "connect_timeout",
                "first_byte_timeout",
                "read_timeout",
            )
        ),
        ("gateway.outbox_max_bytes", config.gateway.outbox_max_bytes, 65536),
        ("waker.wake_cap", 0.1 if config.waker.wake_cap is None else config.waker.wake_cap, 0.1),
        ("waker.restart_limit", config.waker.restart_limit, 1),
        ("waker.probe_interval", config.waker.probe_interval, 0.01),
        ("waker.gateway_timeout", config.waker.gateway_timeout, 4),
        ("waker.max_cycles_per_hour", config.waker.max_cycles_per_hour or 1, 1),
        ("meter.batch", config.meter.batch, 1),
        # The stream gives again what is up to 40 days old, and it has to be known then.
        ("meter.keep_events", config.meter.keep_events, 40 * DAY_S),
        ("meter.source_silence", config.meter.source_silence, 60),
        ("meter.scrape_interval", config.meter.scrape_interval, 0.1),
        ("billing.bill_interval", config.billing.bill_interval, 0.1),
        ("billing.band_min_tokens", config.billing.band_min_tokens, 1),
    ]
    rows += [(f"billing.source[{n}].every", s.every, 10) for n, s in enumerate(config.billing.source, 1)]
    rows += [(f"tier[{n}].max_concurrency", t.max_concurrency, 1) for n, t in enumerate(config.tier, 1)]
    return rows


def _ports(config: Config) -> list[tuple[str, int]]:
    sections: Mapping[str, ServiceSection] = {
        "gateway": config.gateway,
        "waker": config.waker,
        "meter": config.meter,
        "billing": config.billing,
    }
    rows = [(f"{name}.metrics_port", section.metrics_port) for name, section in sections.items()]
    return [("gateway.port", config.gateway.port), *rows]


def _rate_faults(rates: tuple[CurrencyRate, ...]) -> list[str]:
    found: list[str] = []
    for number, rate in enumerate(rates, 1):
        at = f"billing.rate[{number}]"
        currency = currency_code(rate.currency)
        if not currency.strip() or currency == "USD":
            found.append(f"{at}: currency: name one that is not USD, such as EUR, got {rate.currency!r}")
        if rate.per_usd <= 0:
            found.append(f"{at}: per_usd: must be more than 0, got {rate.per_usd}")
        if not _is_date(rate.from_):
            found.append(f'{at}: from: expected a date such as "2026-01-31", got {rate.from_!r}')
        if (currency, rate.from_) in [(currency_code(other.currency), other.from_) for other in rates[: number - 1]]:
            found.append(f"{at}: {rate.currency} has a rate from {rate.from_} already: remove one")
        if not rate.source.strip():
            found.append(f"{at}: source: say where the rate is from")
    return found


def _source_faults(sources: tuple[InvoiceSource, ...]) -> list[str]:
    found: list[str] = []
    for number, source in enumerate(sources, 1):
        at = f"billing.source[{number}]"
        if not source.name.strip() or not source.name.isprintable():
            found.append(f"{at}: the name must be a non-empty printable string, got {source.name!r}")
        if source.name in [other.name for other in sources[: number - 1]]:
            found.append(f"{at}: {source.name!r} is named twice: each of its deliveries would replace the other's")
        parts = urlsplit(source.url)
        if not source.url or ("://" in source.url and (parts.scheme != "s3" or not parts.netloc)):
            found.append(f"{at}: url: expected a file, a folder or s3://bucket/prefix, got {source.url!r}")
    return found


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
