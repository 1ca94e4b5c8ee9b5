"""What programs read to find their way: `/llms.txt`, `/sitemap.xml`, `/robots.txt`."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

from services.site.app.page import Page, PublicFile

WHAT_IT_IS = (
    "Tokens from open-weights models behind OpenAI's chat completions API, on GPU machines that hibernate when nobody "
    "uses them. Published cost is the provider's invoice divided by the tokens served."
)
NO_VARIABLES: Mapping[str, str] = {}


class SiteIndex:
    """Lists the public pages for programs."""

    def __init__(self, title: str, origin: Callable[[], str], pages: Sequence[Page]) -> None:
        """`origin`: where browsers reach the site."""
        self._title = title
        self._origin = origin
        self._pages = [page for page in pages if "{" not in page.path]

    def files(self) -> list[PublicFile]:
        return [
            PublicFile(path="/llms.txt", content_type="text/markdown", load=self._for_models),
            PublicFile(path="/sitemap.xml", content_type="application/xml", load=self._sitemap),
            PublicFile(path="/robots.txt", content_type="text/plain", load=self._robots),
        ]

    async def _for_models(self) -> str:
        """As llmstxt.org describes it: a title, a summary, and lists of links to Markdown and data."""
        origin = self._origin()
        figures = [page for page in self._pages if page.is_data]
        texts = [(page, await page.load(NO_VARIABLES)) for page in self._pages if page.markdown]
        lines = [f"# {self._title}", "", f"> {WHAT_IT_IS}", "", "## Figures", ""]
        lines += [f"- [{page.label or page.path}]({origin}{page.stem}.json)" for page in figures]
        lines += ["", "## Texts", ""]
        lines += [f"- [{getattr(text, 'title', page.path)}]({origin}{page.stem}.md)" for page, text in texts]
        return "\n".join(lines) + "\n"

    async def _sitemap(self) -> str:
        places = "".join(f"<url><loc>{escape(self._origin() + page.path)}</loc></url>\n" for page in self._pages)
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{places}</urlset>\n'
        )

    async def _robots(self) -> str:
        return f"User-agent: *\nDisallow:\n\nSitemap: {self._origin()}/sitemap.xml\n"
