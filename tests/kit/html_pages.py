"""HTML as tests read it: whether it is well formed, where it leads, and what a browser loads with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "rect", "circle", "line", "use", "col", "wbr", "source"}


@dataclass
class ParsedPage(HTMLParser):
    """One page. `faults` says what is wrong with it."""

    text: str
    faults: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """What a reader may follow."""
    loads: list[str] = field(default_factory=list)
    """What a browser fetches by itself."""
    ids: list[str] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self._open]
        self.faults += [f"id {name!r} twice" for name in {name for name in self.ids if self.ids.count(name) > 1}]

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if len(values) != len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        if "style" in values or tag == "style" or any(name.startswith("on") for name in values):
            self.faults.append(f"<{tag}> has a style or script of its own")
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag == "a":
            self.links.append(values.get("href") or "")
        elif tag in ("link", "script", "img"):
            self.loads.append(values.get("href") or values.get("src") or "inline")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open[-1] != tag:
            self.faults.append(f"</{tag}> closes <{self._open[-1] if self._open else 'nothing'}>")
        if tag in self._open:
            while self._open.pop() != tag:
                pass
