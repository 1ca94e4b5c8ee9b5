"""The site's pages of prose against the documentation, the code and the configuration."""

import re
from typing import get_args

import pytest

from services.site.adapters.markdown import content_files
from services.site.app.live_figures import LIVE
from services.site.app.text_pages import settings_in_words
from services.site.core.text import FIGURE, Text, library_of, term_path
from services.waker.core.history import PHASES
from shared.config.load import parse
from shared.messages.waker import MachineState
from tests.docs.api_text import TEXT, api_text
from tests.docs.pages import ROOT, page, quoted
from tests.docs.test_glossary import BASIC_TERMS

FILES = content_files()
TEXTS = library_of(FILES)
LEARN = [text for path, text in TEXTS.items() if path.startswith("/learn/")]
PROSE = [text for path, text in TEXTS.items() if path != "/api"]
"""What is written for the site; the reference of the API is the documentation's."""
EACH = pytest.mark.parametrize("text", PROSE, ids=lambda text: text.path)
UNITS = r"(?:ms|s|seconds?|min|minutes?|h|hours?|days?|weeks?|per cent|USD|cents?|tokens?|requests?|wakes?|[KMG]i?B)"
TYPED = re.compile(rf"[$€]\s?\d[\d.]*|\b\d[\d.,]*\s?(?:{UNITS}\b|%)")
CONSTANTS: dict[str, str] = {}
"""Figures that may stand in the text, each with its reason."""


def test_the_api_page_is_made_from_the_reference() -> None:
    assert TEXT.read_text("utf-8") == api_text(), "python -m tests.docs.api_text writes it"


def test_the_glossary_has_every_basic_term_state_and_phase() -> None:
    words = {*BASIC_TERMS, *get_args(MachineState), *PHASES}
    assert {term for term in words if term_path(term) not in TEXTS} == set()


def test_the_glossary_defines_as_the_documentation_does() -> None:
    rows = {term_path(term): meaning for term, meaning, _ in page("docs/glossary.md").rows("# Glossary")}
    assert len(rows.keys() & TEXTS.keys()) > 25
    assert {path: TEXTS[path].summary for path in rows.keys() & TEXTS.keys()} == {
        path: rows[path] for path in rows.keys() & TEXTS.keys()
    }


def test_each_term_explains_what_it_means_for_cost_and_reliability() -> None:
    terms = [text for path, text in TEXTS.items() if path.startswith("/glossary/")]
    for text in terms:
        assert "\n**Cost:** " in text.source, text.path
        assert "\n**Reliability:** " in text.source, text.path
        assert re.search(r"\nSee .*\]\(/", text.source), text.path


@EACH
def test_no_figure_is_typed_in(text: Text) -> None:
    assert [typed for typed in TYPED.findall(text.source) if typed not in CONSTANTS] == []


def test_a_typed_figure_is_noticed() -> None:
    typed = TYPED.findall("at $1.93, within 10 minutes or 5ms, 30% of 1,000 tokens; 503, vLLM 2, {{cap}}")
    assert typed == ["$1.93", "10 minutes", "5ms", "30%", "1,000 tokens"]


@EACH
def test_every_named_figure_is_known(text: Text) -> None:
    assert set(FIGURE.findall(text.source)) - settings_in_words(parse("", "test")).keys() - set(LIVE) == set()


@pytest.mark.parametrize("text", LEARN, ids=lambda text: text.path)
def test_a_page_names_what_it_does_not_cover_and_where_to_go_on(text: Text) -> None:
    if text.parent == "/learn":
        assert re.search(r"\bnot\b", text.source)
    else:
        assert re.search(r"\n## What this page does not cover\n\n\S", text.source)
        assert "\n## See also\n\n- " in text.source


def test_every_pillar_has_several_pages_one_click_from_the_hub() -> None:
    pillars = {text.path for text in LEARN if text.parent == "/learn"}
    assert pillars == {f"/learn/{name}" for name in ("cost", "performance", "reliability", "api", "models")}
    for pillar in pillars:
        assert len([text for text in LEARN if text.parent == pillar]) >= 4
    assert [text.path for text in LEARN if f"]({text.path})" not in TEXTS["/learn"].source] == []


@EACH
def test_every_page_of_the_project_that_it_cites_exists(text: Text) -> None:
    cited = [span for span in quoted(text.source) if re.fullmatch(r"(docs|services|shared|tests)/[\w./-]+", span)]
    assert [name for name in cited if not (ROOT / name).exists()] == []
