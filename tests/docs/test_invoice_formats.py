"""`docs/reference/invoice-formats.md` has every format that the tests read, and every column alias."""

from services.billing.core.invoice_files.aws_cur import CUR
from services.billing.core.invoice_files.focus import FOCUS
from services.billing.core.invoice_files.schema import FileSchema
from tests.docs.pages import ROOT, page, quoted

PAGE = page("docs/reference/invoice-formats.md")
FIXTURES = ROOT / "tests" / "cases" / "books" / "vendors"


def columns(schema: FileSchema) -> dict[str, tuple[list[str], str]]:
    return {c.name: (list(c.aliases), "yes" if c.required else "") for c in schema.columns}


def described_columns(heading: str) -> dict[str, tuple[list[str], str]]:
    return {quoted(name)[0]: (quoted(also), required) for name, also, required in PAGE.rows(heading)}


def test_the_page_lists_the_formats_that_are_tested() -> None:
    names = [
        "-".join(filter(None, (provider, form, version))).lower().replace(" ", "-").replace("_", "-")
        for provider, form, versions in PAGE.rows("## Formats")
        for version in quoted(versions) or [""]
    ]
    assert sorted(names) == sorted(path.stem for path in FIXTURES.glob("*.csv"))


def test_the_page_has_every_column_of_focus() -> None:
    assert described_columns("## Columns of FOCUS") == columns(FOCUS)


def test_the_page_has_every_column_of_cur_with_two_names() -> None:
    several = {name: names for name, names in columns(CUR).items() if names[0]}
    assert described_columns("## Columns of CUR 2.0") == several
