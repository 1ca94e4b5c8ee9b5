"""What happened and whether it adds up: the journal, a day's audited counts, the invoices that do not tie."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

from aiohttp import web

from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.adapters.http.operator.paths import listed_page, number_in
from services.site.app.journal_pages import read_journal_page
from services.site.app.own_keys import OwnKeys
from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import BILLING_INVOICES, audit_key
from shared.bus.topology import REPORTS
from shared.errors import BusUnavailable, Rejected
from shared.journal_words import describe_entry, subject_of
from shared.key_names import names_by_key_id
from shared.messages.codec import Unreadable, decode
from shared.messages.invoices import Invoices, InvoicesQuery
from shared.messages.meter_audit import Audit
from shared.units import DAY_S

REPLY_S = 10.0
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class BookPages:
    """Handlers of `/operator/journal`, `/operator/counts` and `/operator/invoices`. They only read."""

    def __init__(self, gate: Gate, bus: Bus, keys: OwnKeys) -> None:
        self._gate = gate
        self._keys = keys
        self._bus = bus

    def table(self) -> list[AccountRoute]:
        return [
            listed_page("/operator/journal", self._journal, "Journal"),
            listed_page("/operator/counts", self._counts, "Counts"),
            listed_page("/operator/invoices", self._invoices, "Invoices"),
        ]

    async def _journal(self, visit: Visit) -> web.Response:
        before = number_in(visit.request, "before")
        page = await read_journal_page(self._bus, before)
        names = names_by_key_id(self._keys.records())
        entries = [(entry.at, subject_of(entry), describe_entry(entry, names)) for entry in page.entries]
        return self._gate.page(
            visit,
            "operator_journal.html",
            entries=entries,
            unreadable=page.unreadable,
            older=page.older,
            is_newest=before is None,
        )

    async def _counts(self, visit: Visit) -> web.Response:
        """The chain of a day as the meter audited it last. It is never counted again for a page."""
        day = _day(visit.request.query.get("day"), visit.now)
        audit = None
        entry = await self._bus.get(REPORTS, audit_key(day.isoformat()))
        if entry is not None:
            with suppress(Unreadable):  # of another version: shown as missing
                audit = decode(entry.value, Audit)
        return self._gate.page(
            visit,
            "operator_counts.html",
            day=day.isoformat(),
            earlier=(day - timedelta(days=1)).isoformat(),
            later=(day + timedelta(days=1)).isoformat(),
            audit=audit,
        )

    async def _invoices(self, visit: Visit) -> web.Response:
        invoices, fault = None, None
        try:
            invoices = await request_reply(
                self._bus, BILLING_INVOICES, InvoicesQuery(), Invoices, timeout=REPLY_S, patience_s=0.0
            )
        except (BusUnavailable, Rejected) as error:
            fault = str(error)
        return self._gate.page(visit, "operator_invoices.html", invoices=invoices, fault=fault)


def _day(text: str | None, now: float) -> date:
    """Return the day in a query, yesterday if there is none. Raises `HTTPNotFound`."""
    if text is None:
        return datetime.fromtimestamp(now - DAY_S, UTC).date()
    try:
        if DAY.fullmatch(text) is None:
            raise ValueError
        day = date.fromisoformat(text)
    except ValueError:
        raise web.HTTPNotFound from None
    if not date(2020, 1, 2) <= day <= date(2200, 1, 1):
        raise web.HTTPNotFound
    return day
