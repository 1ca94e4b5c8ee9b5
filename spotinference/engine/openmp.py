"""OpenMP's run-time library, which llama.cpp is linked with: the system's, or else the one in the wheel `simsimd`.

Slim images lack `libgomp.so.1`. The wheel has the library under another name, so a symbolic link gives it the name that
the loader expects, and the process is restarted with the link's folder on the loader's path.
"""

import ctypes
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from shared.errors import Misconfigured
from spotinference.engine.model_file import cache_folder

LIBRARY = "libgomp.so.1"
WHEEL = "simsimd"
"""Half a megabyte, without dependencies, and linked with OpenMP."""
PATH_VARIABLE = "LD_LIBRARY_PATH"


def require_openmp() -> None:
    """Return if this process can load the library; else restart the process with the wheel's library.

    Raises:
        Misconfigured: neither the system nor the wheel has the library; names the fix.
    """
    if is_loadable(LIBRARY):
        return
    library = bundled_library()
    before = os.environ.get(PATH_VARIABLE)
    if library is None or (before and str(_link_folder()) in before.split(os.pathsep)):
        raise Misconfigured(f"the small engine needs {LIBRARY}: on Debian or Ubuntu, `apt-get install libgomp1`")
    folder = _make_link(library)
    path = f"{folder}{os.pathsep}{before}" if before else str(folder)
    environment = {**os.environ, PATH_VARIABLE: path}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - this very program


def is_loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def bundled_library() -> Path | None:
    """Return the wheel's copy, or None if the wheel is not installed or has none."""
    try:
        files = metadata.files(WHEEL) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name.startswith("libgomp")), None)


def _link_folder() -> Path:
    return cache_folder() / "lib"


def _make_link(library: Path) -> Path:
    """Create the link and return its folder. Safe if several processes do so at the same time."""
    folder = _link_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            link = Path(work) / LIBRARY
            link.symlink_to(library.resolve())
            link.replace(folder / LIBRARY)
    except OSError as error:
        raise Misconfigured(f"cannot create a link to {LIBRARY} in {folder}: {error}: set XDG_CACHE_HOME") from error
    return folder
