"""The C programs of the benchmark, compiled into `build/bench/` when their text or the compiler has changed."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent
BUILT = SOURCES.parent / "build" / "bench"
FLAGS = ("-O2", "-Wall", "-Wextra")


class NoCompiler(Exception):
    """There is none, or it refuses the program; its text says which."""


def built(name: str) -> Path:
    """The executable of `bench/NAME.c`."""
    compiler = found()
    texts = [compiler.encode(), *(part.read_bytes() for part in (SOURCES / f"{name}.c", SOURCES / "clock.h"))]
    program = BUILT / f"{name}-{hashlib.sha256(b''.join(texts)).hexdigest()[:16]}"
    if not program.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        partial = program.with_suffix(f".{os.getpid()}")  # two runs may build at once
        words = (compiler, *FLAGS, "-o", str(partial), str(SOURCES / f"{name}.c"))
        told = subprocess.run(words, capture_output=True, text=True, check=False)
        if told.returncode:
            raise NoCompiler(f"{compiler} cannot compile bench/{name}.c:\n{told.stderr[-2000:]}")
        partial.replace(program)
    return program


def found() -> str:
    """`CC` when it is set, else `cc`, `gcc` or `clang`."""
    asked = os.environ.get("CC")
    for compiler in [asked] if asked else ["cc", "gcc", "clang"]:
        if path := shutil.which(compiler):
            return path
    raise NoCompiler(
        f"no C compiler: {f'CC names {asked}, which is not there' if asked else 'neither cc, gcc nor clang is there'}. "
        "The benchmark's engine and load are C programs: install gcc or clang"
    )
