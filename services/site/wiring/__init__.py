"""Builds the site: the only place that names its concrete classes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.site.adapters.http.public_pages import PublicPages
from services.site.adapters.http.server import serve_site
from services.site.adapters.markdown import MarkdownRenderer, content_files
from services.site.adapters.rendering import Renderer
from services.site.adapters.wake_store import SqlWakeStore
from services.site.app.day_charges import DayChargesPage, charge_rows
from services.site.app.day_trail import DayTrailPage, DayTrails, trail_rows
from services.site.app.economics import EconomicsPage, economics_rows
from services.site.app.feed import Feed
from services.site.app.fleet_views import FleetViews
from services.site.app.live_figures import LiveFigures
from services.site.app.overview import OverviewPage
from services.site.app.page import Page, PublicFile
from services.site.app.pricing import PricingPage, pricing_rows
from services.site.app.report_view import ReportView
from services.site.app.site_index import SiteIndex
from services.site.app.status import StatusPage
from services.site.app.text_pages import TextPages, settings_in_words
from services.site.app.wake_months import WakeHistory
from services.site.metrics import Metrics
from services.site.wiring.accounts import account_routes, open_database
from services.site.wiring.api_url import config_with_api_url
from services.site.wiring.operator import open_fleet
from services.site.wiring.service_levels import open_journal, service_level_pages
from shared.runtime.listener import origin
from shared.runtime.process import Runtime

TRAIL_FRESH_S = 60.0
"""A trail makes billing read a day's charges: however many read it, once a minute."""


@asynccontextmanager
async def service(runtime: Runtime) -> AsyncIterator[None]:
    """Run the site. On exit, responses under way may finish within the drain's grace."""
    runtime.config = await config_with_api_url(runtime)
    config = runtime.config.site
    metrics = Metrics(runtime.registry)
    reports = ReportView(lambda: public.cache.clear())  # noqa: PLW0108 - made below
    views = FleetViews(runtime.config, runtime.bus, now=runtime.now, monotonic=runtime.monotonic)
    status = StatusPage(runtime.config, runtime.bus, views, runtime.now)
    async with (
        open_database(runtime) as engine,
        views.running(),
        open_journal(runtime, engine) as journal,
    ):
        pages = _public_pages(runtime, reports, status, service_level_pages(runtime, engine, reports, status, journal))
        renderer = Renderer(title=config.title, nav=[(page.path, page.label) for page in pages if page.label])
        public = PublicPages(renderer, metrics, runtime.monotonic)
        await reports.start(runtime.bus)
        async with (
            open_fleet(runtime, renderer, views) as fleet,
            account_routes(runtime, renderer, engine, fleet) as accounts,
            serve_site(
                [*public.routes(pages, _public_files(runtime, pages, SqlWakeStore(engine))), *accounts],
                renderer,
                metrics,
                host=config.host,
                port=config.port if runtime.port is None else runtime.port,
                drain_s=config.drain_grace,
                is_https=config.is_https,
                on_drain=fleet.feed.close,
            ) as port,
        ):
            runtime.url = origin(config.host, port)
            # Every replica would lose them at once, and readers the pages that say so.
            for name in ("bus", "views"):
                runtime.health.make_alarm(name)
            yield
        await reports.stop()


def _public_pages(
    runtime: Runtime, reports: ReportView, status: StatusPage, service_levels: Sequence[Page]
) -> list[Page]:
    trails = DayTrails(runtime.bus, reports)
    overview = OverviewPage(runtime.config, reports, status.load)
    figures = LiveFigures(reports)
    texts = TextPages(content_files(), settings_in_words(runtime.config), figures.load, MarkdownRenderer().render)
    return [
        Page(path="/", label="Overview", template="overview.html", load=overview.load),
        Page(
            path="/economics",
            label="Economics",
            template="economics.html",
            load=EconomicsPage(runtime.config, reports).load,
            rows=economics_rows,
        ),
        Page(
            path="/economics/{day:[0-9-]+}",
            template="day_trail.html",
            load=DayTrailPage(trails).load,
            rows=trail_rows,
            fresh_s=TRAIL_FRESH_S,
        ),
        Page(
            path="/economics/{day:[0-9-]+}/charges/{page:[0-9]{1,6}}",
            template="day_charges.html",
            load=DayChargesPage(trails).load,
            rows=charge_rows,
            fresh_s=TRAIL_FRESH_S,
        ),
        Page(
            path="/pricing",
            label="Pricing",
            template="pricing.html",
            load=PricingPage(runtime.config, reports).load,
            rows=pricing_rows,
        ),
        *service_levels,
        *texts.pages(),
    ]


def _public_files(runtime: Runtime, pages: Sequence[Page], history: WakeHistory) -> list[PublicFile]:
    site = runtime.config.site

    def origin_of_site() -> str:
        return site.public_url or runtime.url or ""

    cap_s = float(runtime.config.wake_cap)
    feed = Feed(site.title, origin_of_site, runtime.bus, history, wake_cap_s=cap_s, now=runtime.now)
    return [*SiteIndex(site.title, origin_of_site, pages).files(), feed.file()]
