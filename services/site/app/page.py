"""A public page: where it is, what it shows, and in which forms."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

Load = Callable[[Mapping[str, str]], Awaitable[msgspec.Struct | None]]
"""Returns what the page shows, by the variables in its path. None: there is no such page."""
Rows = Callable[[Any], Iterable[Sequence[object]]]
"""The page's table as CSV: the heading first."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One public page. Everybody gets the same bytes, so it never depends on who asks.

    The struct that `load` returns is the page: its template shows it, `PATH.json` is its encoding, and `PATH.csv` its
    table. It has only what may be public, built from named fields, and each figure with its date and state.
    """

    path: str
    """As aiohttp writes it: `/economics/{day}`."""
    label: str | None = None
    """Its name among the links of every page; without one it is not among them."""
    template: str
    load: Load
    rows: Rows | None = None
    is_data: bool = True
    """Whether there is a JSON form."""
    markdown: Callable[[Any], str] | None = None
    """Its text as Markdown, at `PATH.md`."""
    fresh_s: float = 15.0
    """How long rendered bytes are served before the page is loaded again."""
    max_age_s: int = 60
    """How long browsers and proxies may keep it."""

    @property
    def stem(self) -> str:
        """What its other forms' endings follow: `/index` for the first page."""
        return "/index" if self.path == "/" else self.path


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """What programs read and no template shows: an index, a feed."""

    path: str
    content_type: str
    load: Callable[[], Awaitable[str]]
    fresh_s: float = 60.0
