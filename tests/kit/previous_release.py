"""The code of the release before, from the repository's history, for tests that run it beside this one."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

COMMIT = "b2700d83ed7d15fa47815f6de610d81e22b70645"
"""What runs when this release is rolled out. It must do with the same packages."""
PACKAGES = ("services", "shared", "spotinference")
ROOT = Path(__file__).parents[2]


def unpack(commit: str, folder: Path) -> Path:
    """Write the packages of a commit into a folder. A process that starts in it imports them from there."""
    git = ["git", "-C", str(ROOT)]
    if subprocess.run([*git, "rev-parse"], capture_output=True, check=False).returncode:
        pytest.skip("this is no git repository, so it has no release before this one")
    if subprocess.run([*git, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, check=False).returncode:
        pytest.fail(f"commit {commit} is missing: fetch the whole history, with `git fetch --unshallow`")
    packed = subprocess.run([*git, "archive", commit, *PACKAGES], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    for package in PACKAGES:
        script = f"import {package}; print({package}.__file__)"
        imported = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, check=True).stdout
        assert imported.startswith(bytes(folder)), imported
    return folder


@pytest.fixture(scope="session")
def previous_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(COMMIT, tmp_path_factory.mktemp("previous"))
