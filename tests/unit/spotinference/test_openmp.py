"""OpenMP's library comes out of a wheel where the system has none, and otherwise the fix is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import Misconfigured
from spotinference.engine import openmp

WITHOUT_THE_SYSTEM_S = """
import os
from spotinference.engine import openmp
if openmp.PATH_VARIABLE not in os.environ:
    openmp.is_loadable = lambda library: False
openmp.require_openmp()
import xllamacpp
print(*{line.split()[-1] for line in open("/proc/self/maps") if "gomp" in line})
"""


def test_the_engine_loads_the_wheel_s_library_when_the_system_has_none(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop(openmp.PATH_VARIABLE, None)
    words = [sys.executable, "-c", WITHOUT_THE_SYSTEM_S]
    for _ in range(2):  # the link is there the second time
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        library = openmp.bundled_library()
        assert library is not None
        assert done.stdout.strip() == str(library.resolve())


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openmp, "is_loadable", lambda _library: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(openmp.PATH_VARIABLE, raising=False)


@pytest.mark.usefixtures("no_library")
def test_the_fix_is_named_when_the_wheel_has_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "WHEEL", "no-such-wheel")
    with pytest.raises(Misconfigured, match="apt-get install libgomp1"):
        openmp.require_openmp()


@pytest.mark.usefixtures("no_library")
def test_a_library_that_does_not_load_is_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(openmp.PATH_VARIABLE, f"/elsewhere{os.pathsep}{tmp_path / 'spotinference' / 'lib'}")
    with pytest.raises(Misconfigured, match="apt-get install libgomp1"):
        openmp.require_openmp()
