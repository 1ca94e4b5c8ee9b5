"""The types of options that several commands share. A wrong value is wrong usage; the error shows the right form."""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import date

import click

from shared.config.values import Duration
from spotinference.times import parse_time


class DayParam(click.ParamType[str]):
    """A UTC day, as its text `YYYY-MM-DD`."""

    name = "YYYY-MM-DD"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            day = date.fromisoformat(text).isoformat()
        except ValueError:
            day = None
        if day != text:  # `date` takes other forms too
            self.fail(f"expected a day such as 2026-11-23, got {text!r}", param, ctx)
        return text


class MonthParam(click.ParamType[str]):
    """A calendar month in UTC, as its text `YYYY-MM`."""

    name = "YYYY-MM"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text, re.ASCII):
            self.fail(f"expected a month such as 2026-11, got {text!r}", param, ctx)
        return text


class ListParam(click.ParamType[tuple[str, ...]]):
    """Some of the allowed words, comma-separated."""

    name = "list"

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = allowed

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        words = tuple(word for part in str(value).split(",") if (word := part.strip()))
        for word in words:
            if word not in self._allowed:
                self.fail(f"expected some of {', '.join(self._allowed)}, got {word!r}", param, ctx)
        return words


class DurationParam(click.ParamType[float]):
    """Seconds, written as in the configuration: `30s`, `24h`, `7d`."""

    name = "DURATION"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, Duration) else Duration.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class TimeParam(click.ParamType[float]):
    """Unix seconds: an RFC 3339 time, or a duration before now."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        with suppress(ValueError):
            return time.time() - Duration.parse(text)
        try:
            return parse_time(text)
        except ValueError:
            expected = "a time such as 2027-01-31T12:00:00Z or a duration such as 2h"
            self.fail(f"expected {expected}, got {text!r}", param, ctx)
