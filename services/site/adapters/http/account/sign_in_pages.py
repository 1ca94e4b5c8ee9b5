"""The pages of the sign-in: which provider, to it and back, and the end of a session."""

from collections.abc import Callable, Collection

from aiohttp import web

from services.site.adapters.audit_log import SqlAuditLog
from services.site.adapters.http.account.cookies import Cookies
from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.adapters.http.server import PAGE, error_page
from services.site.adapters.rendering import Renderer
from services.site.adapters.session_store import SqlSessionStore
from services.site.app.attempts import Attempts
from services.site.app.sign_in import Refused, SignedIn, SignIn, sha256
from services.site.core.origins import network_of
from services.site.core.people import Role
from services.site.ports import ProviderFailed, SignInFailed

FIRST_PAGE = "account"
"""The name of the route to which a sign-in leads if none was asked for."""


class SignInPages:
    """Handlers of `/sign-in` and `/sign-out`."""

    def __init__(
        self,
        *,
        gate: Gate,
        renderer: Renderer,
        sign_in: SignIn,
        sessions: SqlSessionStore,
        audit: SqlAuditLog,
        cookies: Cookies,
        attempts: Attempts,
        now: Callable[[], float],
    ) -> None:
        self._gate = gate
        self._renderer = renderer
        self._sign_in = sign_in
        self._sessions = sessions
        self._audit = audit
        self._cookies = cookies
        self._attempts = attempts
        self._now = now
        self.names: Collection[str] = ()
        """Of the routes to which a sign-in may lead."""

    def open_routes(self) -> list[web.RouteDef]:
        """Routes without a session."""
        return [
            web.get("/sign-in", self._choose),
            web.get("/sign-in/{provider}", self._begin),
            web.get("/sign-in/{provider}/callback", self._finish),
        ]

    def table(self) -> list[AccountRoute]:
        user = Role.USER
        return [AccountRoute(method="POST", path="/sign-out", role=user, handle=self._sign_out, is_counted=False)]

    async def _choose(self, request: web.Request) -> web.Response:
        request[PAGE] = "/sign-in"
        return self._page(200, None, self._next(request))

    async def _begin(self, request: web.Request) -> web.Response:
        request[PAGE] = "/sign-in/{provider}"
        provider = self._provider(request)
        if not self._attempts.admit(network_of(self._gate.address(request))):
            return self._page(429, "Too many sign-ins began from your network. Try again in a minute.", FIRST_PAGE)
        try:
            begun = await self._sign_in.begin(provider, self._next(request))
        except SignInFailed as error:
            return self._page(503, str(error), self._next(request))
        response = web.Response(status=303, headers={"Location": begun.url})
        self._cookies.set_sign_ins(response, [*self._cookies.sign_ins(request, self._now()), begun.pending])
        return response

    async def _finish(self, request: web.Request) -> web.Response:
        request[PAGE] = "/sign-in/{provider}/callback"
        provider = self._provider(request)
        if len(set(request.query)) != len(request.query):
            return self._page(400, "The provider sent a value twice.", FIRST_PAGE)
        state = sha256(request.query.get("state", ""))
        under_way = self._cookies.sign_ins(request, self._now())
        own = next((pending for pending in under_way if sha256(pending.state) == state), None)
        try:
            signed_in = await self._sign_in.finish(provider, request.query, own)
        except Refused as refused:
            await self._record(
                request, refused.profile.identity, refused.profile.login, "sign_in_refused", str(refused)
            )
            response = self._page(403, str(refused), FIRST_PAGE)
        except ProviderFailed as error:
            response = self._page(503, str(error), FIRST_PAGE)
        except SignInFailed as error:
            response = self._page(400, str(error), FIRST_PAGE)
        else:
            response = await self._open(request, signed_in)
        if own is not None:  # used once; those of other tabs go on, whatever link somebody followed
            self._cookies.set_sign_ins(response, [pending for pending in under_way if pending is not own])
        return response

    async def _open(self, request: web.Request, signed_in: SignedIn) -> web.Response:
        person = signed_in.person
        cookie, length_s = await self._sessions.open(
            person,
            self._now(),
            network=network_of(self._gate.address(request)),
            user_agent=request.headers.get("User-Agent", ""),
            replaced=self._cookies.session(request),
        )
        await self._record(request, person.identity, person.login, "signed_up" if signed_in.is_new else "signed_in")
        name = signed_in.next if signed_in.next in self.names else FIRST_PAGE
        response = web.Response(status=303, headers={"Location": str(request.app.router[name].url_for())})
        self._cookies.set_session(response, cookie, length_s)
        return response

    async def _sign_out(self, visit: Visit) -> web.Response:
        await self._sessions.end(visit.person.identity, visit.now, why="signed out", only=visit.session.id)
        await self._gate.record(visit, "signed_out")
        response = web.Response(status=303, headers={"Location": "/sign-in"})
        self._cookies.clear_session(response)
        return response

    async def _record(self, request: web.Request, person: str, login: str, action: str, detail: str = "") -> None:
        network = network_of(self._gate.address(request))
        await self._audit.record(self._now(), person=person, login=login, action=action, network=network, detail=detail)

    def _provider(self, request: web.Request) -> str:
        provider = request.match_info["provider"]
        if provider not in self._sign_in.providers:
            raise web.HTTPNotFound
        return provider

    def _next(self, request: web.Request) -> str:
        """A route's name and never a URL: what is not one of ours leads to the first page."""
        name = request.query.get("next", "")
        return name if name in self.names else FIRST_PAGE

    def _page(self, status: int, fault: str | None, next_name: str) -> web.Response:
        if not self._sign_in.providers:
            return error_page(self._renderer, 404, "Nobody can sign in here: no provider is configured.")
        providers = [(provider.name, provider.label) for provider in self._sign_in.providers.values()]
        text = self._renderer.render("sign_in.html", path="", providers=providers, fault=fault, next=next_name)
        return web.Response(status=status, text=text, content_type="text/html")
