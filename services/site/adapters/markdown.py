"""HTML from the Markdown of the package: raw HTML stays text, headings have anchors, nothing has a style of its own."""

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from services.site.core.text import slug
from shared.messages.codec import decode_text

_CONTENT = "content"


def content_files() -> dict[str, str]:
    """Return the Markdown files of the package by their path inside the folder of content."""
    return dict(_files(files("services.site.adapters") / _CONTENT, ""))


def _files(folder: Traversable, prefix: str) -> Sequence[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            pairs += _files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".md"):
            pairs.append((prefix + entry.name, decode_text(entry.read_bytes())))
    return pairs


class MarkdownRenderer:
    """Renders pages of prose."""

    def __init__(self) -> None:
        self._parser = MarkdownIt("js-default", {"linkify": False, "typographer": False})
        self._parser.add_render_rule("fence", _fence)
        self._parser.add_render_rule("table_open", _table_open)
        self._parser.add_render_rule("table_close", _table_close)

    def render(self, source: str) -> Markup:
        """Return HTML whose only markup is what Markdown has."""
        tokens = self._parser.parse(source)
        heading = ""
        anchors: dict[str, int] = {}
        tables: dict[str, int] = {}
        for number, token in enumerate(tokens):
            if token.type == "heading_open":
                heading = _text(tokens[number + 1])
                token.attrSet("id", _anchor(heading, anchors))
            elif token.type == "table_open":
                tables[heading] = tables.get(heading, 0) + 1
                token.meta["name"] = heading if tables[heading] == 1 else f"{heading} ({tables[heading]})"
            elif token.type in ("th_open", "td_open") and token.attrs.pop("style", None) == "text-align:right":
                token.attrSet("class", "number")
        return Markup(self._parser.renderer.render(tokens, self._parser.options, {}))  # noqa: S704 - raw HTML is off


def _text(token: Token) -> str:
    return "".join(child.content for child in token.children or [] if child.type in ("text", "code_inline"))


def _anchor(heading: str, anchors: dict[str, int]) -> str:
    """The second heading of one name gets `-1`."""
    anchor = slug(heading)
    anchors[anchor] = anchors.get(anchor, -1) + 1
    return f"{anchor}-{anchors[anchor]}" if anchors[anchor] else anchor


def _fence(_renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
    """A block of code can be scrolled with the keyboard."""
    name = tokens[index].info.strip() or "text"
    return Markup('<pre tabindex="0"><code class="language-{}">{}</code></pre>\n').format(name, tokens[index].content)


def _table_open(_renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
    """So can a wide table, and it says what it is."""
    name = tokens[index].meta["name"]
    return Markup('<div class="wide" role="region" tabindex="0" aria-label="Table: {}"><table>\n').format(name)


def _table_close(_renderer: RendererHTML, _tokens: Sequence[Token], _index: int, _options: Any, _env: Any) -> str:
    return "</table></div>\n"
