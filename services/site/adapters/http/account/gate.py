"""The one way to a page behind the sign-in: whose session it is, what role the route needs, whose form was sent."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from urllib.parse import urlencode

from aiohttp import web

from services.site.adapters.audit_log import SqlAuditLog
from services.site.adapters.http.account.cookies import Cookies
from services.site.adapters.http.server import PAGE, error_page
from services.site.adapters.rendering import Renderer
from services.site.adapters.session_store import Session, SqlSessionStore
from services.site.app.attempts import Attempts
from services.site.core.origins import client_address, form_token, is_form_token, is_own_request, network_of
from services.site.core.people import Person, Role

FORM_TYPE = "application/x-www-form-urlencoded"
TOKEN_FIELD = "token"  # noqa: S105 - the name of a field
FORMS_PER_MINUTE = 60
"""Of one person, but those that end access: each may write to the bus and to the audit."""
FORM_S = 10.0
"""How long a form may take to arrive."""
MAX_FORWARDED = 20
"""Addresses in `X-Forwarded-For` that are looked at, from the last."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A request of somebody who is signed in, and whose role the route accepts."""

    request: web.Request
    person: Person
    session: Session
    cookie: str = field(repr=False)
    now: float
    form: Mapping[str, str] = field(default_factory=dict)
    """The form's fields, each at most once, and only those that the route names; without the token."""

    def token_for(self, path: str) -> str:
        """Return the token of a form that is sent to `path`."""
        return form_token(self.cookie, path)


Handle = Callable[[Visit], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, kw_only=True)
class AccountRoute:
    """One page or form behind the sign-in. All of them stand in tables, which a test walks as each role."""

    method: str
    """`GET` or `POST`."""
    path: str
    role: Role
    """The least that may use it."""
    handle: Handle
    name: str | None = None
    """Of a page to which a sign-in may return."""
    label: str | None = None
    """Its name among the links of every page behind the sign-in; without one it is not among them."""
    fields: tuple[str, ...] = ()
    """Of the form. `model:*` stands for every field that begins with `model:`."""
    is_counted: bool = True
    """Whether its forms count against a person's bound. Not where access ends: a thief with a cookie would use the
    bound up, and its owner had to wait."""


class Gate:
    """Lets visits through to the handlers of a table of routes."""

    def __init__(
        self,
        renderer: Renderer,
        sessions: SqlSessionStore,
        audit: SqlAuditLog,
        cookies: Cookies,
        forms: Attempts,
        *,
        origin: Callable[[], str],
        trusted_proxies: Sequence[str],
        now: Callable[[], float],
    ) -> None:
        self._renderer = renderer
        self._sessions = sessions
        self._audit = audit
        self._cookies = cookies
        self._forms = forms
        self._origin = origin
        self._trusted = [ip_network(proxy) for proxy in trusted_proxies]
        self._now = now
        self._links: list[tuple[str, str, Role]] = []

    def routes(self, table: Iterable[AccountRoute]) -> list[web.RouteDef]:
        """Return aiohttp's routes, and add the table's labels to the links of every page."""
        routes = []
        for route in table:
            if route.label is not None:
                self._links.append((route.path, route.label, route.role))
            routes.append(web.route(route.method, route.path, self._handler(route), name=route.name))
        return routes

    def page(self, visit: Visit, template: str, *, status: int = 200, **values: object) -> web.Response:
        """Return a page behind the sign-in. No cache keeps it."""
        links = [(path, label) for path, label, role in self._links if visit.person.role >= role]
        text = self._renderer.render(
            template,
            path=visit.request.path,
            person=visit.person,
            links=links,
            token_for=visit.token_for,
            now=visit.now,
            **values,
        )
        return web.Response(status=status, text=text, content_type="text/html")

    async def record(self, visit: Visit, action: str, *, target: str = "", detail: str = "") -> None:
        """Add a row to the audit."""
        await self._audit.record(
            visit.now,
            person=visit.person.identity,
            login=visit.person.login,
            action=action,
            target=target,
            detail=detail,
            network=network_of(self.address(visit.request)),
        )

    def address(self, request: web.Request) -> str:
        """Return the client's address, as far as it is trusted."""
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
        addresses = [address.strip() for address in forwarded[-MAX_FORWARDED:]]
        return client_address(request.remote or "", addresses, self._trusted)

    def is_own(self, request: web.Request) -> bool:
        """Return whether a page of this site sent the request."""
        headers = request.headers
        return is_own_request(headers.get("Sec-Fetch-Site"), headers.get("Origin"), self._origin())

    def _handler(self, route: AccountRoute) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            request[PAGE] = route.path
            if route.method != "GET" and not self.is_own(request):
                return self._refuse(403, "This form was not sent from this site. Open its page and send it from there.")
            cookie, now = self._cookies.session(request), self._now()
            visitor = None if cookie is None else await self._sessions.find(cookie, now)
            if cookie is None or visitor is None:
                response = self._to_sign_in(route)
                if cookie is not None:
                    self._cookies.clear_session(response)
                return response
            person, session = visitor
            if person.role < route.role:
                return self._refuse(403, f"This page is for the role {route.role.label}.")
            form = {} if route.method == "GET" else await self._form(request, route, person, cookie)
            if isinstance(form, web.Response):
                return form
            return await route.handle(
                Visit(request=request, person=person, session=session, cookie=cookie, now=now, form=form)
            )

        return handle

    async def _form(
        self, request: web.Request, route: AccountRoute, person: Person, cookie: str
    ) -> dict[str, str] | web.Response:
        """Return the fields of a form without its token, or the refusal."""
        if route.is_counted and not self._forms.admit(person.identity):
            return self._refuse(429, "You sent too many forms. Try again in a minute.")
        form = await _read_form(request, route.fields)
        if isinstance(form, str):
            return self._refuse(400, form)
        if not is_form_token(form.pop(TOKEN_FIELD, ""), cookie, request.path):
            return self._refuse(403, "This form is of another session. Open its page again and send it anew.")
        return form

    def _refuse(self, status: int, words: str) -> web.Response:
        return error_page(self._renderer, status, words)

    def _to_sign_in(self, route: AccountRoute) -> web.Response:
        """To the sign-in, and from there back to the page; to the first one instead of a form."""
        query = f"?{urlencode({'next': route.name})}" if route.name is not None else ""
        return web.Response(status=303, headers={"Location": f"/sign-in{query}"})


async def _read_form(request: web.Request, names: Sequence[str]) -> dict[str, str] | str:
    """Return the fields of a form, or what is wrong with it."""
    is_plain = request.headers.get("Content-Encoding", "identity").lower() == "identity"
    if not is_plain or request.content_type != FORM_TYPE or (request.charset or "utf-8").lower() != "utf-8":
        return f"A form is sent as {FORM_TYPE}, in UTF-8 and uncompressed."
    try:
        async with asyncio.timeout(FORM_S):
            fields = await request.post()
    except (TimeoutError, UnicodeDecodeError) as error:
        late = isinstance(error, TimeoutError)
        return "The form did not arrive in time. Send it again." if late else "The form is not text in UTF-8."
    form: dict[str, str] = {}
    for name, value in fields.items():
        if not any(
            name == known or (known.endswith("*") and name.startswith(known[:-1])) for known in (*names, "token")
        ):
            return "The form has a field that this page does not have. Open its page again."
        if name in form or not isinstance(value, str):
            return "The form has a field twice. Open its page again."
        form[name] = value
    return form
