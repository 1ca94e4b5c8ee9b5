"""Pages of prose: what a file becomes, and where it is listed."""

import pytest

from services.site.core.text import first_sentence, library_of, resolve, slug, term_path, text_of

FILES = {
    "learn/index.md": "# Learn\n\nHow it works.\n",
    "learn/1-cost/index.md": "# Cost\n\nWhat it costs. And why.\n",
    "learn/1-cost/2-bands.md": "# Bands\n\nA [step](/x) of a list. It holds.\n",
    "learn/1-cost/1-zero.md": "# Zero\n\nNever 0.\n",
    "api.md": "# API\n\nPaths.\n",
    "glossary.md": "# Glossary\n\nWords.\n\n## day\n\nA UTC day.\n\n**Cost:** none.\n\n## first_token\n\nA phase.\n",
}


def test_numbers_in_a_path_are_its_order_and_no_part_of_its_address() -> None:
    texts = library_of(FILES)
    assert set(texts) == {
        *("/learn", "/learn/cost", "/learn/cost/bands", "/learn/cost/zero"),
        *("/api", "/glossary", "/glossary/day", "/glossary/first-token"),
    }
    assert texts["/learn/cost"].source.index("(/learn/cost/zero)") < texts["/learn/cost"].source.index("/bands)")


def test_a_hub_lists_each_page_below_it_with_its_first_sentence() -> None:
    texts = library_of(FILES)
    assert "## [Cost](/learn/cost)\n\nWhat it costs.\n" in texts["/learn"].source
    assert "- [Bands](/learn/cost/bands): A step of a list." in texts["/learn"].source
    assert "- [first_token](/glossary/first-token): A phase." in texts["/glossary"].source


def test_a_term_is_a_page_that_knows_its_list() -> None:
    term = library_of(FILES)["/glossary/day"]
    assert (term.title, term.summary, term.parent) == ("day", "A UTC day.", "/glossary")
    assert term.source == "# day\n\nA UTC day.\n\n**Cost:** none.\n"
    assert library_of(FILES)["/api"].parent is None


@pytest.mark.parametrize("source", ["", "Words.\n", "# Title\n", "# Title\n\n## Heading\n"])
def test_a_page_without_title_and_answer_is_rejected(source: str) -> None:
    with pytest.raises(ValueError, match="/x: a page begins"):
        text_of("/x", source)


def test_figures_are_resolved_by_name_and_an_unknown_one_stays() -> None:
    assert resolve("{{cap}} and {{other}}, {cap}", {"cap": "10 minutes"}) == "10 minutes and {{other}}, {cap}"


def test_addresses_of_terms_and_headings() -> None:
    assert term_path("$/Mtok") == "/glossary/usd-per-mtok"
    assert term_path("falling_asleep") == "/glossary/falling-asleep"
    assert slug("What's `x_y` for?") == "whats-x_y-for"
    assert first_sentence("It is 0.5 of it. More.") == "It is 0.5 of it."
