"""All keys, whoever made them: searched, sorted, revoked."""

from aiohttp import web

from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.adapters.http.operator.asking import Asker, Question
from services.site.adapters.http.operator.paths import listed_page
from services.site.adapters.people_store import SqlPeopleStore
from services.site.app.all_keys import MOST_SHOWN, SORTS, USED_DAYS, list_keys, read_last_days
from services.site.app.own_keys import OwnKeys
from shared.bus.ports import Bus
from shared.errors import Rejected

MAX_SEARCH = 100


class AllKeyPages:
    """Handlers of `/operator/keys`."""

    def __init__(self, gate: Gate, bus: Bus, keys: OwnKeys, people: SqlPeopleStore) -> None:
        self._gate = gate
        self._bus = bus
        self._keys = keys
        self._people = people

    def table(self) -> list[AccountRoute]:
        return [
            listed_page("/operator/keys", self._list, "All keys"),
            *Asker(self._gate).routes("/operator/keys/{key}/revoke", self._ask),
        ]

    async def _list(self, visit: Visit) -> web.Response:
        query = visit.request.query
        search, sort = query.get("search", "").strip()[:MAX_SEARCH], query.get("sort", "name")
        last_days = await read_last_days(self._bus, visit.now)
        logins = {person.identity: person.login for person in await self._people.list_people()}
        keys = list_keys(self._keys.all(), logins, last_days or {}, search=search, sort=sort)
        return self._gate.page(
            visit,
            "operator_keys.html",
            keys=keys[:MOST_SHOWN],
            found=len(keys),
            search=search,
            sort=sort,
            sorts=SORTS,
            used_days=USED_DAYS,
            knows_use=last_days is not None,
        )

    async def _ask(self, visit: Visit) -> Question:
        key_id = visit.request.match_info["key"]
        key = next((key for key in self._keys.all() if key.record.id == key_id), None)
        if key is None:
            raise web.HTTPNotFound

        async def do(_reason: str) -> None:
            if not await self._keys.revoke(key_id, visit.person):
                raise Rejected("no key has this id any more")

        return Question(
            title=f"Revoke {key.record.name or key_id}?",
            words="All its secrets are refused within a second, for good. Requests that run finish.",
            button="Revoke it",
            back="/operator/keys",
            action="key_revoked_by_operator",
            target=key_id,
            do=do,
        )
