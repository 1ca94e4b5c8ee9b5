"""`python -m tests.docs.api_text` makes the site's page of the API from the reference, so both say the same."""

import re
from pathlib import Path

from tests.docs.pages import ROOT, page

TEXT = ROOT / "services" / "site" / "adapters" / "content" / "api.md"
HERE = {"fleet-states.md#phases-of-a-wake": "/glossary/phase"}
"""What the site has of the pages that the reference links to; the words of the others stay without a link."""
EXAMPLES = {"http://127.0.0.1:8080": "{{api_url}}", "MODEL": "{{model}}"}
"""What examples name, and what the site puts in its place."""
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def api_text() -> str:
    """Return the Markdown of the site's page."""
    text = _LINK.sub(_link, page("docs/reference/api.md").text)
    return _BLOCK.sub(_block, text) + COVERS


def _link(match: re.Match[str]) -> str:
    words, target = match[1], match[2]
    if target.startswith("#"):
        return match[0]
    return f"[{words}]({HERE[target]})" if target in HERE else words


def _block(match: re.Match[str]) -> str:
    block = match[0]
    for name, figure in EXAMPLES.items():
        block = block.replace(name, figure)
    return block


COVERS = """
## What this page does not cover

It does not repeat OpenAI's own documentation, and it has no prices or limits of a key: those are in your account.

## See also

- [The API standard](/learn/api), for how to use it well
- The project's own page: `docs/reference/api.md`
"""

if __name__ == "__main__":
    Path(TEXT).write_text(api_text(), "utf-8")
