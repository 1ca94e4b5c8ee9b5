"""The keys of engines, from files that change while they are in use."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.config.load import parse
from shared.config.sections import Config
from shared.engine_keys import EngineKeys
from shared.errors import Misconfigured


def config(tier: Path, machine: Path | None = None) -> Config:
    own = f'key_file = "{machine}"\n' if machine else ""
    return parse(
        f"""
[[tier]]
name = "far"
provider = "static"
key_file = "{tier}"
[[machine]]
id = "m1"
tier = "far"
endpoint = "http://10.0.0.1:8000"
[[machine]]
id = "m2"
tier = "far"
endpoint = "http://10.0.0.2:8000"
{own}""",
        "f",
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text("sk-first\n")
    return tmp_path / "key"


def replace(path: Path, text: str) -> None:
    """Replace the file as a mounted secret is replaced: by a rename."""
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


def find(keys: EngineKeys, machine: int = 1) -> str | None:
    return keys.find(f"m{machine}", f"http://10.0.0.{machine}:8000")


def test_a_changed_file_is_read_again_and_its_key_never_logged(path: Path) -> None:
    clock = Clock()
    keys = EngineKeys(config(path), clock)
    replace(path, "sk-other\n")
    assert find(keys) == "sk-first", "not yet: one look a second"
    clock.now += 1
    with capture_logs() as logs:
        assert [find(keys, 1), find(keys, 2)] == ["sk-other"] * 2
    assert [line["event"] for line in logs] == ["secret_file_reread"]
    assert "sk-" not in f"{logs}{keys._keys}"


@pytest.mark.parametrize("text", [None, "", "two words"])
def test_the_key_stays_while_the_file_has_none(path: Path, text: str | None) -> None:
    clock = Clock()
    keys = EngineKeys(config(path), clock)
    if text is None:
        path.unlink()
    else:
        replace(path, text)
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += 1
            assert find(keys) == "sk-first"
    assert [line["event"] for line in logs] == ["secret_file_rejected"], "said once"
    assert str(path) in logs[0]["reason"]
    replace(path, "sk-other")
    clock.now += 1
    assert find(keys) == "sk-other"


def test_a_machine_s_own_file_comes_before_its_tier_s(path: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("sk-own")
    keys = EngineKeys(config(path, own))
    assert [find(keys, 1), find(keys, 2)] == ["sk-first", "sk-own"]


def test_an_update_that_names_no_key_is_rejected_and_changes_nothing(path: Path, tmp_path: Path) -> None:
    keys = EngineKeys(config(path))
    with pytest.raises(Misconfigured, match="machine 'm2': key_file"):
        keys.update(config(path, tmp_path / "missing"))
    assert find(keys, 2) == "sk-first"
    own = tmp_path / "own"
    own.write_text("sk-own")
    keys.update(config(path, own))
    assert find(keys, 2) == "sk-own"
