"""Names in paths. Those of machines, models and people may have any characters, so they stand there as on the bus."""

from aiohttp import web

from services.site.adapters.http.account.gate import AccountRoute, Handle
from services.site.core.people import Role
from shared.bus import subjects
from shared.messages.codec import Unreadable


def name_in(request: web.Request, variable: str) -> str:
    """Return the name that stands in a request's path. Raises `HTTPNotFound` if it is none."""
    try:
        name = subjects.name(request.match_info[variable])
    except Unreadable:
        raise web.HTTPNotFound from None
    if not name.isprintable():
        raise web.HTTPNotFound
    return name


def number_in(request: web.Request, name: str) -> int | None:
    """Return the positive number in the query, None if it is absent. Raises `HTTPNotFound` if it is no number."""
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 15):
        raise web.HTTPNotFound
    return int(text)


def listed_page(path: str, handle: Handle, label: str) -> AccountRoute:
    """Return the route of a page that viewers see and every page behind the sign-in links to. Its path names it."""
    name = path.strip("/").replace("/", "-")
    return AccountRoute(method="GET", path=path, role=Role.VIEWER, handle=handle, name=name, label=label)
