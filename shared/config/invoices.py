"""The tables about invoices: exchange rates, and where invoice files are fetched from."""

from typing import Annotated

from shared.config.values import Bounds, Duration, Money, Section
from shared.units import HOUR_S


class CurrencyRate(Section, frozen=True, kw_only=True, rename={"from_": "from"}):
    """From one UTC day on, one USD is worth `per_usd` units of `currency`."""

    currency: str
    per_usd: Money
    from_: str
    """`YYYY-MM-DD`. The rate applies to charges that begin on this day or later, up to the currency's next rate."""
    source: str
    """Where the rate comes from, for the person who signs the figures."""


class InvoiceSource(Section, frozen=True, kw_only=True):
    """A place from which billing fetches invoice files by itself."""

    name: str
    url: str
    """A file, a folder or `s3://bucket/prefix`."""
    every: Annotated[Duration, Bounds(10)] = Duration(HOUR_S)
    region: str | None = None
    """Region of an S3 bucket. Default: from boto3's default chain, as for the credentials."""
    endpoint_url: str | None = None
    """For S3-compatible storage other than AWS's."""
    parts: bool = False
    """Treat the files of a folder without manifests as parts of one snapshot, even if they share charges."""
    round: bool = False
    """Round billed costs with more than twelve decimals half to even instead of rejecting them."""


def currency_code(text: str) -> str:
    """Return a three-letter code in capitals, and any other currency name unchanged."""
    return text.upper() if len(text) == 3 and text.isascii() and text.isalpha() else text
