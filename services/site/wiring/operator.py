"""Builds the operator's pages, and the fleet that they show."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

from services.site.adapters.audit_log import SqlAuditLog
from services.site.adapters.http.account.gate import AccountRoute, Gate
from services.site.adapters.http.operator.all_key_pages import AllKeyPages
from services.site.adapters.http.operator.book_pages import BookPages
from services.site.adapters.http.operator.fleet_pages import FleetPages
from services.site.adapters.http.operator.gate_pages import GatePages
from services.site.adapters.http.operator.people_pages import PeoplePages
from services.site.adapters.people_store import SqlPeopleStore
from services.site.adapters.rendering import Renderer
from services.site.adapters.session_store import SqlSessionStore
from services.site.app.fleet_feed import FleetFeed
from services.site.app.fleet_views import FleetViews
from services.site.app.own_keys import OwnKeys
from services.site.core.fleet_board import FleetBoard
from shared.runtime.process import Runtime


class Fleet(NamedTuple):
    """What is known of the fleet, and who watches it."""

    views: FleetViews
    feed: FleetFeed


@asynccontextmanager
async def open_fleet(runtime: Runtime, renderer: Renderer, views: FleetViews) -> AsyncIterator[Fleet]:
    """The fleet, live."""
    feed = FleetFeed(runtime.config, runtime.bus, views.watcher, partial(_board, renderer), runtime.now)
    async with feed.running():
        yield Fleet(views, feed)


def operator_table(
    runtime: Runtime,
    gate: Gate,
    fleet: Fleet,
    keys: OwnKeys,
    *,
    sessions: SqlSessionStore,
    people: SqlPeopleStore,
    audit: SqlAuditLog,
) -> list[AccountRoute]:
    """The pages of viewers and operators."""
    config, bus, now, views = runtime.config, runtime.bus, runtime.now, fleet.views
    models = sorted(config.models)
    return [
        *FleetPages(gate, sessions, bus, views.watcher, fleet.feed, models=models, now=now).table(),
        *GatePages(gate, bus, config, views.budget).table(),
        *AllKeyPages(gate, bus, keys, people).table(),
        *PeoplePages(gate, people, sessions, audit, keys, now=now).table(),
        *BookPages(gate, bus, keys).table(),
    ]


def _board(renderer: Renderer, board: FleetBoard) -> str:
    return renderer.render("operator_board.html", board=board)
