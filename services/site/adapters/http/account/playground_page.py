"""The playground: the browser sends a prompt to the gateway itself, with a key that never reaches the site."""

from collections.abc import Sequence

from aiohttp import web

from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.adapters.http.headers import POLICY
from services.site.app.own_usage import OwnUsage
from services.site.core.people import Role


class PlaygroundPage:
    """The handler of `/account/playground`."""

    def __init__(self, gate: Gate, usage: OwnUsage, *, api_url: str, models: Sequence[str]) -> None:
        self._gate = gate
        self._usage = usage
        self._api_url = api_url
        self._models = models
        self._policy = POLICY.replace("connect-src 'self'", f"connect-src 'self' {api_url}")

    def table(self) -> list[AccountRoute]:
        page = "/account/playground"
        return [
            AccountRoute(
                method="GET", path=page, role=Role.USER, handle=self._page, name="playground", label="Playground"
            )
        ]

    async def _page(self, visit: Visit) -> web.Response:
        bands = await self._usage.bands()
        response = self._gate.page(visit, "playground.html", api_url=self._api_url, models=self._models, bands=bands)
        response.headers["Content-Security-Policy"] = self._policy
        return response
