"""The configuration's parts about invoices: rates of currencies, and where deliveries are fetched from."""

from shared.config.section import Section
from shared.config.values import Duration, Money
from shared.units import HOUR_S


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
    every: Duration = Duration(HOUR_S)
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
