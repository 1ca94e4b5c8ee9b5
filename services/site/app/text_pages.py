"""Pages of prose: learn, glossary and the API. Settings stand in them by name; so do figures."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache

import msgspec

from services.site.app.live_figures import LiveFigure
from services.site.app.page import Page
from services.site.core.text import FIGURE, Text, library_of, resolve
from shared.config.sections import Config
from shared.report_forms.words import format_count

LABELS = {"/api": "API", "/learn": "Learn", "/glossary": "Glossary"}
"""The pages that every page links to, in this order."""
FRESH_S = 3600.0
"""Nothing in them changes while the process runs."""
LIVE_FRESH_S = 60.0
"""Of a page that has figures of the books."""


class TextPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of prose as it is shown."""

    title: str
    html: str
    markdown: str
    parents: list[tuple[str, str]]
    """Paths and titles of the pages above it, the topmost first."""


def settings_in_words(config: Config) -> dict[str, str]:
    """Return what prose says of the configuration, by name."""
    models = sorted(config.models)
    return {
        "api_url": config.api_url,
        "model": models[0] if models else "MODEL",
        "hold_cap": duration(config.gateway.hold_cap),
        "client_timeout_s": f"{1.5 * config.gateway.hold_cap:g}",
        "wake_cap": duration(config.wake_cap),
        "headers_held": duration(config.gateway.headers_held),
        "heartbeat": duration(config.gateway.heartbeat),
        "idle_timeout": duration(config.waker.idle_timeout),
        "restart_limit": str(config.waker.restart_limit),
        "booting_limit": duration(config.waker.booting_limit),
        "reaching_limit": duration(config.waker.reaching_limit),
        "loading_limit": duration(config.waker.loading_limit),
        "first_token_limit": duration(config.waker.first_token_limit),
        "calling_limit": duration(2 * config.waker.call_timeout),
        "observation_timeout": duration(config.billing.observation_timeout),
        "bill_interval": duration(config.billing.bill_interval),
        "scrape_interval": duration(config.meter.scrape_interval),
        "wakes_per_hour": str(config.gateway.wakes_per_hour),
        "wake_cost_per_day": f"{config.gateway.wake_cost_per_day} USD",
        "max_waiting": str(config.gateway.max_waiting),
        "max_waiting_per_key": str(config.gateway.max_waiting_per_key),
        "band_min_tokens": format_count(config.billing.band_min_tokens),
        **{f"weight_{name}": str(weight) for name, weight in config.billing.direction_weights.items()},
    }


def duration(seconds: float) -> str:
    """Return a time as prose says it: `10 minutes`, `0.25 seconds`."""
    for unit, size in (("hour", 3600.0), ("minute", 60.0)):
        if seconds >= size and seconds % size == 0:
            return _counted(seconds / size, unit)
    return _counted(seconds, "second")


def _counted(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


class TextPages:
    """Everything that is prose."""

    def __init__(
        self,
        files: Mapping[str, str],
        settings: Mapping[str, str],
        live: Callable[[], Awaitable[Mapping[str, LiveFigure]]],
        render: Callable[[str], str],
    ) -> None:
        """`files`: Markdown by its path; `live`: figures that change; `render` makes HTML of Markdown."""
        self.texts = library_of(files)
        self._settings = settings
        self._live = live
        self._render = render

    def pages(self) -> list[Page]:
        first = [self.texts[path] for path in LABELS]
        return [self._page(text) for text in [*first, *(t for t in self.texts.values() if t.path not in LABELS)]]

    def _page(self, text: Text) -> Page:
        markdown, parents = resolve(text.source, self._settings), self._parents(text)
        html = cache(lambda: self._render(markdown))  # when first asked for: the start would wait for all pages
        is_live = FIGURE.search(markdown) is not None

        async def load(_variables: Mapping[str, str]) -> TextPage:
            if not is_live:
                return TextPage(title=text.title, html=html(), markdown=markdown, parents=parents)
            figures = {name: figure.markdown for name, figure in (await self._live()).items()}
            now = resolve(markdown, figures)
            return TextPage(title=text.title, html=self._render(now), markdown=now, parents=parents)

        return Page(
            path=text.path,
            label=LABELS.get(text.path),
            template="text.html",
            load=load,
            is_data=False,
            markdown=lambda page: page.markdown,
            fresh_s=LIVE_FRESH_S if is_live else FRESH_S,
        )

    def _parents(self, text: Text) -> list[tuple[str, str]]:
        parent = self.texts.get(text.parent) if text.parent else None
        return [] if parent is None else [*self._parents(parent), (parent.path, parent.title)]
