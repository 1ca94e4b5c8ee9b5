"""A person's own usage, and the same figures as CSV."""

from aiohttp import web

from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.adapters.http.public_pages import csv_table
from services.site.app.own_keys import OwnKeys
from services.site.app.own_usage import OwnUsage, Usage
from services.site.app.own_wakes import MOST_WAKES, OwnWakes
from services.site.core.people import Role


class UsagePages:
    """Handlers of `/account/usage`."""

    def __init__(self, gate: Gate, keys: OwnKeys, usage: OwnUsage, wakes: OwnWakes) -> None:
        self._wakes = wakes
        self._gate = gate
        self._keys = keys
        self._usage = usage

    def table(self) -> list[AccountRoute]:
        page, user = "/account/usage", Role.USER
        return [
            AccountRoute(method="GET", path=page, role=user, handle=self._page, name="usage", label="Usage"),
            AccountRoute(method="GET", path=f"{page}.csv", role=user, handle=self._csv),
        ]

    async def _page(self, visit: Visit) -> web.Response:
        wakes = await self._wakes.read(self._keys.of(visit.person.identity))
        costs = self._keys.wakes_of(visit.person.identity)
        usage = await self._read(visit)
        return self._gate.page(visit, "usage.html", usage=usage, wake_costs=costs, wakes=wakes, most_wakes=MOST_WAKES)

    async def _csv(self, visit: Visit) -> web.Response:
        usage = await self._read(visit)
        name = f"usage-{usage.first}-{usage.last}.csv"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        body = csv_table(usage.table())
        return web.Response(body=body, content_type="text/csv", charset="utf-8", headers=headers)

    async def _read(self, visit: Visit) -> Usage:
        return await self._usage.read(self._keys.of(visit.person.identity))
