"""The revisions that a service reads from the text of its migration scripts are those that Alembic runs."""

from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from services.billing.adapters import schema as books
from services.meter.adapters import schema as ledger
from services.site.adapters import schema as site
from shared.schema import revisions_of


@pytest.mark.parametrize("scripts", [books.MIGRATIONS, ledger.MIGRATIONS, site.MIGRATIONS])
def test_revisions_are_those_that_alembic_runs(scripts: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(scripts))
    newest_first = list(ScriptDirectory.from_config(config).walk_revisions())
    breaking = [one.revision for one in newest_first if not getattr(one.module, "additive", False)]
    revisions = revisions_of(scripts)
    assert len(newest_first) == len(list((scripts / "versions").glob("*.py")))
    assert revisions.head == newest_first[0].revision
    assert revisions.required == breaking[0]
    assert revisions.known == {one.revision for one in newest_first}


@pytest.mark.timeout(5)
def test_copied_script_with_the_revision_of_its_original_ends_the_reading(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    for name, after in (("0001", None), ("0002", "0001"), ("0002", "0002")):
        (tmp_path / f"versions/{name}_after_{after}.py").write_text(f"revision = {name!r}\ndown_revision = {after!r}\n")
    assert revisions_of(tmp_path).known == {"0001", "0002"}
