"""The form of a new key: what its fields mean, and what is wrong with them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from shared.report_forms.words import format_count
from shared.units import DAY_S

MAX_NAME = 80
MAX_LIMIT = 10**12
LIMITS = {
    "requests_per_minute": "Requests per minute",
    "tokens_per_minute": "Tokens per minute",
    "concurrency": "Requests at once",
    "monthly_tokens": "Tokens per month",
}
"""Fields of limits and their labels."""
LIFETIMES = {"30": "30 days", "90": "90 days", "365": "a year", "": "without an end"}
"""Days, and their labels."""
MODEL = "model:"
FIELDS = ("name", "lifetime", "once", *LIMITS, f"{MODEL}*")
OVERLAPS = {"0": "at once", "1": "after a day", "7": "after 7 days"}
"""Days that the earlier secret of a rolled key goes on, and their labels."""


class FormFault(ValueError):
    """What is wrong with a form, for the person who sent it."""


@dataclass(frozen=True, kw_only=True)
class KeyLimits:
    """The limits of a key, or their ceilings, by the fields of its record. None is no limit, or the gateway's."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    monthly_tokens: int | None = None
    wakes_per_hour: int | None = None
    wake_cost_per_day: Decimal | None = None


UNBOUNDED = KeyLimits()


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """A key that somebody asked for."""

    name: str
    models: tuple[str, ...] | None
    expires_at: float | None
    limits: KeyLimits


def lifetimes(max_age_s: float | None) -> dict[str, str]:
    """Return the lifetimes that the operator allows, by days."""
    if max_age_s is None:
        return LIFETIMES
    allowed = {days: label for days, label in LIFETIMES.items() if days and int(days) * DAY_S <= max_age_s}
    return allowed or {"max": f"{max_age_s / DAY_S:g} days"}


def new_key(
    form: Mapping[str, str], *, models: Collection[str], max_age_s: float | None, ceilings: KeyLimits, now: float
) -> NewKey:
    """Read the form. `models`: those that there are. Raises `FormFault`."""
    name = form.get("name", "").strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise FormFault(f"Give the key a name of at most {MAX_NAME} characters, by which you will know it.")
    chosen = tuple(sorted(field.removeprefix(MODEL) for field in form if field.startswith(MODEL)))
    if unknown := [model for model in chosen if model not in models]:
        raise FormFault(f"There is no model {unknown[0][:MAX_NAME]!r}.")
    days = form.get("lifetime", "")
    if days not in lifetimes(max_age_s):
        raise FormFault("Choose one of the lifetimes.")
    length_s = max_age_s if days == "max" else float(days) * DAY_S if days else None
    limits: dict[str, Any] = {
        field: _limit(label, form.get(field, ""), getattr(ceilings, field)) for field, label in LIMITS.items()
    }
    # Every model chosen is every model of today; none chosen is any model, of later days too.
    return NewKey(
        name=name,
        models=chosen or None,
        expires_at=None if length_s is None else now + length_s,
        limits=replace(ceilings, **limits),
    )


def lowered(limits: KeyLimits, ceilings: KeyLimits) -> dict[str, int | Decimal]:
    """Return the ceilings that are below a key's limits, by field."""
    return {
        field: ceiling
        for field, ceiling in vars(ceilings).items()
        if ceiling is not None and ((limit := getattr(limits, field)) is None or limit > ceiling)
    }


def overlap_s(form: Mapping[str, str]) -> float:
    """Return how long the earlier secret goes on. Raises `FormFault`."""
    if form.get("overlap") not in OVERLAPS:
        raise FormFault("Choose when the earlier secret ends.")
    return int(form["overlap"]) * DAY_S


def _limit(label: str, text: str, ceiling: int | None) -> int | None:
    text = text.strip().replace(",", "").replace("_", "")
    if not text:
        return ceiling
    if not (text.isascii() and text.isdigit() and len(text) <= 13 and 0 < int(text) <= MAX_LIMIT):
        raise FormFault(f"{label}: write a whole number above 0, or leave it empty.")
    if ceiling is not None and int(text) > ceiling:
        raise FormFault(f"{label}: the most here is {format_count(ceiling)}. Write that or less, or leave it empty.")
    return int(text)
