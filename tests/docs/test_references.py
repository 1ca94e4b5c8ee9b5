"""What the documents point to exists: files, headings, commands with their options, make's targets, configurations."""

import re
import shlex
import tomllib

import click
import pytest

from shared.config.load import parse
from spotinference.__main__ import COMMANDS, main
from tests.docs.pages import PAGES, ROOT, Page, page, quoted

EACH = pytest.mark.parametrize("a_page", PAGES, ids=lambda p: p.name)


def shell_words(a_page: Page) -> list[str]:
    """Everything that a reader may type."""
    lines = [line for block in a_page.blocks("sh") for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines] + a_page.spans


def command_fault(words: list[str]) -> str | None:
    """Why `spotinference WORDS` cannot be called so."""
    command: click.Command = main
    context = click.Context(main)
    for word in words:
        if word.startswith("-"):
            known = {option for parameter in command.get_params(context) for option in parameter.opts}
            if word not in known:
                return f"{command.name} has no option {word}"
        elif isinstance(command, click.Group):
            inner = command.get_command(context, word)
            if inner is None:
                return f"no command {word}"
            command, context = inner, click.Context(inner)
    return None


def test_there_are_pages() -> None:
    assert {
        "README.md",
        "CHANGELOG.md",
        "docs/explanation/architecture.md",
        "docs/reference/configuration.md",
        "docs/reference/api.md",
    } <= {p.name for p in PAGES}


@EACH
def test_every_link_leads_somewhere(a_page: Page) -> None:
    broken = []
    for link in a_page.links:
        file, _, anchor = link.partition("#")
        target = (a_page.path.parent / file).resolve() if file else a_page.path
        if not target.exists() or (anchor and anchor not in page(str(target.relative_to(ROOT))).anchors):
            broken.append(link)
    assert broken == []


@EACH
def test_every_command_can_be_typed(a_page: Page) -> None:
    calls = [found[1] for words in shell_words(a_page) if (found := re.search(r"(?:^|/)spotinference (.+)", words))]
    faults = {call: fault for call in calls if (fault := command_fault(shlex.split(call)))}
    assert faults == {}


@EACH
def test_every_make_target_exists(a_page: Page) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {found[1] for words in shell_words(a_page) if (found := re.match(r"make ([a-z-]+)", words))}
    assert named - targets == set()


@EACH
def test_every_file_named_in_a_span_exists(a_page: Page) -> None:
    named = [s for s in a_page.spans if re.fullmatch(r"(services|shared|spotinference|tests|docs)/[\w./-]+", s)]
    assert [name for name in named if not (ROOT / name).exists()] == []


@EACH
def test_every_configuration_is_one(a_page: Page) -> None:
    for block in a_page.blocks("toml"):
        assert tomllib.loads(block)
        parse(block, a_page.name)


def test_the_readme_has_every_command() -> None:
    rows = [quoted(cells[0]) for cells in page("README.md").rows("## Use it")]
    named = [span.removeprefix("spotinference ").split()[0] for spans in rows for span in spans]
    assert set(COMMANDS) <= set(named)


def test_the_record_of_dependencies_has_each_of_them() -> None:
    record = page("docs/adr/0002-dependencies.md").text.lower()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(d for group in project["optional-dependencies"].values() for d in group)]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in wanted}  # type: ignore[index]  # it has a name
    assert {name for name in names - {"spotinference"} if name not in record} == set()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("up --config F", None),
        ("keys create --name me", None),
        ("wake m --wait", None),
        ("doze m", "no command doze"),
        ("keys make", "no command make"),
        ("usage --weeks 7", "usage has no option --weeks"),
    ],
)
def test_a_wrong_command_is_found(words: str, fault: str | None) -> None:
    assert command_fault(words.split()) == fault
