"""The documentation's pictures of the site: each is there, small, and of a page that the tests of the pages load."""

import re

from tests.docs.pages import ROOT
from tests.integration.site.pages import OPERATOR, PUBLIC, USER
from tests.integration.site.screenshots import IMAGES, MOST_BYTES, PICTURES

IMAGE = re.compile(r"!\[[^\]]+\]\(([^)]+)\)")


def test_every_picture_is_shown_and_of_a_page_that_exists() -> None:
    shown = {
        (page.parent / link).resolve()
        for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
        for link in IMAGE.findall(page.read_text("utf-8"))
    }
    made = {(IMAGES / f"{name}.webp").resolve() for name in PICTURES}
    assert shown == made == set(IMAGES.resolve().iterdir()), "run `make pictures`"
    assert [path.name for path in made if path.stat().st_size > MOST_BYTES] == []
    assert {picture.path for picture in PICTURES.values()} <= {*PUBLIC, *USER, *OPERATOR}
