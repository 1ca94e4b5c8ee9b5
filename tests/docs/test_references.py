"""Everything that the documentation names exists: files, headings, commands, options, make targets, metrics."""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache

import click
import pytest

from shared.config.load import parse
from spotinference.__main__ import COMMANDS, main
from tests.docs.pages import PAGES, ROOT, Page, page, quoted

FOREIGN_OPTIONS = {"--api-key", "--require-hashes"}
"""vLLM's and other programs' own."""


def shell_words(a_page: Page) -> list[str]:
    """Return everything that a reader may type."""
    lines = [line for block in a_page.blocks("sh") for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines] + a_page.spans


def command_fault(words: list[str]) -> str | None:
    """Return why `spotinference WORDS` is no valid call."""
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


@cache
def options() -> frozenset[str]:
    """Return all options of the command, the services, the benchmarks and the tests' own programs."""
    rooms = ("services", "shared", "spotinference", "bench", "tests/proof")
    modules = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    return frozenset(name for path in modules for name in re.findall(r"\"(--[a-z][a-z-]+)", path.read_text("utf-8")))


@cache
def log_events() -> frozenset[str]:
    """Return the event names of all log calls in the product."""
    calls = re.compile(r"\blog\.(?:debug|info|warning|error|exception)\(\s*\"(\w+)\"")
    modules = [path for room in ("services", "shared", "spotinference") for path in (ROOT / room).rglob("*.py")]
    return frozenset(event for path in modules for event in calls.findall(path.read_text("utf-8")))


@cache
def metrics() -> frozenset[str]:
    """Return the metrics of the reference."""
    return frozenset(quoted(cells[0])[0] for cells in page("docs/reference/metrics.md").rows("## Metrics"))


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def json_commands() -> list[str]:
    """Return the commands with an option `--json`, as typed."""
    context = click.Context(main)
    names = []
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None, "it is listed"
        names += [name] if _takes_json(command) else []
        if isinstance(command, click.Group):
            names += [f"{name} {inner}" for inner, child in command.commands.items() if _takes_json(child)]
    return names


def _takes_json(command: click.Command) -> bool:
    return any("--json" in parameter.opts for parameter in command.params)


def test_there_are_pages_of_every_kind() -> None:
    kinds = {"howto", "reference", "explanation", "runbooks", "adr"}
    assert {page.path.parent.name for page in PAGES} == {*kinds, "docs", ROOT.name}


def broken_links(a_page: Page) -> Iterator[str]:
    for link in a_page.links:
        file, _, anchor = link.partition("#")
        target = (a_page.path.parent / file).resolve() if file else a_page.path
        if not target.exists() or (anchor and anchor not in page(str(target.relative_to(ROOT))).anchors):
            yield link


def wrong_commands(a_page: Page) -> Iterator[str]:
    for words in shell_words(a_page):
        match = re.search(r"(?:^|/)spotinference (.+)", words)
        if match and (fault := command_fault(shlex.split(match[1]))):
            yield f"{match[1]}: {fault}"


def unknown_options(a_page: Page) -> set[str]:
    """Return the options that stand by themselves and exist nowhere."""
    named = {match[0] for span in a_page.spans if (match := re.match(r"--[a-z][a-z-]+", span))}
    return named - options() - FOREIGN_OPTIONS


def missing_programs(a_page: Page) -> Iterator[str]:
    for name in re.findall(r"python -m ([\w.]+)", a_page.text):
        path = ROOT / name.replace(".", "/")
        if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists()):
            yield name


def unknown_make_targets(a_page: Page) -> set[str]:
    return {match[1] for words in shell_words(a_page) if (match := re.match(r"make ([a-z-]+)", words))} - make_targets()


def missing_files(a_page: Page) -> Iterator[str]:
    for span in a_page.spans:
        if (
            re.fullmatch(r"(services|shared|spotinference|tests|bench|docs)/[\w./-]+", span)
            and not (ROOT / span).exists()
        ):
            yield span


def missing_modules_of_a_layer(a_page: Page) -> Iterator[str]:
    if a_page.name == "CHANGELOG.md" or "uperseded by" in a_page.text:
        return  # it is history
    service_of_page = re.search(r"relative to `(services/\w+)`", a_page.text)
    services = [ROOT / service_of_page[1]] if service_of_page else list((ROOT / "services").iterdir())
    for span in a_page.spans:
        is_module = re.fullmatch(r"(core|app|adapters|http|forms)/[\w./-]+", span)
        if is_module and not any((service / span).exists() for service in services):
            yield span


def unknown_metrics(a_page: Page) -> set[str]:
    return {metric for span in a_page.spans for metric in re.findall(r"spot_[a-z_]+", span)} - metrics()


def unknown_log_events(a_page: Page) -> set[str]:
    return set(re.findall(r"(?:logs|log has) `(\w+)`", a_page.text)) - log_events()


RULES: tuple[Callable[[Page], Iterable[str]], ...] = (
    broken_links,
    wrong_commands,
    unknown_options,
    missing_programs,
    unknown_make_targets,
    missing_files,
    missing_modules_of_a_layer,
    unknown_metrics,
    unknown_log_events,
)


@pytest.mark.parametrize("a_page", PAGES, ids=lambda p: p.name)
def test_everything_that_a_page_names_exists(a_page: Page) -> None:
    assert [f"{rule.__name__}: {fault}" for rule in RULES for fault in rule(a_page)] == []
    for block in a_page.blocks("toml"):
        assert tomllib.loads(block)
        parse(block, a_page.name)


NOTHING_EXISTS = """
[gone](gone.md) and [nowhere](#nowhere) in `docs/gone.md` and `core/gone.py`; it logs `thing_gone`, counts
`spot_gone_total` and takes `--gone`.
```sh
spotinference gone
make gone
python -m tests.gone
```
"""


def test_what_does_not_exist_is_reported_by_each_rule() -> None:
    a_page = Page("docs/test.md", NOTHING_EXISTS)
    assert {rule.__name__ for rule in RULES if not list(rule(a_page))} == set()


def test_the_reference_has_every_command() -> None:
    rows = [quoted(cells[0]) for cells in page("docs/reference/commands.md").rows("## All commands")]
    named = [span.removeprefix("spotinference ").split()[0] for spans in rows for span in spans]
    assert set(COMMANDS) <= set(named)


def test_the_reference_lists_the_commands_that_print_json() -> None:
    listed = page("docs/reference/commands.md").text.partition("These commands take `--json`:")[2].partition("\n\n")[0]
    assert sorted(quoted(listed)) == sorted(json_commands())


def test_the_record_of_dependencies_has_each_of_them() -> None:
    record = page("docs/adr/0002-dependencies.md").text.lower()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(d for group in project["optional-dependencies"].values() for d in group),
    ]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}  # type: ignore[index]  # it has a name
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
def test_command_fault_reports_a_wrong_command(words: str, fault: str | None) -> None:
    assert command_fault(words.split()) == fault
