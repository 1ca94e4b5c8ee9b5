"""The documentation as tests read it: text, code blocks, tables, links, and spans in backticks."""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Page:
    """One Markdown file; `name` is its path inside the project."""

    name: str
    text: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @cached_property
    def prose(self) -> str:
        return _BLOCK.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        return [body for block, body in _BLOCK.findall(self.text) if block == language]

    @property
    def links(self) -> list[str]:
        """Targets inside the project."""
        return [target for target in _LINK.findall(self.prose) if "://" not in target]

    @cached_property
    def spans(self) -> list[str]:
        return _SPAN.findall(self.prose)

    @cached_property
    def anchors(self) -> set[str]:
        """The fragments that links may name, as GitHub derives them from headings."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def rows(self, heading: str) -> list[list[str]]:
        """The cells of all table rows between a heading and the next one, without the tables' header rows."""
        _, exists, rest = f"\n{self.prose}".partition(f"\n{heading}\n")
        if not exists:
            raise LookupError(f"{self.name} has no heading {heading!r}")
        lines = re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
        tables = [line.strip("|").split("|") if line.startswith("|") else None for line in lines]
        return [
            [cell.strip() for cell in row]
            for number, row in enumerate(tables)
            if row is not None and not _is_rule(row) and not _is_rule(_at(tables, number + 1))
        ]


def _at(rows: list[list[str] | None], number: int) -> list[str] | None:
    return rows[number] if number < len(rows) else None


def _is_rule(row: list[str] | None) -> bool:
    return row is not None and set("".join(row)) <= set("-: ")


@cache
def page(name: str) -> Page:
    return Page(name, (ROOT / name).read_text("utf-8"))


def quoted(cell: str) -> list[str]:
    """A cell's spans in backticks."""
    return _SPAN.findall(cell)


PAGES = [page(str(p.relative_to(ROOT))) for p in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])]
