"""A wheel has every file that the code reads, not its modules alone: an editable install would hide what is missing."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("services", "shared", "spotinference")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def test_wheel_has_every_file_of_its_packages(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "wheel"
    target.mkdir()
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(target)], cwd=source, check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = {path.relative_to(source).as_posix() for name in PACKAGES for path in (source / name).rglob("*.*")}
    missing = sorted(name for name in files - packed if not (source / name).is_dir())
    assert [name for name in missing if not name.startswith("build/")] == []
    kinds = {Path(name).suffix for name in packed if name.startswith("services/site/")}
    assert kinds >= {".css", ".js", ".html", ".svg", ".md", ".py"}
