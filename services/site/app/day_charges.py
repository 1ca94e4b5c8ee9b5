"""The charges of one day, one by one, a page at a time."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from services.site.app.day_trail import DayTrails
from shared.messages.billing import CAUSES
from shared.messages.trail import Trail, TrailCharge

PAGE = 200
"""Charges on a page: some 50 KB."""
COLUMNS = (
    "number",
    "start",
    "end",
    "category",
    "service",
    "source",
    "delivery_sha256",
    "rows",
    "billed",
    "currency",
    "per_usd",
    "amount_usd",
    "tier",
    *(f"{cause}_usd" for cause in CAUSES),
)


class DayCharges(msgspec.Struct, frozen=True, kw_only=True):
    """What `/economics/<day>/charges/<page>` shows, and its JSON."""

    day: str
    page: int
    pages: int
    first: int
    """The number of the first charge here, from 1."""
    all_charges: int
    revision: int | None
    """Of the figures that the charges sum to; None: billing does not answer now."""
    published_revision: int
    charges: tuple[TrailCharge, ...]


class DayChargesPage:
    """Loads a page of one published day's charges."""

    def __init__(self, trails: DayTrails) -> None:
        self._trails = trails

    async def load(self, variables: Mapping[str, str]) -> DayCharges | None:
        published = self._trails.published(variables["day"])
        page = int(variables["page"])
        if published is None or page < 1 or str(page) != variables["page"]:
            return None
        first = (page - 1) * PAGE
        trail = await self._trails.trail(published.figures.day, charges_from=first, most_charges=PAGE)
        if trail is not None and page > max(1, pages_of(trail)):
            return None
        return DayCharges(
            day=published.figures.day,
            page=page,
            pages=1 if trail is None else max(1, pages_of(trail)),
            first=first + 1,
            all_charges=0 if trail is None else trail.all_charges,
            revision=None if trail is None else trail.revision,
            published_revision=published.figures.revision,
            charges=() if trail is None else trail.charges,
        )


def pages_of(trail: Trail) -> int:
    return -(-trail.all_charges // PAGE)


def charge_rows(page: DayCharges) -> Iterator[Sequence[object]]:
    """A line for each tier that a charge went to; `amount_usd` is that tier's part, and the causes sum to it."""
    yield COLUMNS
    for number, charge in enumerate(page.charges, page.first):
        by_tier: dict[str | None, dict[str, object]] = {}
        for part in charge.parts:
            by_tier.setdefault(part.tier, {})[part.cause] = part.amount
        for tier, causes in (by_tier or {None: {}}).items():
            amounts = [part.amount for part in charge.parts if part.tier == tier]
            yield (
                number,
                charge.start,
                charge.end,
                charge.category,
                charge.service,
                charge.source,
                charge.delivery,
                charge.rows,
                charge.billed,
                charge.currency,
                charge.per_usd,
                sum(amounts) if amounts else charge.amount,
                tier,
                *(causes.get(cause) for cause in CAUSES),
            )
