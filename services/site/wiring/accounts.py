"""Builds the sign-in, and everything behind it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial

import aiohttp
import msgspec
import structlog
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncEngine

from services.site.adapters.account_issuers import bind_issuers
from services.site.adapters.audit_log import SqlAuditLog
from services.site.adapters.database_check import DatabaseCheck
from services.site.adapters.http.account.cookies import Cookies
from services.site.adapters.http.account.gate import FORMS_PER_MINUTE, Gate
from services.site.adapters.http.account.key_pages import KeyPages
from services.site.adapters.http.account.playground_page import PlaygroundPage
from services.site.adapters.http.account.session_pages import SessionPages
from services.site.adapters.http.account.sign_in_pages import SignInPages
from services.site.adapters.http.account.usage_pages import UsagePages
from services.site.adapters.identity.github import GithubProvider
from services.site.adapters.identity.oidc import OidcProvider
from services.site.adapters.people_store import SqlPeopleStore
from services.site.adapters.rendering import Renderer
from services.site.adapters.schema import MIGRATIONS, SITE_FILE, VERSION_TABLE
from services.site.adapters.session_store import SqlSessionStore
from services.site.adapters.wake_store import SqlWakeStore
from services.site.app.attempts import Attempts
from services.site.app.own_keys import OwnKeys
from services.site.app.own_usage import OwnUsage
from services.site.app.own_wakes import OwnWakes
from services.site.app.sign_in import SignIn
from services.site.core.key_forms import UNBOUNDED, KeyLimits
from services.site.core.people import SessionLimits, SignupPolicy
from services.site.ports import IdentityProvider
from services.site.wiring.operator import Fleet, operator_table
from shared import database
from shared.config.identity import KeyLimitsSection
from shared.config.load import environment
from shared.config.sections import SiteSection
from shared.errors import Misconfigured
from shared.runtime.process import Runtime

log = structlog.get_logger()


@asynccontextmanager
async def open_database(runtime: Runtime) -> AsyncIterator[AsyncEngine]:
    """The site's database, migrated and watched. It is awaited for ever; lost later, it is an alarm."""
    url = database.database_url(runtime.config, runtime.data_dir, SITE_FILE)
    on_fault = partial(runtime.health.report, "database")
    async with database.migrated_engine(url, MIGRATIONS, version_table=VERSION_TABLE, on_fault=on_fault) as engine:
        check = DatabaseCheck(engine)
        runtime.health.add_alarm("database", lambda: check.fault)
        async with check.running():
            yield engine


@asynccontextmanager
async def account_routes(
    runtime: Runtime, renderer: Renderer, engine: AsyncEngine, fleet: Fleet
) -> AsyncIterator[list[web.RouteDef]]:
    """The routes of the sign-in and of everything behind it, and what they stand on."""
    config = runtime.config.site
    if config.warning is not None:
        log.warning("keys_unlimited", reason=config.warning)
    await bind_issuers(engine, _issuers(config))
    renderer.has_sign_in(config.github is not None or config.oidc is not None)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http, _own_keys(runtime) as keys:
        yield _account_routes(runtime, renderer, engine, http, keys=keys, fleet=fleet)


@asynccontextmanager
async def _own_keys(runtime: Runtime) -> AsyncIterator[OwnKeys]:
    keys = OwnKeys(runtime.bus, now=runtime.now, monotonic=runtime.monotonic)
    try:
        await keys.start()
        yield keys
    finally:
        await keys.stop()


def _account_routes(
    runtime: Runtime,
    renderer: Renderer,
    engine: AsyncEngine,
    http: aiohttp.ClientSession,
    *,
    keys: OwnKeys,
    fleet: Fleet,
) -> list[web.RouteDef]:
    """The sign-in and everything behind it."""
    config, now = runtime.config.site, runtime.now
    policy = _policy(config)
    sessions = SqlSessionStore(engine, policy, SessionLimits(config.session_idle, config.session_max))
    people, audit, cookies = SqlPeopleStore(engine, policy), SqlAuditLog(engine), Cookies(is_https=config.is_https)
    own_origin = partial(_origin, runtime)
    forms = Attempts(runtime.monotonic, per_minute=FORMS_PER_MINUTE)
    proxies = config.trusted_proxies
    gate = Gate(renderer, sessions, audit, cookies, forms, origin=own_origin, trusted_proxies=proxies, now=now)
    sign_in = SignIn(_providers(config, http, policy), people, policy, origin=own_origin, now=now)
    sign_in_pages = SignInPages(
        gate=gate,
        renderer=renderer,
        sign_in=sign_in,
        sessions=sessions,
        audit=audit,
        cookies=cookies,
        attempts=Attempts(runtime.monotonic),
        now=now,
    )
    usage = OwnUsage(runtime.bus, now=now, monotonic=runtime.monotonic)
    wakes = OwnWakes(SqlWakeStore(engine), cap_s=float(runtime.config.wake_cap), now=now)
    models = sorted(runtime.config.models)
    ceilings = _ceilings(config.key_limits)
    tables = [
        *KeyPages(gate, keys, usage, sessions, models=models, max_age_s=config.key_max_age, ceilings=ceilings).table(),
        *UsagePages(gate, keys, usage, wakes).table(),
        *PlaygroundPage(gate, usage, api_url=runtime.config.api_url, models=models).table(),
        *SessionPages(gate, sessions, audit, review_url=_review_url(config)).table(),
        *sign_in_pages.table(),
        *operator_table(runtime, gate, fleet, keys, sessions=sessions, people=people, audit=audit),
    ]
    sign_in_pages.names = frozenset(route.name for route in tables if route.name is not None)
    return [*sign_in_pages.open_routes(), *gate.routes(tables)]


def _issuers(config: SiteSection) -> dict[str, tuple[str, str]]:
    """Return the setting that names the issuer of each provider, and the issuer."""
    issuers = {}
    if config.github is not None:
        issuers["github"] = "site.github.web_url", config.github.web_url.rstrip("/")
    if config.oidc is not None:
        issuers["oidc"] = "site.oidc.issuer", config.oidc.issuer
    return issuers


def _ceilings(section: KeyLimitsSection | None) -> KeyLimits:
    if section is None:
        return UNBOUNDED
    cost = None if section.wake_cost_per_day is None else Decimal(section.wake_cost_per_day)  # as messages carry it
    return KeyLimits(**(msgspec.structs.asdict(section) | {"wake_cost_per_day": cost}))


def _policy(config: SiteSection) -> SignupPolicy:
    return SignupPolicy(
        signup=config.signup,
        allowed=frozenset(config.allowed),
        organisations=frozenset(config.organisations),
        operators=frozenset(config.operators),
        viewers=frozenset(config.viewers),
    )


def _providers(config: SiteSection, http: aiohttp.ClientSession, policy: SignupPolicy) -> dict[str, IdentityProvider]:
    providers: list[IdentityProvider] = []
    if config.github is not None:
        secret = _secret("GITHUB_CLIENT_SECRET", "site.github")
        reads = policy.needs_organisations
        providers.append(GithubProvider(http, config.github, secret, reads_organisations=reads))
    if config.oidc is not None:
        providers.append(OidcProvider(http, config.oidc, _secret("OIDC_CLIENT_SECRET", "site.oidc")))
    return {provider.name: provider for provider in providers}


def _secret(name: str, section: str) -> str:
    secret = environment(name)
    if not secret:
        raise Misconfigured(f"{section} needs the client's secret: set {name}, or {name}_FILE to a file with it")
    return secret


def _review_url(config: SiteSection) -> str | None:
    if config.github is None:
        return None
    return f"{config.github.web_url.rstrip('/')}/settings/connections/applications/{config.github.client_id}"


def _origin(runtime: Runtime) -> str:
    """Return the origin at which browsers reach the site; known once it listens."""
    return runtime.config.site.public_url or runtime.url or ""
