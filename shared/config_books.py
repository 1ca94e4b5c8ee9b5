"""The configuration's parts about invoices: rates of currencies, and where deliveries are fetched from."""

from datetime import date
from urllib.parse import urlsplit

from shared.config_fleet import Section
from shared.values import Duration, Money


class CurrencyRate(Section, frozen=True, kw_only=True, rename={"from_": "from"}):
    """From a UTC day on, one USD is `per_usd` of `currency`."""

    currency: str
    per_usd: Money
    from_: str
    """`YYYY-MM-DD`: charges that begin on it or later, up to the currency's next rate."""
    source: str
    """Who says so, for whoever signs the figures."""


class InvoiceSource(Section, frozen=True, kw_only=True):
    """Deliveries that billing fetches by itself."""

    name: str
    url: str
    """A file, a folder or `s3://bucket/prefix`."""
    every: Duration = Duration(3600)
    region: str | None = None
    """Of an S3 bucket. Absent: by boto3's usual chain, as the credentials are."""
    endpoint_url: str | None = None
    """Of another S3 than AWS's."""
    parts: bool = False
    """The files of a folder without manifests are parts of one snapshot, though they share charges."""
    round: bool = False
    """Billed costs with more than twelve decimals are rounded half to even, not refused."""


def currency_code(text: str) -> str:
    """A code of three letters in capitals; any other name of a currency as it is."""
    return text.upper() if len(text) == 3 and text.isascii() and text.isalpha() else text


def rate_faults(rates: tuple[CurrencyRate, ...]) -> list[str]:
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


def source_faults(sources: tuple[InvoiceSource, ...]) -> list[str]:
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
