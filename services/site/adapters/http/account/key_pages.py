"""The pages of a person's keys. A secret is in the answer to one form, and nowhere else."""

import secrets
from collections.abc import Mapping, Sequence

from aiohttp import web

from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.adapters.session_store import SqlSessionStore
from services.site.app.own_keys import OwnKey, OwnKeys
from services.site.app.own_usage import OwnUsage
from services.site.core.key_forms import (
    FIELDS,
    LIMITS,
    OVERLAPS,
    UNBOUNDED,
    FormFault,
    KeyLimits,
    lifetimes,
    new_key,
    overlap_s,
)
from services.site.core.people import Role
from shared.errors import Rejected

KEYS_PAGE = "/account/keys"
NEW_PAGE = "/account/keys/new"


class KeyPages:
    """Handlers of `/account/keys`."""

    def __init__(
        self,
        gate: Gate,
        keys: OwnKeys,
        usage: OwnUsage,
        sessions: SqlSessionStore,
        *,
        models: Sequence[str],
        max_age_s: float | None,
        ceilings: KeyLimits,
    ) -> None:
        """`ceilings`: of the limits of keys that somebody below operator makes."""
        self._gate = gate
        self._keys = keys
        self._usage = usage
        self._sessions = sessions
        self._models = models
        self._max_age_s = max_age_s
        self._ceilings = ceilings

    def table(self) -> list[AccountRoute]:
        user = Role.USER
        one = f"{KEYS_PAGE}/{{key}}"
        return [
            AccountRoute(method="GET", path=KEYS_PAGE, role=user, handle=self._list, name="keys", label="Keys"),
            AccountRoute(method="GET", path=NEW_PAGE, role=user, handle=self._new, name="new-key"),
            AccountRoute(method="POST", path=NEW_PAGE, role=user, handle=self._create, fields=FIELDS),
            AccountRoute(method="GET", path=one, role=user, handle=self._one),
            AccountRoute(method="POST", path=f"{one}/roll", role=user, handle=self._roll, fields=("overlap", "once")),
            AccountRoute(
                method="POST",
                path=f"{one}/revoke",
                role=user,
                handle=self._revoke,
                fields=("sure",),
                is_counted=False,
            ),
        ]

    async def _list(self, visit: Visit) -> web.Response:
        keys = self._keys.of(visit.person.identity)
        last_days = await self._usage.last_days(keys)
        return self._gate.page(visit, "keys.html", keys=keys, last_days=last_days)

    async def _new(self, visit: Visit) -> web.Response:
        return self._form(visit, {}, None)

    async def _create(self, visit: Visit) -> web.Response:
        form = visit.form
        try:
            ceilings = self._ceilings_for(visit)
            key = new_key(form, models=self._models, max_age_s=self._max_age_s, ceilings=ceilings, now=visit.now)
            if not await self._is_first(visit):
                return self._made_already(visit)
            key_id, secret = await self._keys.create(visit.person, key)
        except (FormFault, Rejected) as error:
            return self._form(visit, form, str(error))
        await self._gate.record(visit, "key_created", target=key_id)
        return self._gate.page(visit, "key_made.html", secret=secret, key_id=key_id, name=key.name, is_new=True)

    async def _one(self, visit: Visit) -> web.Response:
        return self._page_of(visit, self._own(visit), None)

    async def _roll(self, visit: Visit) -> web.Response:
        own = self._own(visit)
        try:
            length_s = overlap_s(visit.form)
            if not await self._is_first(visit):
                return self._made_already(visit)
            secret = await self._keys.roll(
                visit.person, own.record, overlap_s=length_s, ceilings=self._ceilings_for(visit)
            )
        except (FormFault, Rejected) as error:
            return self._page_of(visit, own, str(error))
        await self._gate.record(visit, "key_rolled", target=own.record.id)
        return self._gate.page(
            visit, "key_made.html", secret=secret, key_id=own.record.id, name=own.record.name, is_new=False
        )

    async def _revoke(self, visit: Visit) -> web.Response:
        own = self._own(visit)
        if visit.form.get("sure") != "yes":
            return self._page_of(visit, own, "Tick the box first: nobody can take a revocation back.")
        if own.state != "revoked":
            await self._keys.revoke(own.record.id, visit.person)
            await self._gate.record(visit, "key_revoked", target=own.record.id)
        return web.Response(status=303, headers={"Location": KEYS_PAGE})

    def _ceilings_for(self, visit: Visit) -> KeyLimits:
        return UNBOUNDED if visit.person.role >= Role.OPERATOR else self._ceilings

    def _own(self, visit: Visit) -> OwnKey:
        """Another's key is as little there as one that never was."""
        own = self._keys.find(visit.person.identity, visit.request.match_info["key"])
        if own is None:
            raise web.HTTPNotFound
        return own

    async def _is_first(self, visit: Visit) -> bool:
        """Whether this form is sent for the first time: a reload sends it again, and must make nothing."""
        return await self._sessions.send_form(f"{visit.cookie} {visit.form.get('once', '')}", visit.now)

    def _made_already(self, visit: Visit) -> web.Response:
        return self._gate.page(visit, "key_made_already.html", status=409)

    def _form(self, visit: Visit, form: Mapping[str, str], fault: str | None) -> web.Response:
        return self._gate.page(
            visit,
            "key_new.html",
            status=200 if fault is None else 400,
            models=self._models,
            limits=LIMITS,
            ceilings=self._ceilings_for(visit),
            lifetimes=lifetimes(self._max_age_s),
            once=secrets.token_urlsafe(16),
            form=form,
            fault=fault,
        )

    def _page_of(self, visit: Visit, own: OwnKey, fault: str | None) -> web.Response:
        return self._gate.page(
            visit,
            "key.html",
            status=200 if fault is None else 400,
            key=own,
            overlaps=OVERLAPS,
            once=secrets.token_urlsafe(16),
            fault=fault,
        )
