"""HTML from templates. Text is escaped, an unknown name is an error, and null shows as a dash."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined

from services.site.adapters.filters import FILTERS
from services.site.adapters.plots import GLOBALS
from services.site.core.words import BAND_REASONS, BILL_STATES, CHANGES, REASONS
from shared.messages.codec import decode_text
from shared.report_forms import words

ASSETS: Mapping[str, str] = {
    "site.css": "text/css",
    "site.js": "text/javascript",
    "playground.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""Files that pages load, with their content types."""


class Renderer:
    """Templates, read once, and the assets that they name: an upgrade on disk changes neither before a restart.

    A template is compiled when its page is first asked for: all of them would be a third of the site's start.
    """

    def __init__(self, *, title: str, nav: Sequence[tuple[str, str]]) -> None:
        """`nav`: paths and labels of the pages that every page links to."""
        folder = files("services.site.adapters") / "assets"
        self.assets = {name: (folder / name).read_bytes() for name in ASSETS}
        self._environment = Environment(
            loader=DictLoader(_read_templates()),
            autoescape=True,
            auto_reload=False,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=words.shown,
        )
        self._environment.globals |= {"asset": self.asset_path, "site_title": title, "nav": nav, "sign_in_path": None}
        self._environment.globals |= {
            "cause_words": words.CAUSE_WORDS,
            "state_words": words.STATE_WORDS,
            "basis": words.BASIS,
            "reasons": REASONS,
            "band_reasons": BAND_REASONS,
            "change_words": CHANGES,
            "bill_words": BILL_STATES,
        }
        self._environment.filters |= {
            "usd": words.format_usd,
            "exact": _exact,
            "count": words.format_count,
            "share": words.format_share,
            "moment": _moment,
            "second": _second,
        }
        self._environment.filters |= FILTERS
        self._environment.globals |= GLOBALS

    def has_sign_in(self, has_it: bool) -> None:
        """Whether every page links to the account."""
        self._environment.globals["sign_in_path"] = "/account" if has_it else None

    def asset_path(self, name: str) -> str:
        """Return the asset's path, which changes with its content."""
        stem, _, suffix = name.rpartition(".")
        return f"/assets/{stem}.{hashlib.sha256(self.assets[name]).hexdigest()[:12]}.{suffix}"

    def render(self, template: str, **values: object) -> str:
        return self._environment.get_template(template).render(values)


def _exact(number: Decimal | None) -> str:
    """Every digit of a number, without the zeros at its end that say nothing."""
    text = "" if number is None else f"{number:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _moment(at: float | None) -> str | None:
    """Unix seconds as people read them, in UTC."""
    return None if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _second(at: float) -> str:
    """The same to the second."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _read_templates() -> dict[str, str]:
    folders = (files("shared.report_forms"), files("services.site.adapters") / "templates")
    templates = (file for folder in folders for file in folder.iterdir() if file.name.endswith(".html"))
    return {template.name: decode_text(template.read_bytes()) for template in templates}
