"""Serves public pages: the same bytes for everybody, with an ETag, compressed once per rendering."""

import csv
import gzip
import hashlib
import io
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from time import perf_counter

import msgspec
from aiohttp import web

from services.site.adapters.http.server import PAGE
from services.site.adapters.rendering import ASSETS, Renderer
from services.site.app.page import Page, PublicFile
from services.site.app.page_cache import PageCache
from services.site.metrics import Metrics
from shared.csv_cells import csv_text
from shared.report_forms.plain_json import to_plain
from shared.report_forms.words import format_decimal

TYPES = {"": "text/html", ".json": "application/json", ".csv": "text/csv", ".md": "text/markdown"}
LEAST_COMPRESSED = 512


@dataclass(frozen=True)
class Rendered:
    """One form of one page."""

    body: bytes
    compressed: bytes | None
    etag: str
    content_type: str
    max_age_s: int


def rendered(body: bytes, content_type: str, *, max_age_s: int) -> Rendered:
    compressed = gzip.compress(body, mtime=0) if len(body) >= LEAST_COMPRESSED else None
    return Rendered(body, compressed, f'"{hashlib.sha256(body).hexdigest()[:24]}"', content_type, max_age_s)


class PublicPages:
    """The handlers of public pages and of assets."""

    def __init__(self, renderer: Renderer, metrics: Metrics, monotonic: Callable[[], float]) -> None:
        self._renderer = renderer
        self._metrics = metrics
        self._assets = {name: rendered(renderer.assets[name], kind, max_age_s=0) for name, kind in ASSETS.items()}
        self.cache: PageCache[Rendered | None] = PageCache(monotonic)

    def routes(self, pages: Sequence[Page], files: Sequence[PublicFile]) -> list[web.RouteDef]:
        """Every form of every page, the files, and the assets."""
        routes = [web.get("/assets/{name}", self._asset)]
        routes += [web.get(file.path, self._file_handler(file)) for file in files]
        for page in pages:
            forms = [form for form, exists in _forms(page) if exists]
            routes += [web.get(page.stem + form if form else page.path, self._handler(page, form)) for form in forms]
        return routes

    def _handler(self, page: Page, form: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            variables = dict(request.match_info)
            shown = await self.cache.get(
                request.path, lambda: self._render(page, form, variables), fresh_s=page.fresh_s
            )
            if shown is None:
                raise web.HTTPNotFound
            request[PAGE] = page.path
            return respond(request, shown)

        return handle

    def _file_handler(self, file: PublicFile) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def load() -> Rendered:
            return rendered((await file.load()).encode(), file.content_type, max_age_s=int(file.fresh_s))

        async def handle(request: web.Request) -> web.StreamResponse:
            request[PAGE] = file.path
            shown = await self.cache.get(file.path, load, fresh_s=file.fresh_s)
            assert shown is not None, "a file is always there"
            return respond(request, shown)

        return handle

    async def _render(self, page: Page, form: str, variables: Mapping[str, str]) -> Rendered | None:
        began = perf_counter()
        data = await page.load(variables)
        if data is None:
            return None
        if form == ".json":
            fields = to_plain(msgspec.to_builtins(data, builtin_types=(Decimal,)))
            body = msgspec.json.format(msgspec.json.encode(fields), indent=1)
        elif form == ".csv":
            assert page.rows is not None
            body = csv_table(page.rows(data))
        elif form == ".md":
            assert page.markdown is not None
            body = page.markdown(data).encode()
        else:
            body = self._renderer.render(page.template, page=data, path=page.path, variables=variables).encode()
        self._metrics.render_seconds.observe(perf_counter() - began)
        return rendered(body, TYPES[form], max_age_s=page.max_age_s)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        stem, _, suffix = request.match_info["name"].rpartition(".")
        name = f"{stem.rpartition('.')[0]}.{suffix}"
        if name not in self._renderer.assets or request.path != self._renderer.asset_path(name):
            raise web.HTTPNotFound
        response = respond(request, self._assets[name])
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        request[PAGE] = "asset"
        return response


def _forms(page: Page) -> list[tuple[str, object]]:
    """Whether there is each form. The page itself is last: its variable would take `.json` for a part of its value."""
    return [(".json", page.is_data), (".csv", page.rows), (".md", page.markdown), ("", True)]


def respond(request: web.Request, shown: Rendered) -> web.Response:
    """The page, compressed if the client takes it, or 304 if it has it."""
    headers = {"ETag": shown.etag, "Cache-Control": f"public, max-age={shown.max_age_s}", "Vary": "Accept-Encoding"}
    if shown.etag in {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}:
        return web.Response(status=304, headers=headers)
    body = shown.body
    if shown.compressed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
        body, headers["Content-Encoding"] = shown.compressed, "gzip"
    return web.Response(body=body, content_type=shown.content_type, charset="utf-8", headers=headers)


def csv_table(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(map(_cell, row))
    return text.getvalue().encode()


def _cell(cell: object) -> object:
    if isinstance(cell, Decimal):
        return format_decimal(cell)
    return csv_text(cell) if isinstance(cell, str) else cell
