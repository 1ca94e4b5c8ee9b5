"""A page of prose: Markdown with figures by name, and where it stands among the others."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

FIGURE = re.compile(r"\{\{(\w+)\}\}")
"""A figure by its name, resolved when the page is shown: `{{hold_cap}}`."""
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_ORDER = re.compile(r"\d+-")


@dataclass(frozen=True, kw_only=True)
class Text:
    """One page of prose."""

    path: str
    title: str
    summary: str
    """The first paragraph: what the page answers, in two or three sentences."""
    source: str
    """Markdown. Its figures are still names."""

    @property
    def parent(self) -> str | None:
        """The page that lists this one."""
        return self.path.rpartition("/")[0] or None


def text_of(path: str, source: str) -> Text:
    """Read a page's title and summary from its Markdown. Raises `ValueError` if it does not begin with both."""
    title, _, rest = source.partition("\n")
    summary = " ".join(rest.strip().partition("\n\n")[0].split())
    if not title.startswith("# ") or not summary or summary.startswith("#"):
        raise ValueError(f"{path}: a page begins with a title and a paragraph")
    return Text(path=path, title=title[2:], summary=summary, source=source)


def library_of(files: Mapping[str, str]) -> dict[str, Text]:
    """Return every page by its path, from Markdown files by their path inside the folder of content.

    `learn/1-cost/2-bands.md` is `/learn/cost/bands`: numbers give the order. A folder's `index.md` is the page that
    lists the others of the folder, and the lists are added here. `glossary.md` is a page for each of its terms, and
    their list.
    """
    texts: dict[str, Text] = {}
    for name, source in sorted(files.items()):
        if name == "glossary.md":
            texts |= _glossary(source)
        else:
            path = "/" + "/".join(_ORDER.sub("", part) for part in name.removesuffix(".md").split("/"))
            texts[path.removesuffix("/index")] = text_of(path.removesuffix("/index"), source)
    return {path: _with_list(text, texts) for path, text in texts.items()}


def resolve(source: str, figures: Mapping[str, str]) -> str:
    """Put figures in the place of their names. A name that is not among them stays."""
    return FIGURE.sub(lambda match: figures.get(match[1], match[0]), source)


def slug(heading: str) -> str:
    """Return a heading's anchor, as GitHub derives it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def term_path(term: str) -> str:
    """Return where a term of the glossary is explained."""
    return f"/glossary/{slug(term.replace('$/', 'usd per ').replace('_', ' '))}"


def first_sentence(text: str) -> str:
    """Return the first sentence of a paragraph, without its links."""
    return re.split(r"(?<=[.?])\s", _LINK.sub(r"\1", text), maxsplit=1)[0]


def _glossary(source: str) -> dict[str, Text]:
    head, *entries = re.split(r"^## ", source, flags=re.MULTILINE)
    terms = [text_of(term_path(entry.partition("\n")[0]), f"# {entry.rstrip()}\n") for entry in entries]
    return {"/glossary": text_of("/glossary", head), **{term.path: term for term in terms}}


def _with_list(text: Text, texts: Mapping[str, Text]) -> Text:
    """Add to a page that has others below it their list, and below a group its own pages."""
    below = [other for other in texts.values() if other.parent == text.path]
    if not below:
        return text
    source = [text.source.rstrip(), ""]
    for other in below:
        inner = [last for last in texts.values() if last.parent == other.path]
        if inner:
            source += [f"## [{other.title}]({other.path})", "", first_sentence(other.summary), ""]
            source += [*(_item(last) for last in inner), ""]
        else:
            source += [_item(other)]
    return Text(path=text.path, title=text.title, summary=text.summary, source="\n".join(source).rstrip() + "\n")


def _item(text: Text) -> str:
    return f"- [{text.title}]({text.path}): {first_sentence(text.summary)}"
